// How plans, prepared roots and errors look in a terminal: util.inspect, with its colors and depth.
import type { InspectOptions, inspect } from 'node:util'
import type { Step, Warning } from '../index.js'

type Style = 'name' | 'number' | 'special' | 'string' | 'undefined' | 'regexp'
/** What util.inspect hands over. */
export interface Options extends InspectOptions {
  stylize(text: string, style: Style): string
}
export type InspectNow = typeof inspect

/** A cell of a table, and how it is colored. */
type Cell = readonly [text: string, style?: Style]

/** Rows in columns that are as wide as their widest text; the last one is as wide as it is. */
function table(rows: readonly (readonly Cell[])[], { stylize }: Options): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, [text]] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, text.length)
  }
  return rows.map((row) => {
    // Nothing is at the end of a line but text.
    const last = row.findLastIndex(([text]) => text !== '')
    const cells = row.slice(0, last + 1).map(([text, style], column) => {
      const styled = style === undefined || text === '' ? text : stylize(text, style)
      return column === last ? styled : styled + ' '.repeat((widths[column] ?? 0) - text.length)
    })
    return cells.join('  ')
  })
}

/** A step in a line: `9 mount /srv/data on /data`. */
export function stepText({ index, type, source, destination }: Step): string {
  const places =
    source === undefined || destination === undefined
      ? [source ?? destination]
      : [`${source} on ${destination}`]
  return [index, type, ...places].filter((part) => part !== undefined).join(' ')
}

function warningRow({ code, message, step }: Warning): Cell[] {
  return [['warning', 'regexp'], [`${code}: ${message}${step === undefined ? '' : ` (step ${step})`}`]]
}

const count = (number: number, what: string): string => `${number} ${what}${number === 1 ? '' : 's'}`

export function inspectPlan(
  { steps, warnings }: { steps: readonly Step[]; warnings: readonly Warning[] },
  depth: number,
  options: Options,
): string {
  if (depth < 0) return options.stylize('[Plan]', 'special')
  const told = warnings.length === 0 ? '' : `, ${count(warnings.length, 'warning')}`
  const title = `Plan of ${count(steps.length, 'step')}${told}`
  if (depth === 0) return `[${title}]`
  const width = `${steps.length - 1}`.length
  const rows = steps.map(({ index, type, destination = '', source = '', flags = [] }): Cell[] => [
    [`${index}`.padStart(width), 'number'],
    [type, 'special'],
    [destination, 'string'],
    [source],
    [flags.join(','), 'undefined'],
  ])
  const lines = [...table(rows, options), ...table(warnings.map(warningRow), options)]
  return [title, ...lines.map((line) => `  ${line}`)].join('\n')
}

/** What is told of a prepared root. */
export interface PreparedFacts {
  state: string
  pid: number
  steps: readonly { durationUs: number }[]
  skipped: readonly Step[]
  warnings: readonly Warning[]
  commands: number
}

export function inspectPrepared(facts: PreparedFacts, depth: number, options: Options): string {
  if (depth < 0) return options.stylize('[PreparedRootfs]', 'special')
  const { state, pid, steps, skipped, warnings, commands } = facts
  const milliseconds = steps.reduce((sum, { durationUs }) => sum + durationUs, 0) / 1000
  const rows: Cell[][] = [
    [['state'], [state, state === 'open' ? 'special' : 'undefined']],
    [['pid'], [`${pid}`, 'number']],
    [['steps'], [`${steps.length} in ${milliseconds.toFixed(2)} ms`, 'number']],
    [['commands'], [`${commands}`, 'number']],
    ...skipped.map((step): Cell[] => [['skipped', 'regexp'], [stepText(step)]]),
    ...warnings.map(warningRow),
  ]
  return ['PreparedRootfs', ...table(rows, options).map((line) => `  ${line}`)].join('\n')
}

/** A builder. `facts` fails for what only has its prototype. */
export function inspectRootfs(
  facts: () => { root: string; content: number },
  depth: number,
  options: Options,
): string {
  if (depth < 0) return options.stylize('[Rootfs]', 'special')
  let known: ReturnType<typeof facts>
  try {
    known = facts()
  } catch {
    return 'Rootfs {}'
  }
  const rows: Cell[][] = [
    [['root'], [known.root, 'string']],
    [['content'], [`${known.content}`, 'number']],
  ]
  return ['Rootfs', ...table(rows, options).map((line) => `  ${line}`)].join('\n')
}

export function inspectTemplate(
  state: string,
  facts: () => { root: string; content: number },
  depth: number,
  options: Options,
): string {
  if (depth < 0) return options.stylize('[RootfsTemplate]', 'special')
  const known = facts()
  const rows: Cell[][] = [
    [['state'], [state, state === 'open' ? 'special' : 'undefined']],
    [['root'], [known.root, 'string']],
    [['content'], [`${known.content}`, 'number']],
  ]
  return ['RootfsTemplate', ...table(rows, options).map((line) => `  ${line}`)].join('\n')
}

/** What is told of a command. */
export interface ProcessFacts {
  spawnargs: readonly string[]
  state: string
  pid: number | undefined
  exitCode: number | null
  signalCode: string | null
}

export function inspectProcess(facts: ProcessFacts, depth: number, options: Options): string {
  if (depth < 0) return options.stylize('[ContainerProcess]', 'special')
  const { spawnargs, state, pid, exitCode, signalCode } = facts
  const rows: Cell[][] = [
    [['command'], [JSON.stringify(spawnargs ?? []), 'string']],
    [['state'], [state, state === 'running' ? 'special' : 'undefined']],
  ]
  if (pid !== undefined) rows.push([['pid'], [`${pid}`, 'number']])
  if (typeof exitCode === 'number') rows.push([['exitCode'], [`${exitCode}`, 'number']])
  if (typeof signalCode === 'string') rows.push([['signalCode'], [signalCode, 'string']])
  return ['ContainerProcess', ...table(rows, options).map((line) => `  ${line}`)].join('\n')
}

/** What is known of a failure, besides its message and where it was. */
export interface ErrorFacts {
  code: string
  step?: Step
  syscall?: string
  errno?: number
  errnoName?: string
  source?: string
  destination?: string
  resolved?: string
  flags?: readonly string[]
  kernelLog?: readonly string[]
  hint?: string
}

/** The properties in the order in which one reads them; what isn't known here comes at the end. */
export function inspectError(
  error: Error & ErrorFacts,
  depth: number,
  options: Options,
  inspectNow: InspectNow,
): string {
  const { name, stack, message: _, cause, ...facts } = error as Error & ErrorFacts & { cause?: unknown }
  const {
    code,
    step,
    syscall,
    errno,
    errnoName,
    source,
    destination,
    resolved,
    flags,
    kernelLog,
    hint,
    ...more
  } = facts
  if (depth < 0) return options.stylize(`[RootfsError ${code}]`, 'special')
  const rows: Cell[][] = [[['code'], [code, 'string']]]
  const add = (key: string, value: string | undefined, style?: Style): void => {
    if (value !== undefined) rows.push([[key], style === undefined ? [value] : [value, style]])
  }
  add('step', step && stepText(step), 'number')
  add(
    'syscall',
    syscall && [syscall, errnoName, errno === undefined ? undefined : `(${errno})`].filter(Boolean).join(' '),
  )
  if (syscall === undefined) add('errno', errnoName && `${errnoName} (${errno})`)
  // The step's own are there already.
  add('source', source === step?.source ? undefined : source, 'string')
  add('destination', destination === step?.destination ? undefined : destination, 'string')
  add('resolved', resolved, 'string')
  add('flags', flags?.join(','), 'undefined')
  for (const line of kernelLog ?? []) add('kernel', line)
  for (const [key, value] of Object.entries(more)) {
    add(
      key,
      typeof value === 'string'
        ? value
        : inspectNow(value, { ...options, compact: true, breakLength: Infinity }),
    )
  }
  add('hint', hint, 'special')
  const head = stack ?? `${name} [${code}]: ${error.message}`
  const lines = [head, ...table(rows, options).map((line) => `  ${line}`)]
  if (cause !== undefined) lines.push(`  [cause]: ${inspectNow(cause, { ...options, depth: depth - 1 })}`)
  return lines.join('\n')
}
