// Runs a command to its end. Its output is collected by the addon: one call to begin it, one event at its end.
import type { ExecutedStep, RunResult } from '../index.js'
import { abortError, makeError, maxBufferError } from './errors.ts'
import { type Launched, type News, native } from './native.ts'
import { listenToChild, listenToContainer, Reference } from './news.ts'
import { type Collection, type Control, signalName, signalNumber } from './options.ts'
import type { Place } from './process.ts'

/** A command that has just been begun. */
export interface Begun {
  launched: Launched
  place: Place
  control: Control
  collection: Collection
  locate: (error: Error) => Error
  onStep?: ((step: ExecutedStep) => void) | undefined
  /** The time of the call. */
  begin: bigint
}

/** The result of a command, when all of it is over. */
export function finish(begun: Begun): Promise<RunResult<string | Buffer>> {
  const { launched, place, control, onStep } = begun
  const { signal, timeout, killSignal } = control
  if (signal && launched.id === 0) {
    return Promise.reject(begun.locate(abortError(signal)))
  }
  const reference = new Reference()
  let timedOut = false
  let aborted = false
  const kill = () => {
    const [container, child] = place.kind === 'first' ? [launched.id, 0] : [place.container, launched.id]
    if (killSignal === 'SIGKILL' && place.kind === 'first') {
      native.close(container)
    } else {
      native.kill(container, child, signalNumber(killSignal, 'killSignal'))
    }
  }
  const timer =
    timeout === undefined
      ? undefined
      : setTimeout(() => {
          timedOut = true
          kill()
        }, timeout)
  const abort = () => {
    aborted = true
    kill()
  }
  signal?.addEventListener('abort', abort, { once: true })
  return new Promise((resolve, reject) => {
    const listen = place.kind === 'first' ? listenToContainer : listenToChild
    const unlisten = listen(launched.id, (news) => {
      if (news.kind === 'step') {
        for (const step of news.steps ?? []) {
          onStep?.(step)
        }
        return
      }
      if (news.kind !== 'finished') {
        return
      }
      unlisten()
      reference.release()
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
      try {
        resolve(result(begun, news, timedOut, aborted))
      } catch (error) {
        reject(begun.locate(error as Error))
      }
    })
  })
}

function result(begun: Begun, news: News, timedOut: boolean, aborted: boolean): RunResult<string | Buffer> {
  const { collection, control, begin } = begun
  if (aborted && control.signal) {
    throw abortError(control.signal)
  }
  if (news.error && !timedOut) {
    throw makeError(news.error)
  }
  if (news.overflow) {
    throw maxBufferError(news.overflow)
  }
  const text = (bytes: Buffer = Buffer.alloc(0)) =>
    collection.encoding === 'buffer' ? bytes : bytes.toString(collection.encoding)
  const signal = news.signal === undefined ? null : signalName(news.signal)
  return {
    exitCode: news.exitCode ?? null,
    // Killed before it began, it has ended by the signal all the same.
    signal: news.error ? 'SIGKILL' : signal,
    timedOut,
    stdout: text(news.stdout),
    stderr: text(news.stderr),
    durationUs: Number(process.hrtime.bigint() - begin) / 1000,
    skipped: news.skipped ?? [],
    warnings: news.warnings ?? [],
  }
}
