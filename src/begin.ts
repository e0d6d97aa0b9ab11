// What begins containers: from a builder, or from a template, whose builder is then its snapshot.
import type { PrepareOptions, RunOptions, RunResult, SpawnOptions } from '../index.js'
import { callSite, RootfsError } from './errors.ts'
import { hooksOf } from './hooks.ts'
import { type Launched, type NativeRootfs, native } from './native.ts'
import { isAborted, launchOptions, prepareOptions, runOptions } from './options.ts'
import { PreparedRootfs, waitUntilReady } from './prepared.ts'
import { ContainerProcess, commandLine } from './process.ts'
import { finish } from './run.ts'

/** A builder, and the number of the template's keeper if it is one's. */
export interface Origin {
  rootfs: NativeRootfs
  template: number | undefined
}

/** A command that is a container's first process. */
const FIRST = { kind: 'first' } as const

/** The arguments of `run` and `spawn`: a command with its arguments and options, or options alone. */
type CommandArguments<T> = [unknown, readonly string[] | undefined, T | undefined]

export function commandArguments<T>(
  first: unknown,
  args: readonly string[] | undefined,
  options: T | undefined,
): CommandArguments<T> {
  if (typeof first === 'object' && first !== null && !(first instanceof Uint8Array)) {
    return [undefined, undefined, first as T]
  }
  return [first, args, options]
}

export async function prepare(
  { rootfs, template }: Origin,
  options: PrepareOptions | undefined,
  locate: (error: Error) => Error,
): Promise<PreparedRootfs> {
  const preparation = prepareOptions(options)
  const aborted = isAborted(preparation.signal)
  const hooks = hooksOf(rootfs)
  const launched = native.prepare(rootfs, preparation.native, aborted, template)
  hooks?.watch(launched.id)
  return new PreparedRootfs(launched.id, await waitUntilReady(launched, preparation, locate))
}

/** `below` is the function that the call site is looked for below. */
export function run(
  { rootfs, template }: Origin,
  [command, args, options]: CommandArguments<RunOptions & PrepareOptions>,
  below: (...args: never[]) => unknown,
): Promise<RunResult<string | Buffer>> {
  const begin = performance.now()
  try {
    const { encoding, collect, spawn } = runOptions(options)
    const { control, preparation, native: rest } = launchOptions(spawn)
    const { onStep, native: toPrepare } = preparation
    const aborted = isAborted(control.signal)
    const hooks = hooksOf(rootfs)
    const launched = native.launch(rootfs, command, args, rest, toPrepare, collect, aborted, template)
    hooks?.watch(launched.id)
    // What takes time is done when the container is on its way.
    const locate = callSite(below)
    return finish({ launched, place: FIRST, control, encoding, locate, onStep, begin })
  } catch (error) {
    return Promise.reject(error)
  }
}

export function spawn(
  { rootfs, template }: Origin,
  [command, args, options]: CommandArguments<SpawnOptions & PrepareOptions>,
  locate: (error: Error) => Error,
): ContainerProcess {
  const { control, preparation, native: rest } = launchOptions(options)
  const hooks = hooksOf(rootfs)
  const launch = (aborted: boolean) =>
    native.launch(rootfs, command, args, rest, preparation.native, undefined, aborted, template)
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
    command === undefined ? (rootfs.configuredArgs() ?? []) : commandLine(command, args),
    FIRST,
    control,
    locate,
    preparation.onStep,
    failure,
  )
}
