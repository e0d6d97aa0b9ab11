// The builder, with what begins containers from it.
import { inspect } from 'node:util'
import type {
  HookFunction,
  HookPoint,
  OciHook,
  OciSpec,
  OverlayRootOptions,
  PathLike,
  PrepareOptions,
  RunOptions,
  RunResult,
  SpawnOptions,
  SpecOptions,
  TemplateOptions,
} from '../index.js'
import { commandArguments, prepare, run, spawn } from './begin.ts'
import { configText, readBundle } from './config.ts'
import { watched } from './diagnostics.ts'
import { callSite } from './errors.ts'
import { addHook, copyHooks } from './hooks.ts'
import { inspectRootfs, type Options } from './inspect.ts'
import { native } from './native.ts'
import { isAborted, templateOptions } from './options.ts'
import { Plan } from './plan.ts'
import { type PreparedRootfs, waitUntilReady } from './prepared.ts'
import type { ContainerProcess } from './process.ts'
import { RootfsTemplate } from './template.ts'

/** What the addon made, as this class. */
function own(made: object): Rootfs {
  return Object.setPrototypeOf(made, Rootfs.prototype) as Rootfs
}

export class Rootfs extends native.Rootfs {
  constructor(directory: PathLike) {
    super(directory)
  }

  static override empty(options?: object): Rootfs {
    return own(native.Rootfs.empty(options))
  }

  static override async fromBundle(directory: PathLike, options?: SpecOptions): Promise<Rootfs> {
    const locate = callSite(Rootfs.fromBundle)
    try {
      const { bundle, config } = await readBundle(directory)
      return own(native.Rootfs.fromBundle(bundle, options, config))
    } catch (error) {
      throw locate(error as Error)
    }
  }

  static override fromSpec(spec: OciSpec, options?: SpecOptions & { bundle?: PathLike }): Rootfs {
    return own(native.Rootfs.fromSpec(configText(spec), options))
  }

  toSpec(): OciSpec {
    return JSON.parse(this.makeSpec()) as OciSpec
  }

  override hook(when: HookPoint, hook: OciHook): this
  override hook(when: 'prestart' | 'createRuntime' | 'poststart' | 'poststop', hook: HookFunction): this
  override hook(when: HookPoint, hook: OciHook | HookFunction): this {
    if (typeof hook === 'function') {
      addHook(this, when, hook)
      return this
    }
    return super.hook(when, hook)
  }

  static override overlay(options: OverlayRootOptions): Rootfs {
    return own(native.Rootfs.overlay(options))
  }

  [inspect.custom](depth: number, options: Options): string {
    return inspectRootfs(() => this.facts(), depth, options)
  }

  plan(): Plan {
    const { steps, warnings, text } = this.makePlan()
    return new Plan(steps, warnings, text)
  }

  prepare(options?: PrepareOptions): Promise<PreparedRootfs> {
    return prepare({ rootfs: this, template: undefined }, options, callSite(this.prepare))
  }

  async template(options?: TemplateOptions): Promise<RootfsTemplate> {
    const locate = callSite(this.template)
    const preparation = templateOptions(options)
    // What is said of the builder later is not said of the template.
    const builder = own(this.snapshot())
    copyHooks(this, builder)
    const launched = native.keep(builder, preparation.native, isAborted(preparation.signal))
    return new RootfsTemplate(builder, launched.id, await waitUntilReady(launched, preparation, locate))
  }

  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & PrepareOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions & PrepareOptions): Promise<RunResult>
  run(options: RunOptions & PrepareOptions & { encoding: 'buffer' }): Promise<RunResult<Buffer>>
  run(options?: RunOptions & PrepareOptions): Promise<RunResult>
  run(
    first?: string | (RunOptions & PrepareOptions),
    second?: readonly string[],
    third?: RunOptions & PrepareOptions,
  ): Promise<RunResult<string | Buffer>> {
    return run({ rootfs: this, template: undefined }, commandArguments(first, second, third), this.run)
  }

  spawn(command: string, args?: readonly string[], options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(
    first?: string | (SpawnOptions & PrepareOptions),
    second?: readonly string[],
    third?: SpawnOptions & PrepareOptions,
  ): ContainerProcess {
    const origin = { rootfs: this, template: undefined }
    return spawn(origin, commandArguments(first, second, third), callSite(this.spawn))
  }
}

Rootfs.prototype.prepare = watched('prepare', 'rootfs', Rootfs.prototype.prepare)
Rootfs.prototype.run = watched('run', 'rootfs', Rootfs.prototype.run)
Rootfs.prototype.spawn = watched('spawn', 'rootfs', Rootfs.prototype.spawn)
