// Errors: the addon tells them as data, and here they become objects.
import { inspect } from 'node:util'
import type { RootfsErrorCode, Step } from '../index.js'
import { type ErrorFacts, type InspectNow, inspectError, type Options } from './inspect.ts'
import type { ErrorData } from './native.ts'

/** What went wrong, at which step, on what, and what to do about it. */
export class RootfsError extends Error {
  declare readonly code: RootfsErrorCode
  declare readonly step?: Step
  declare readonly syscall?: string
  declare readonly errno?: number
  declare readonly errnoName?: string
  declare readonly source?: string
  declare readonly destination?: string
  declare readonly resolved?: string
  declare readonly flags?: readonly string[]
  declare readonly kernelLog?: readonly string[]
  declare readonly pointer?: string
  declare readonly hint?: string

  constructor(data: Omit<ErrorData, 'code'> & { code: RootfsErrorCode }) {
    super(data.message, 'cause' in data ? { cause: data.cause } : undefined)
    const { message: _, cause: __, ...fields } = data
    Object.assign(this, fields)
    // As Node's own errors have it: the code is part of the stack's first line.
    this.stack = `${this.stack}`.replace(/^\w+/, `RootfsError [${data.code}]`)
  }

  static {
    Object.defineProperty(RootfsError.prototype, 'name', {
      value: 'RootfsError',
      writable: true,
      configurable: true,
    })
  }

  [inspect.custom](depth: number, options: Options, inspectNow: InspectNow): string {
    return inspectError(this as Error & ErrorFacts, depth, options, inspectNow)
  }
}

/** A wrong argument, in the class that Node gives its own. */
function argumentError(data: ErrorData): Error {
  const Base = data.code === 'ERR_OUT_OF_RANGE' ? RangeError : TypeError
  const error = new Base(data.message)
  const { stack } = error
  Object.assign(error, { code: data.code })
  error.stack = stack?.replace(/^(\w+)/, `$1 [${data.code}]`) ?? error.message
  return error
}

export function makeError(data: ErrorData): Error {
  return data.code.startsWith('ERR_ROOTFS_')
    ? new RootfsError(data as ErrorData & { code: RootfsErrorCode })
    : argumentError(data)
}

/**
 * Has an error that comes later say where the call was: its own stack begins in the event loop.
 * Made at the call; costs nothing but a short stack trace.
 */
export function callSite(below: (...args: never[]) => unknown): (error: Error) => Error {
  const site: { stack?: string } = {}
  Error.captureStackTrace(site, below)
  return (error) => {
    const head = error.stack?.split('\n    at ', 1)[0] ?? `${error}`
    const frames = site.stack?.slice(site.stack.indexOf('\n    at ')) ?? ''
    error.stack = head + frames
    return error
  }
}

/** The reason of an abort, as Node's own functions reject with it. */
export function abortError(signal: AbortSignal): Error {
  const error = new Error('The operation was aborted', { cause: signal.reason })
  error.name = 'AbortError'
  return Object.assign(error, { code: 'ABORT_ERR' })
}

/** An option or argument that only TypeScript looks at is wrong. */
export function invalidArgument(
  code: 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE',
  wanted: string,
  name: string,
  received: unknown,
): Error {
  const type = received === null ? 'object' : typeof received
  const whole =
    typeof received === 'string' && received.length > 100 ? `${received.slice(0, 100)}…` : received
  let text = inspect(whole, { depth: 0, breakLength: Infinity })
  text = typeof whole !== 'string' && text.length > 100 ? `${text.slice(0, 100)}…` : text
  const shown = received === undefined ? 'undefined' : `${text} of type ${type}`
  return argumentError({ code, message: `Expected ${wanted} for ${name} but received ${shown}` })
}

/** More output than was asked for, as child_process has it. */
export function maxBufferError(name: string, output: { stdout: string | Buffer; stderr: string | Buffer }) {
  const error = new RangeError(`${name} maxBuffer length exceeded`)
  return Object.assign(error, { code: 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER', ...output })
}
