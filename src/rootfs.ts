// The builder, with what begins containers from it.
import type {
  OverlayRootOptions,
  PathLike,
  PrepareOptions,
  RunOptions,
  RunResult,
  SpawnOptions,
} from '../index.js'
import { callSite } from './errors.ts'
import { native } from './native.ts'
import { isAborted, launchOptions, prepareOptions, runOptions } from './options.ts'
import { Plan } from './plan.ts'
import { type PreparedRootfs, waitUntilPrepared } from './prepared.ts'
import { ContainerProcess } from './process.ts'
import { finish } from './run.ts'

/** A command that is a container's first process. */
const FIRST = { kind: 'first' } as const

export class Rootfs extends native.Rootfs {
  constructor(directory: PathLike) {
    super(directory)
  }

  static override empty(options?: object): Rootfs {
    return Object.setPrototypeOf(native.Rootfs.empty(options), Rootfs.prototype) as Rootfs
  }

  static override overlay(options: OverlayRootOptions): Rootfs {
    return Object.setPrototypeOf(native.Rootfs.overlay(options), Rootfs.prototype) as Rootfs
  }

  plan(): Plan {
    const { steps, warnings, text } = this.makePlan()
    return new Plan(steps, warnings, text)
  }

  async prepare(options?: PrepareOptions): Promise<PreparedRootfs> {
    const locate = callSite(this.prepare)
    const preparation = prepareOptions(options)
    const aborted = isAborted(preparation.signal)
    return waitUntilPrepared(native.prepare(this, preparation.native, aborted), preparation, locate)
  }

  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & PrepareOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions & PrepareOptions): Promise<RunResult>
  run(
    command: string,
    args?: readonly string[],
    options?: RunOptions & PrepareOptions,
  ): Promise<RunResult<string | Buffer>> {
    const begin = performance.now()
    const locate = callSite(this.run)
    try {
      const { encoding, collect, spawn } = runOptions(options)
      const { control, preparation, native: rest } = launchOptions(spawn)
      const { onStep, native: toPrepare } = preparation
      const aborted = isAborted(control.signal)
      const launched = native.launch(this, command, args, rest, toPrepare, collect, aborted)
      return finish({ launched, place: FIRST, control, encoding, locate, onStep, begin })
    } catch (error) {
      return Promise.reject(error)
    }
  }

  spawn(
    command: string,
    args?: readonly string[],
    options?: SpawnOptions & PrepareOptions,
  ): ContainerProcess {
    const locate = callSite(this.spawn)
    const { control, preparation, native: rest } = launchOptions(options)
    const launched = native.launch(
      this,
      command,
      args,
      rest,
      preparation.native,
      undefined,
      isAborted(control.signal),
    )
    return new ContainerProcess(launched, FIRST, control, locate, preparation.onStep)
  }
}
