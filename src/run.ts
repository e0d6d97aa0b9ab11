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
  /** Has an error say where the call was. */
  locate: (error: Error) => Error
  onStep?: ((step: ExecutedStep) => void) | undefined
  /** The time of the call, in milliseconds. */
  begin: number
}

/** Why a command was ended before its own end. */
type Ended = 'timeout' | 'abort' | undefined

/** The result of a command, when all of it is over. */
export async function finish(begun: Begun): Promise<RunResult<string | Buffer>> {
  const { launched, control, locate } = begun
  if (control.signal && launched.id === 0) {
    throw locate(abortError(control.signal))
  }
  const reference = new Reference()
  let ended: Ended
  const kill = (why: Ended) => {
    ended ??= why
    stop(begun)
  }
  const { signal, timeout } = control
  const timer = timeout === undefined ? undefined : setTimeout(kill, timeout, 'timeout')
  const abort = signal && (() => kill('abort'))
  if (abort) {
    signal.addEventListener('abort', abort, { once: true })
  }
  const news = await over(begun)
  reference.release()
  clearTimeout(timer)
  if (abort) {
    signal.removeEventListener('abort', abort)
  }
  return result(begun, news, ended)
}

function stop({ launched, place, control: { killSignal } }: Begun): void {
  const [container, child] = place.kind === 'first' ? [launched.id, 0] : [place.container, launched.id]
  if (killSignal === 'SIGKILL' && place.kind === 'first') {
    native.close(container)
  } else {
    native.kill(container, child, signalNumber(killSignal, 'killSignal'))
  }
}

/** The news that all is over. */
function over({ launched, place, onStep }: Begun): Promise<News> {
  return new Promise((resolve) => {
    const listen = place.kind === 'first' ? listenToContainer : listenToChild
    const unlisten = listen(launched.id, (news) => {
      if (news.kind === 'finished') {
        unlisten()
        resolve(news)
      } else if (news.kind === 'step') {
        for (const step of news.steps ?? []) {
          onStep?.(step)
        }
      }
    })
  })
}

const nothing = Buffer.alloc(0)

function result(begun: Begun, news: News, ended: Ended): RunResult<string | Buffer> {
  const { collection, control, begin, locate } = begun
  if (ended === 'abort' && control.signal) {
    throw locate(abortError(control.signal))
  }
  const timedOut = ended === 'timeout'
  if (news.error && !timedOut) {
    throw locate(makeError(news.error))
  }
  if (news.overflow) {
    throw locate(maxBufferError(news.overflow))
  }
  const { encoding } = collection
  const text = (bytes: Buffer = nothing) => (encoding === 'buffer' ? bytes : bytes.toString(encoding))
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
