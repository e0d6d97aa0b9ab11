// Options that TypeScript looks at; the rest goes to the addon, which refuses what it doesn't know.
import { constants } from 'node:os'
import type { ExecutedStep, PrepareOptions, RunOptions, SpawnOptions, TemplateOptions } from '../index.js'
import { invalidArgument } from './errors.ts'
import type { Collect } from './native.ts'

const DEFAULT_MAX_BUFFER = 1024 * 1024

/** What is done to a command from here. */
export interface Control {
  signal?: AbortSignal
  timeout?: number
  /** Its number: real-time signals have no names. */
  killSignal: number
}

/** What is done to a command when nothing was said about it. */
export const NO_CONTROL: Control = { killSignal: constants.signals.SIGKILL }

export interface Preparation {
  signal?: AbortSignal
  onStep?: (step: ExecutedStep) => void
  /** For the addon. */
  native: { verify?: boolean; reportSteps: boolean; cgroup?: unknown } | undefined
}

// Most calls have no options: these are their values, without looking at anything.
const NO_PREPARATION: Preparation = { native: undefined }
const NO_LAUNCH = { control: NO_CONTROL, preparation: NO_PREPARATION, native: undefined }

type Checked = Record<string, unknown>

function object(options: unknown): Checked {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'object', 'options', options)
  }
  return { ...options }
}

function take<T>(options: Checked, key: string, check: (value: unknown) => T): T | undefined {
  const value = options[key]
  delete options[key]
  return value === undefined ? undefined : check(value)
}

function abortSignal(value: unknown): AbortSignal {
  if (
    typeof value !== 'object' ||
    value === null ||
    !('aborted' in value) ||
    !('addEventListener' in value)
  ) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'AbortSignal', 'signal', value)
  }
  return value as AbortSignal
}

function timeout(value: unknown): number {
  if (typeof value !== 'number') {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'number of milliseconds', 'timeout', value)
  }
  if (!Number.isInteger(value) || value < 0 || value > 2 ** 31 - 1) {
    throw invalidArgument('ERR_OUT_OF_RANGE', `integer between 0 and ${2 ** 31 - 1}`, 'timeout', value)
  }
  return value
}

/** The number of a signal by its name or number. */
export function signalNumber(value: unknown, name: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 64) {
    return value
  }
  const found = typeof value === 'string' ? constants.signals[value as NodeJS.Signals] : undefined
  if (found === undefined) {
    throw invalidArgument('ERR_INVALID_ARG_VALUE', "signal such as 'SIGTERM'", name, value)
  }
  return found
}

/** The name of a signal by its number. */
export function signalName(number: number): NodeJS.Signals {
  const found = Object.entries(constants.signals).find(([, known]) => known === number)
  return (found?.[0] ?? `SIG${number}`) as NodeJS.Signals
}

function killSignal(value: unknown): number {
  const number = signalNumber(value, 'killSignal')
  if (number === 0) {
    throw invalidArgument('ERR_INVALID_ARG_VALUE', "signal such as 'SIGTERM'", 'killSignal', value)
  }
  return number
}

function takeControl(options: Checked): Control {
  const signal = take(options, 'signal', abortSignal)
  const limit = take(options, 'timeout', timeout)
  return {
    ...(signal && { signal }),
    ...(limit && { timeout: limit }),
    killSignal: take(options, 'killSignal', killSignal) ?? NO_CONTROL.killSignal,
  }
}

function callback(value: unknown): (step: ExecutedStep) => void {
  if (typeof value !== 'function') {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'function', 'onStep', value)
  }
  return value as (step: ExecutedStep) => void
}

function boolean(value: unknown): boolean {
  if (typeof value !== 'boolean') {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'boolean', 'verify', value)
  }
  return value
}

function takePreparation(options: Checked): Omit<Preparation, 'signal'> {
  const onStep = take(options, 'onStep', callback)
  const verify = take(options, 'verify', boolean)
  const cgroup = take(options, 'cgroup', (value) => value)
  return {
    ...(onStep && { onStep }),
    native: {
      ...(verify !== undefined && { verify }),
      reportSteps: onStep !== undefined,
      ...(cgroup !== undefined && { cgroup }),
    },
  }
}

function input(value: unknown): string | Uint8Array {
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'string or Uint8Array', 'input', value)
  }
  return value
}

function encoding(value: unknown): BufferEncoding | 'buffer' {
  if (typeof value !== 'string' || (value !== 'buffer' && !Buffer.isEncoding(value))) {
    throw invalidArgument('ERR_INVALID_ARG_VALUE', "encoding such as 'utf8', or 'buffer',", 'encoding', value)
  }
  return value
}

function maxBuffer(value: unknown): number {
  if (typeof value !== 'number' || Number.isNaN(value)) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'number of bytes', 'maxBuffer', value)
  }
  if (value < 0) {
    throw invalidArgument('ERR_OUT_OF_RANGE', 'number of bytes that is not negative', 'maxBuffer', value)
  }
  return value
}

/** Whether there is nothing to begin. */
export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}

/** The options of `spawn`; what is left is the addon's. */
export function spawnOptions(options: SpawnOptions | undefined): {
  control: Control
  native: object | undefined
} {
  if (options === undefined) {
    return NO_LAUNCH
  }
  const left = object(options)
  return { control: takeControl(left), native: left }
}

/** The options of `Rootfs.spawn`. */
export function launchOptions(options: (SpawnOptions & PrepareOptions) | undefined): {
  control: Control
  preparation: Preparation
  native: object | undefined
} {
  if (options === undefined) {
    return NO_LAUNCH
  }
  const left = object(options)
  return { control: takeControl(left), preparation: takePreparation(left), native: left }
}

/** The options of `run`, apart from those of `spawn`; `collect` is for the addon. */
export interface RunOnly<T> {
  encoding: BufferEncoding | 'buffer'
  collect: Collect
  spawn: T | undefined
}

const NO_RUN_ONLY: RunOnly<never> = {
  encoding: 'utf8',
  collect: { maxBuffer: DEFAULT_MAX_BUFFER },
  spawn: undefined,
}

export function runOptions<T extends RunOptions>(options: T | undefined): RunOnly<T> {
  if (options === undefined) {
    return NO_RUN_ONLY
  }
  const left = object(options)
  const given = take(left, 'input', input)
  return {
    encoding: take(left, 'encoding', encoding) ?? 'utf8',
    collect: {
      ...(given !== undefined && { input: given }),
      maxBuffer: take(left, 'maxBuffer', maxBuffer) ?? DEFAULT_MAX_BUFFER,
    },
    spawn: left as T,
  }
}

/** The options of `prepare`. */
export function prepareOptions(options: PrepareOptions | undefined): Preparation {
  if (options === undefined) {
    return NO_PREPARATION
  }
  const left = object(options)
  const signal = take(left, 'signal', abortSignal)
  const preparation = takePreparation(left)
  refuseUnknown(left, 'signal, cgroup, verify, onStep')
  return { ...preparation, ...(signal && { signal }) }
}

/** The options of `template`. */
export function templateOptions(options: TemplateOptions | undefined): Preparation {
  if (typeof options === 'object' && options !== null && 'cgroup' in options) {
    // It is each container's own.
    refuseUnknown({ cgroup: options.cgroup }, 'signal, verify, onStep')
  }
  return prepareOptions(options)
}

function refuseUnknown(left: Checked, known: string): void {
  const unknown = Object.keys(left)[0]
  if (unknown !== undefined) {
    const given = { [unknown]: left[unknown] }
    throw invalidArgument('ERR_INVALID_ARG_VALUE', `known options (${known})`, 'options', given)
  }
}
