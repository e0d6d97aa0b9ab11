// A command in a container, in the shape and with the events of node:child_process.
import { EventEmitter } from 'node:events'
import { Socket } from 'node:net'
import { constants } from 'node:os'
import type { Duplex, Readable, Writable } from 'node:stream'
import { inspect } from 'node:util'
import type {
  ContainerProcessEvents,
  ExecutedStep,
  ContainerProcess as Public,
  Step,
  Warning,
} from '../index.js'
import { abortError, makeError } from './errors.ts'
import { inspectProcess, type Options } from './inspect.ts'
import { type Launched, type News, native } from './native.ts'
import { closeContainer, listenToChild, listenToContainer, Reference } from './news.ts'
import { type Control, signalName, signalNumber } from './options.ts'

/** What a command is: the first process of a container of its own, or one more in a prepared one. */
export type Place = { kind: 'first' } | { kind: 'child'; container: number }

/** What is known of a preparation when the command is executed. */
export interface Prepared {
  skipped: readonly Step[]
  warnings: readonly Warning[]
}

const { SIGKILL } = constants.signals

type Streams = [Writable | null, Readable | null, Readable | null, ...(Duplex | null)[]]

/** What a command writes. Nothing of it is read before 'spawn': that comes before any data, as child_process has it. */
class Output extends Socket {
  /** Asked for before; without a value at first, because the constructor of the socket asks already. */
  declare waiting: number | undefined
  declare begun: boolean | undefined

  override _read(size: number): void {
    if (this.begun) {
      super._read(size)
    } else {
      this.waiting = size
    }
  }

  begin(): void {
    this.begun = true
    if (this.waiting !== undefined) {
      super._read(this.waiting)
    }
  }
}

/** Our end of a pipe: the command's input, its output, or with a number beyond those of the standard three both. */
function stream(fd: number | null, number: number): Socket | null {
  if (fd === null) {
    return null
  }
  return number === 0
    ? new Socket({ fd, readable: false, writable: true })
    : new Output({ fd, readable: true, writable: number > 2 })
}

/** A command and its arguments, which the addon has checked. */
export function commandLine(command: unknown, args: readonly string[] = []): readonly string[] {
  return [command instanceof Uint8Array ? Buffer.from(command).toString() : String(command), ...args]
}

export class ContainerProcess extends EventEmitter<ContainerProcessEvents> implements Public {
  pid: number | undefined = undefined
  exitCode: number | null = null
  signalCode: NodeJS.Signals | null = null
  killed = false
  readonly stdio: readonly [Writable | null, Readable | null, Readable | null, ...(Duplex | null)[]]
  readonly spawnfile: string
  readonly spawnargs: readonly string[]
  /** Whether it was killed because its time was over. */
  timedOut = false
  prepared: Prepared = { skipped: [], warnings: [] }

  readonly #place: Place
  readonly #id: number
  readonly #reference = new Reference()
  readonly #unlisten: () => void
  readonly #locate: (error: Error) => Error
  readonly #onStep: ((step: ExecutedStep) => void) | undefined
  #timer: NodeJS.Timeout | undefined
  /** There is a process, or was. */
  #begun = false
  /** Nobody waits for more than its end. */
  #disposed = false
  #stopListening: (() => void) | undefined
  /** A signal asked for before there was a process. */
  #queued: number | undefined
  #ended = false
  #open: number
  #failed: Error | undefined
  #closed = false
  #takenDown: boolean
  readonly #whenClosed: Promise<void>

  constructor(
    launched: Launched,
    words: readonly string[],
    place: Place,
    control: Control,
    locate: (error: Error) => Error,
    onStep?: (step: ExecutedStep) => void,
    failure?: Error,
  ) {
    super()
    this.spawnargs = words
    this.spawnfile = words[0] ?? ''
    this.#place = place
    this.#id = launched.id
    this.#locate = locate
    this.#onStep = onStep
    this.#takenDown = place.kind === 'child'
    const streams = launched.streams.map(stream)
    this.stdio = streams as unknown as Streams
    this.#open = 0
    for (const each of streams.slice(1)) {
      // As child_process has it: 'close' waits for what the command writes, and not for what it reads.
      if (each) {
        this.#open += 1
        each.once('close', () => {
          this.#open -= 1
          this.#close()
        })
      }
    }
    this.#whenClosed = new Promise((resolve) => super.once('close', () => resolve()))
    const listen = place.kind === 'first' ? listenToContainer : listenToChild
    this.#unlisten = listen(launched.id, (news) => this.#hear(news))
    if (launched.id === 0) {
      this.#takenDown = true
      this.#failed = failure ?? locate(abortError(control.signal as AbortSignal))
      this.#fail()
    } else {
      this.#limit(control)
    }
  }

  get stdin(): Writable | null {
    return this.stdio[0]
  }

  get stdout(): Readable | null {
    return this.stdio[1]
  }

  get stderr(): Readable | null {
    return this.stdio[2]
  }

  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    const number = signalNumber(signal, 'signal')
    if (this.#ended) {
      return false
    }
    if (!this.#begun) {
      // A stronger one is not forgotten because of a weaker one that comes later.
      this.#queued = this.#queued === 9 ? 9 : number
      this.killed ||= number !== 0
      return true
    }
    const sent =
      this.#place.kind === 'first'
        ? native.kill(this.#id, 0, number)
        : native.kill(this.#place.container, this.#id, number)
    this.killed ||= sent && number !== 0
    return sent
  }

  ref(): void {
    this.#reference.hold()
  }

  unref(): void {
    this.#reference.drop()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closed) {
      this.stdin?.destroy()
      this.#disposed = true
      if (this.#ended) {
        this.#abandon()
      } else if (this.#begun && this.#place.kind === 'child') {
        // With what it has begun.
        this.killed ||= native.end(this.#place.container, this.#id, SIGKILL)
      } else {
        this.#stop(SIGKILL)
      }
      if (this.listenerCount('error') === 0) {
        super.once('error', () => undefined)
      }
    }
    await this.#whenClosed
  }

  /** Ends it, also while its root is still being prepared. */
  #stop(signal: number): void {
    if (this.#place.kind === 'first' && (!this.#begun || !this.kill(signal))) {
      this.killed = true
      closeContainer(this.#id)
    } else if (this.#place.kind === 'child') {
      this.kill(signal)
    }
  }

  /** Lets go of its streams, whoever else holds them. */
  #abandon(): void {
    for (const each of this.stdio) {
      each?.destroy()
    }
  }

  #limit(control: Control): void {
    const { signal, timeout, killSignal } = control
    if (timeout !== undefined) {
      this.#timer = setTimeout(() => {
        this.timedOut = !this.#ended
        this.#stop(killSignal)
      }, timeout)
    }
    if (signal) {
      const abort = () => {
        if (!this.#ended) {
          this.#failed ??= this.#locate(abortError(signal))
          this.#stop(killSignal)
          this.#tellFailure()
        }
      }
      signal.addEventListener('abort', abort, { once: true })
      this.#stopListening = () => signal.removeEventListener('abort', abort)
    }
  }

  [inspect.custom](depth: number, options: Options): string {
    const state = this.#closed ? 'closed' : this.#ended ? 'ended' : this.#begun ? 'running' : 'starting'
    return inspectProcess({ ...this, state }, depth, options)
  }

  #toldFailure = false

  #tellFailure(): void {
    if (this.#failed && !this.#toldFailure) {
      this.#toldFailure = true
      const error = this.#failed
      process.nextTick(() => this.emit('error', error))
    }
  }

  #hear(news: News): void {
    switch (news.kind) {
      case 'step':
        for (const step of news.steps ?? []) {
          this.#onStep?.(step)
        }
        break
      case 'spawn':
        if (this.#failed) {
          // It was aborted before, and is being killed.
          break
        }
        this.#begun = true
        this.pid = news.pid
        this.prepared = { skipped: news.skipped ?? [], warnings: news.warnings ?? [] }
        if (this.#queued !== undefined) {
          this.kill(this.#queued)
        }
        this.emit('spawn')
        for (const each of this.stdio) {
          if (each instanceof Output) {
            each.begin()
          }
        }
        break
      case 'error':
        this.#end()
        if (news.error && !this.timedOut) {
          this.#failed ??= this.#locate(makeError(news.error))
        }
        // It may have been ended from here before there was a process.
        if (this.timedOut || (this.killed && this.#failed === undefined)) {
          this.signalCode = 'SIGKILL'
          this.emit('exit', null, this.signalCode)
        }
        this.#fail()
        break
      case 'exit':
        this.#end()
        if (!this.#begun && this.#failed) {
          this.#fail()
          break
        }
        this.exitCode = news.exitCode ?? null
        this.signalCode = news.signal === undefined ? null : signalName(news.signal)
        this.stdin?.destroy()
        this.emit('exit', this.exitCode, this.signalCode)
        // As child_process has it: what nobody reads must not hold 'close' back.
        process.nextTick(() => (this.#disposed ? this.#abandon() : this.#flush()))
        this.#close()
        break
      case 'closed':
        this.#takenDown = true
        this.prepared = { ...this.prepared, warnings: [...this.prepared.warnings, ...(news.warnings ?? [])] }
        this.#close()
        break
      default:
        break
    }
  }

  /** Reads what nobody reads, so that it ends. */
  #flush(): void {
    for (const each of this.stdio) {
      if (each instanceof Output && each.readable) {
        each.resume()
      }
    }
  }

  /** It never ran, or nobody saw it run: there is nothing to read. */
  #fail(): void {
    this.#end()
    this.#tellFailure()
    for (const each of this.stdio) {
      each?.destroy()
    }
    this.#close()
  }

  #end(): void {
    this.#ended = true
    clearTimeout(this.#timer)
    this.#stopListening?.()
  }

  /** Tells once that all is over: it has ended, its streams too, and its container is taken down. */
  #close(): void {
    if (this.#closed || !this.#ended || this.#open > 0 || !this.#takenDown) {
      return
    }
    this.#closed = true
    this.#unlisten()
    this.#reference.release()
    // After an error that is told in this very tick.
    process.nextTick(() => this.emit('close', this.exitCode, this.signalCode))
  }
}
