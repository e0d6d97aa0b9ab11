// Runs a command to its end. Its output is collected by the addon: one call to begin it, one event at its end.
import { constants } from 'node:os'
import type { ExecutedStep, RunResult } from '../index.js'
import { abortError, makeError, maxBufferError } from './errors.ts'
import { type Launched, type News, native } from './native.ts'
import { closeContainer, listenToChild, listenToContainer, Reference } from './news.ts'
import { type Control, NO_CONTROL, signalName } from './options.ts'
import type { Place } from './process.ts'

const { SIGKILL } = constants.signals

/** A command that has just been begun. */
export interface Begun {
  launched: Launched
  place: Place
  control: Control
  encoding: BufferEncoding | 'buffer'
  /** Has an error say where the call was. */
  locate: (error: Error) => Error
  onStep?: ((step: ExecutedStep) => void) | undefined
  /** The time of the call, in milliseconds. */
  begin: number
}

/** Why a command was ended before its own end. */
type Ended = 'timeout' | 'abort' | undefined

/** The result of a command, when all of it is over. */
export function finish(begun: Begun): Promise<RunResult<string | Buffer>> {
  const { launched, place, control, locate, onStep } = begun
  if (control.signal && launched.id === 0) {
    return Promise.reject(locate(abortError(control.signal)))
  }
  return new Promise((resolve, reject) => {
    const reference = new Reference()
    const limit = control === NO_CONTROL ? undefined : new Limit(begun)
    const listen = place.kind === 'first' ? listenToContainer : listenToChild
    const unlisten = listen(launched.id, (news) => {
      if (news.kind === 'finished') {
        unlisten()
        reference.release()
        limit?.lift()
        try {
          resolve(result(begun, news, limit?.why))
        } catch (error) {
          reject(locate(error as Error))
        }
      } else if (news.kind === 'step') {
        for (const step of news.steps ?? []) {
          onStep?.(step)
        }
      }
    })
  })
}

/** What may end a command before its own end: a time, or a signal. */
class Limit {
  why: Ended
  readonly #begun: Begun
  readonly #timer: NodeJS.Timeout | undefined
  readonly #abort = () => this.#stop('abort')

  constructor(begun: Begun) {
    this.#begun = begun
    const { signal, timeout } = begun.control
    signal?.addEventListener('abort', this.#abort, { once: true })
    this.#timer = timeout === undefined ? undefined : setTimeout(() => this.#stop('timeout'), timeout)
  }

  /** The command has ended. */
  lift(): void {
    clearTimeout(this.#timer)
    this.#begun.control.signal?.removeEventListener('abort', this.#abort)
  }

  #stop(why: Ended): void {
    this.why ??= why
    stop(this.#begun)
  }
}

function stop({ launched, place, control: { killSignal } }: Begun): void {
  if (place.kind === 'child') {
    native.end(place.container, launched.id, killSignal)
  } else if (killSignal === SIGKILL || !native.end(launched.id, 0, killSignal)) {
    // There is no command yet, or it can't be reached: what is there is ended.
    closeContainer(launched.id)
  }
}

const nothing = Buffer.alloc(0)

function result(begun: Begun, news: News, ended: Ended): RunResult<string | Buffer> {
  const { encoding, control, begin } = begun
  if (ended === 'abort' && control.signal) {
    throw abortError(control.signal)
  }
  const timedOut = ended === 'timeout'
  if (news.error && !timedOut) {
    throw makeError(news.error)
  }
  const text = (bytes: Buffer = nothing) => (encoding === 'buffer' ? bytes : bytes.toString(encoding))
  if (news.overflow) {
    throw maxBufferError(news.overflow, { stdout: text(news.stdout), stderr: text(news.stderr) })
  }
  const signal = news.signal === undefined ? null : signalName(news.signal)
  return {
    exitCode: news.exitCode ?? null,
    // Killed before it began, it has ended by the signal all the same.
    signal: news.error ? 'SIGKILL' : signal,
    timedOut,
    stdout: text(news.stdout),
    stderr: text(news.stderr),
    durationUs: (performance.now() - begin) * 1000,
    skipped: news.skipped ?? [],
    warnings: news.warnings ?? [],
  }
}
