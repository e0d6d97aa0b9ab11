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
} from '../index.js'
import { configText, readBundle } from './config.ts'
import { watched } from './diagnostics.ts'
import { callSite, RootfsError } from './errors.ts'
import { addHook, hooksOf } from './hooks.ts'
import { inspectRootfs, type Options } from './inspect.ts'
import { type Launched, native } from './native.ts'
import { isAborted, launchOptions, prepareOptions, runOptions } from './options.ts'
import { Plan } from './plan.ts'
import { type PreparedRootfs, waitUntilPrepared } from './prepared.ts'
import { ContainerProcess, commandLine } from './process.ts'
import { finish } from './run.ts'

/** A command that is a container's first process. */
const FIRST = { kind: 'first' } as const

/** What the addon made, as this class. */
function own(made: object): Rootfs {
  return Object.setPrototypeOf(made, Rootfs.prototype) as Rootfs
}

/** The arguments of `run` and `spawn`: a command with its arguments and options, or options alone. */
function commandArguments<T>(
  first: unknown,
  args: readonly string[] | undefined,
  options: T | undefined,
): [unknown, readonly string[] | undefined, T | undefined] {
  if (typeof first === 'object' && first !== null && !(first instanceof Uint8Array)) {
    return [undefined, undefined, first as T]
  }
  return [first, args, options]
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
    return Object.setPrototypeOf(native.Rootfs.overlay(options), Rootfs.prototype) as Rootfs
  }

  [inspect.custom](depth: number, options: Options): string {
    return inspectRootfs(() => this.facts(), depth, options)
  }

  plan(): Plan {
    const { steps, warnings, text } = this.makePlan()
    return new Plan(steps, warnings, text)
  }

  async prepare(options?: PrepareOptions): Promise<PreparedRootfs> {
    const locate = callSite(this.prepare)
    const preparation = prepareOptions(options)
    const aborted = isAborted(preparation.signal)
    const hooks = hooksOf(this)
    const launched = native.prepare(this, preparation.native, aborted)
    hooks?.watch(launched.id)
    return waitUntilPrepared(launched, preparation, locate)
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
    const begin = performance.now()
    try {
      const [command, args, options] = commandArguments(first, second, third)
      const { encoding, collect, spawn } = runOptions(options)
      const { control, preparation, native: rest } = launchOptions(spawn)
      const { onStep, native: toPrepare } = preparation
      const aborted = isAborted(control.signal)
      const hooks = hooksOf(this)
      const launched = native.launch(this, command, args, rest, toPrepare, collect, aborted)
      hooks?.watch(launched.id)
      // What takes time is done when the container is on its way.
      const locate = callSite(this.run)
      return finish({ launched, place: FIRST, control, encoding, locate, onStep, begin })
    } catch (error) {
      return Promise.reject(error)
    }
  }

  spawn(command: string, args?: readonly string[], options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(
    first?: string | (SpawnOptions & PrepareOptions),
    second?: readonly string[],
    third?: SpawnOptions & PrepareOptions,
  ): ContainerProcess {
    const locate = callSite(this.spawn)
    const [command, args, options] = commandArguments(first, second, third)
    const { control, preparation, native: rest } = launchOptions(options)
    const hooks = hooksOf(this)
    const launch = (aborted: boolean) =>
      native.launch(this, command, args, rest, preparation.native, undefined, aborted)
    let launched: Launched
    let failure: RootfsError | undefined
    try {
      launched = launch(isAborted(control.signal))
    } catch (error) {
      // A wrong argument is thrown. What the system refuses is an event, now or later.
      if (!(error instanceof RootfsError)) {
        throw error
      }
      failure = error
      launched = launch(true)
    }
    hooks?.watch(launched.id)
    return new ContainerProcess(
      launched,
      command === undefined ? (this.configuredArgs() ?? []) : commandLine(command, args),
      FIRST,
      control,
      locate,
      preparation.onStep,
      failure,
    )
  }
}

Rootfs.prototype.prepare = watched('prepare', 'rootfs', Rootfs.prototype.prepare)
Rootfs.prototype.run = watched('run', 'rootfs', Rootfs.prototype.run)
Rootfs.prototype.spawn = watched('spawn', 'rootfs', Rootfs.prototype.spawn)
