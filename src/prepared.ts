// A prepared root filesystem: commands can be started in it until it is closed.
import { inspect } from 'node:util'
import type {
  ExecutedStep,
  MountInfo,
  PreparedRootfs as Public,
  RunOptions,
  RunResult,
  SpawnOptions,
  Step,
  Warning,
} from '../index.js'
import { watched } from './diagnostics.ts'
import { abortError, callSite, makeError, RootfsError } from './errors.ts'
import { inspectPrepared, type Options } from './inspect.ts'
import { type Launched, type News, native } from './native.ts'
import { closeContainer, listenToChild, listenToContainer, Reference } from './news.ts'
import { isAborted, type Preparation, runOptions, spawnOptions } from './options.ts'
import { ContainerProcess, commandLine } from './process.ts'
import { finish } from './run.ts'

/** Waits until a container is prepared, or a template made: the news of that. */
export async function waitUntilReady(
  launched: Launched,
  preparation: Preparation,
  locate: (error: Error) => Error,
): Promise<News> {
  const { signal, onStep } = preparation
  if (signal && launched.id === 0) {
    throw locate(abortError(signal))
  }
  const reference = new Reference()
  let aborted = false
  const abort = () => {
    aborted = true
    closeContainer(launched.id)
  }
  signal?.addEventListener('abort', abort, { once: true })
  let unlisten = () => {}
  const outcome = await new Promise<News>((resolve) => {
    let failure: News | undefined
    unlisten = listenToContainer(launched.id, (news) => {
      if (news.kind === 'step') {
        for (const step of news.steps ?? []) {
          onStep?.(step)
        }
      } else if (news.kind === 'ready' && !aborted) {
        resolve(news)
      } else if (news.kind === 'error') {
        failure = news
      } else if (news.kind === 'closed') {
        // A failure is told when all of it is undone.
        resolve(failure ?? news)
      }
    })
  })
  unlisten()
  signal?.removeEventListener('abort', abort)
  reference.release()
  if (aborted && signal) {
    throw locate(abortError(signal))
  }
  if (outcome.kind === 'ready') {
    return outcome
  }
  throw locate(outcome.error ? makeError(outcome.error) : closedError())
}

function closedError(): RootfsError {
  return new RootfsError({
    code: 'ERR_ROOTFS_CLOSED',
    message: 'the prepared root filesystem has been closed',
  })
}

export class PreparedRootfs implements Public {
  readonly pid: number
  readonly steps: readonly ExecutedStep[]
  readonly skipped: readonly Step[]
  #warnings: readonly Warning[]
  readonly #id: number
  readonly #commands = new Set<ContainerProcess>()
  /** The first process has ended. */
  #ended = false
  #closing: Promise<void> | undefined
  readonly #whenClosed: Promise<void>

  constructor(id: number, ready: News) {
    this.#id = id
    this.pid = ready.pid ?? 0
    this.steps = ready.steps ?? []
    this.skipped = ready.skipped ?? []
    this.#warnings = ready.warnings ?? []
    this.#whenClosed = new Promise((resolve) => {
      const unlisten = listenToContainer(id, (news) => {
        if (news.kind === 'exit' || news.kind === 'error') {
          this.#ended = true
        } else if (news.kind === 'closed') {
          this.#ended = true
          this.#warnings = [...this.#warnings, ...(news.warnings ?? [])]
          unlisten()
          resolve()
        }
      })
    })
  }

  get warnings(): readonly Warning[] {
    return this.#warnings
  }

  async mounts(): Promise<MountInfo[]> {
    const locate = callSite(this.mounts)
    this.#check()
    const request = native.mounts(this.#id)
    const reference = new Reference()
    const news = await new Promise<News>((resolve) => {
      const unlisten = listenToChild(request, (answer) => {
        unlisten()
        resolve(answer)
      })
    })
    reference.release()
    if (news.mounts) {
      return news.mounts
    }
    throw locate(news.error ? makeError(news.error) : closedError())
  }

  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions): Promise<RunResult>
  async run(
    command: string,
    args?: readonly string[],
    options?: RunOptions,
  ): Promise<RunResult<string | Buffer>> {
    const begin = performance.now()
    this.#check()
    const { encoding, collect, spawn } = runOptions(options)
    const { control, native: rest } = spawnOptions(spawn)
    const aborted = isAborted(control.signal)
    const launched = native.spawn(this.#id, command, args, rest, collect, aborted)
    const locate = callSite(this.run)
    const place = { kind: 'child', container: this.#id } as const
    return finish({ launched, place, control, encoding, locate, begin })
  }

  spawn(command: string, args?: readonly string[], options?: SpawnOptions): ContainerProcess {
    const locate = callSite(this.spawn)
    const { control, native: rest } = spawnOptions(options)
    const launch = (aborted: boolean) => native.spawn(this.#id, command, args, rest, undefined, aborted)
    let launched: Launched
    let failure: Error | undefined
    try {
      this.#check()
      launched = launch(isAborted(control.signal))
    } catch (error) {
      // As `Rootfs.spawn` has it: a wrong argument is thrown, and anything else is an event.
      if (!(error instanceof RootfsError)) {
        throw error
      }
      failure = locate(error)
      launched = launch(true)
    }
    const words = commandLine(command, args)
    const place = { kind: 'child', container: this.#id } as const
    const child = new ContainerProcess(launched, words, place, control, locate, undefined, failure)
    this.#commands.add(child)
    child.once('close', () => this.#commands.delete(child))
    return child
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const reference = new Reference()
    closeContainer(this.#id)
    await this.#whenClosed
    reference.release()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #check(): void {
    if (this.#ended || this.#closing) {
      throw closedError()
    }
  }

  [inspect.custom](depth: number, options: Options): string {
    const state = this.#closing ? 'closed' : this.#ended ? 'ended' : 'open'
    return inspectPrepared(
      { ...this, state, warnings: this.#warnings, commands: this.#commands.size },
      depth,
      options,
    )
  }
}

PreparedRootfs.prototype.run = watched('run', 'prepared', PreparedRootfs.prototype.run)
PreparedRootfs.prototype.spawn = watched('spawn', 'prepared', PreparedRootfs.prototype.spawn)
