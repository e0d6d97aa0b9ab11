// Watching from outside: NODE_DEBUG=rootfs, and channels of node:diagnostics_channel. Who doesn't watch pays a comparison.
import { channel, type TracingChannel, tracingChannel } from 'node:diagnostics_channel'
import { type EventEmitter, errorMonitor } from 'node:events'
import { debuglog } from 'node:util'
import type { ExecutedStep, RunResult } from '../index.js'
import { stepText } from './inspect.ts'

/** What the events of one call carry. `result` or `error` come at its end. */
interface Call {
  /** Counts calls, so that lines and events can be told apart. */
  id: number
  [fact: string]: unknown
  result?: unknown
  error?: unknown
}

type Method = (this: object, ...args: never[]) => unknown
type Operation = 'prepare' | 'run' | 'spawn'

const log = debuglog('rootfs')
/** Fixed when Node starts. */
const logging = log.enabled
const steps = channel('rootfs:step')
const channels: Record<Operation, TracingChannel<Call>> = {
  prepare: tracingChannel<unknown, Call>('rootfs:prepare'),
  run: tracingChannel<unknown, Call>('rootfs:run'),
  spawn: tracingChannel<unknown, Call>('rootfs:spawn'),
}
let calls = 0

/** The same method, which tells those who watch what comes of each call. `owner` is the name of `this` in events. */
export function watched<M extends Method>(operation: Operation, owner: 'rootfs' | 'prepared', method: M): M {
  const tracing = channels[operation]
  // Not an arrow function: `this` is the object. The name is in stack traces.
  const wrapper = function (this: object, ...args: unknown[]): unknown {
    if (!logging && !steps.hasSubscribers && !tracing.hasSubscribers) {
      return Reflect.apply(method, this, args)
    }
    return watch(operation, owner, this, args, (given) => Reflect.apply(method, this, given))
  }
  return Object.defineProperty(wrapper, 'name', { value: method.name }) as unknown as M
}

function watch(
  operation: Operation,
  owner: string,
  self: object,
  args: unknown[],
  method: (args: unknown[]) => unknown,
): unknown {
  calls += 1
  // Before a command, or instead of it, there may be options.
  const isCommand = operation !== 'prepare' && typeof args[0] === 'string'
  const [command, argv] = isCommand ? args : []
  const position = isCommand ? 2 : 0
  const options = args[position]
  const call: Call = { id: calls, [owner]: self, ...(isCommand && { command, args: argv }), options }
  const title = `${operation} #${calls}`
  log('%s begins%s', title, isCommand ? `: ${[command].concat(argv ?? []).join(' ')}` : '')
  const given = owner === 'rootfs' ? withStep(args, position, (step) => tellStep(title, call, step)) : args
  const begin = performance.now()
  const took = (): string => `${(performance.now() - begin).toFixed(2)} ms`
  const failed = (error: unknown): void => log('%s failed after %s: %s', title, took(), error)
  const tracing = channels[operation]
  if (operation === 'spawn') {
    try {
      const child = tracing.traceSync(() => method(given), call) as Watched
      tellEnd(child, tracing, call, (how) => log('%s %s after %s', title, how, took()))
      return child
    } catch (error) {
      failed(error)
      throw error
    }
  }
  const promise = tracing.tracePromise(() => method(given) as Promise<unknown>, call)
  promise.then((result) => log('%s ends after %s: %s', title, took(), outcome(result)), failed)
  return promise
}

function outcome(result: unknown): string {
  const { exitCode, signal, pid } = result as Partial<RunResult> & { pid?: number }
  if (pid !== undefined) return `pid ${pid}`
  return signal ? `signal ${signal}` : `exit status ${exitCode}`
}

/** The arguments, with a listener to steps in the options. What is no object is left for the check of it. */
function withStep(args: unknown[], position: number, tell: (step: ExecutedStep) => void): unknown[] {
  const options = args[position]
  if ((!logging && !steps.hasSubscribers) || (options !== undefined && !isObject(options))) return args
  const { onStep } = (options ?? {}) as { onStep?: unknown }
  if (onStep !== undefined && typeof onStep !== 'function') return args
  const listener = (step: ExecutedStep): void => {
    tell(step)
    onStep?.(step)
  }
  const given = [...args]
  given[position] = { ...(options as object | undefined), onStep: listener }
  return given
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function tellStep(title: string, call: Call, step: ExecutedStep): void {
  const { strategy, resolved, durationUs } = step
  const how = [strategy, resolved && `at ${resolved}`].filter(Boolean).join(', ')
  log('%s step %s%s: %s µs', title, stepText(step), how && ` (${how})`, durationUs.toFixed(1))
  steps.publish({ call, step })
}

type Watched = EventEmitter & { exitCode: number | null; signalCode: string | null; pid: number | undefined }

/** Tells the end of a process. Its errors are only looked at: who doesn't handle them still hears of them from Node. */
function tellEnd(
  child: Watched,
  tracing: TracingChannel<Call>,
  call: Call,
  tell: (how: string) => void,
): void {
  child.once('spawn', () => tell(`runs as pid ${child.pid}`))
  child.once(errorMonitor, (error: Error) => {
    call.error = error
    tracing.error.publish(call)
    tell(`failed: ${error.message}`)
  })
  child.once('close', (exitCode: number | null, signal: string | null) => {
    Object.assign(call, { exitCode, signal })
    tracing.asyncStart.publish(call)
    tell(`is closed: ${signal === null ? `exit status ${exitCode}` : `signal ${signal}`}`)
    tracing.asyncEnd.publish(call)
  })
}
