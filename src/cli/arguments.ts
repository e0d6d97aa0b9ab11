// The command line.
import { parseArgs } from 'node:util'
import { UsageError } from './report.ts'

/** A bind of the host. */
export interface Bind {
  source: string
  destination: string
  readonly: boolean
}

/** What is run or planned, and how. */
export interface Asked {
  command: 'run' | 'plan'
  /** The directory of an OCI bundle; the host's own programs when there is none. */
  bundle: string | undefined
  /** With its arguments; the bundle's process when there is none. */
  words: string[] | undefined
  network: boolean
  binds: Bind[]
  tmpfs: string[]
  cwd: string | undefined
  env: Record<string, string>
  ignore: string[]
  json: boolean
  verbose: boolean
}

export type CommandLine = Asked | { command: 'probe'; json: boolean } | { command: 'help' | 'version' }

const OPTIONS = {
  host: { type: 'boolean' },
  net: { type: 'boolean' },
  bind: { type: 'string', multiple: true },
  tmpfs: { type: 'string', multiple: true },
  cwd: { type: 'string' },
  env: { type: 'string', multiple: true },
  ignore: { type: 'string', multiple: true },
  json: { type: 'boolean' },
  verbose: { type: 'boolean', short: 'v' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'V' },
} as const

function bind(text: string): Bind {
  const parts = text.split(':')
  const mode = parts.length === 3 ? parts.pop() : 'rw'
  const [source, destination] = parts
  if (parts.length !== 2 || !source || !destination || (mode !== 'ro' && mode !== 'rw')) {
    throw new UsageError(`--bind ${text}: SRC:DST, SRC:DST:ro or SRC:DST:rw is expected`)
  }
  return { source, destination, readonly: mode === 'ro' }
}

function environment(variables: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    variables.map((text) => {
      const at = text.indexOf('=')
      if (at < 1) {
        throw new UsageError(`--env ${text}: NAME=VALUE is expected`)
      }
      return [text.slice(0, at), text.slice(at + 1)]
    }),
  )
}

/** The options before `--`; what comes after it is the command's own. */
function parseOptions(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

export function parseCommandLine(argv: readonly string[]): CommandLine {
  const end = argv.indexOf('--')
  const words = end < 0 ? undefined : argv.slice(end + 1)
  const { values, positionals } = parseOptions(end < 0 ? argv : argv.slice(0, end))
  if (values.help || values.version) {
    return { command: values.help ? 'help' : 'version' }
  }
  const [command, bundle, ...others] = positionals
  if (command === 'probe') {
    const { json = false, ...rest } = values
    const unknown = bundle ?? words?.[0] ?? Object.keys(rest)[0]
    check([unknown !== undefined, `probe: it takes no ${unknown}, only --json`])
    return { command, json }
  }
  if (command !== 'run' && command !== 'plan') {
    throw new UsageError(
      command === undefined ? 'a command is needed' : `${command}: there is no such command`,
    )
  }
  check(
    [bundle === undefined && !values.host, `${command}: a bundle or --host is needed`],
    [bundle !== undefined && values.host, `${command}: a bundle, or --host: put -- before a command`],
    [others.length > 0, `${command}: ${others[0]} is one too many: put -- before a command`],
    [bundle !== undefined && values.net, '--net is for --host: a bundle says what network it has'],
    [values.host && values.ignore, '--ignore is for the config.json of a bundle'],
    [command === 'run' && values.host && !words?.length, 'run: a command is needed: -- COMMAND ARG...'],
    [words?.length === 0, `${command}: after -- a command is needed`],
    [command === 'run' && values.json, '--json is for plans'],
    [!words && (values.cwd ?? values.env), '--cwd and --env are for a command: -- COMMAND ARG...'],
  )
  return {
    command,
    bundle,
    words,
    network: values.net ?? false,
    binds: (values.bind ?? []).map(bind),
    tmpfs: values.tmpfs ?? [],
    cwd: values.cwd,
    env: environment(values.env ?? []),
    ignore: values.ignore ?? [],
    json: values.json ?? false,
    verbose: values.verbose ?? false,
  }
}

function check(...problems: Array<[unknown, string]>): void {
  for (const [found, message] of problems) {
    if (found) {
      throw new UsageError(message)
    }
  }
}
