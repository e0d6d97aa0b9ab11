// Runs the commands that the scripts here are made of; what they print goes straight to the terminal.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { delimiter, join } from 'node:path'

/** The top of the checkout. */
export const root = join(import.meta.dirname, '..')

/** What to install when one of these programs is missing. */
const installHints: Record<string, string> = {
  cargo: 'install Rust with rustup: https://rustup.rs',
  cc: 'install a C compiler, on Debian with: apt-get install build-essential',
  git: 'install git, on Debian with: apt-get install git',
}

/** Says what happens next, so that no step is long and silent. */
export function announce(text: string): void {
  console.log(`[rootfs] ${text}`)
}

/** Says what is wrong and ends the script. */
export function fail(text: string): never {
  console.error(`[rootfs] ${text}`)
  process.exit(1)
}

function environment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const localPrograms = join(root, 'node_modules', '.bin')
  return { ...process.env, PATH: `${localPrograms}${delimiter}${process.env.PATH ?? ''}`, ...extra }
}

interface RunOptions {
  /** Added to the environment. */
  env?: NodeJS.ProcessEnv
  cwd?: string
}

/** Runs a command at the top of the checkout and ends the script when it fails. */
export function run(command: string, args: string[], options: RunOptions = {}): void {
  const status = tryRun(command, args, options)
  if (status !== 0) fail(`failed with status ${status}: ${command} ${args.join(' ')}`)
}

/** The same beside others, which are not cut off: a failure is thrown. */
export async function runBeside(command: string, args: string[], options: RunOptions = {}): Promise<void> {
  const child = spawn(command, args, {
    cwd: options.cwd ?? root,
    env: environment(options.env),
    stdio: 'inherit',
  })
  const [status] = (await once(child, 'exit').catch((error) => {
    throw new Error(notStarted(command, error))
  })) as [number | null]
  if (status !== 0) throw new Error(`failed with status ${status ?? 1}: ${command} ${args.join(' ')}`)
}

/** The same as run(), returning the exit status. */
export function tryRun(command: string, args: string[], options: RunOptions = {}): number {
  const result = spawnSync(command, args, {
    cwd: options.cwd ?? root,
    env: environment(options.env),
    stdio: 'inherit',
  })
  if (result.error) fail(notStarted(command, result.error))
  return result.status ?? 1
}

/** Runs a command and returns what it writes on standard output. */
export function capture(command: string, args: string[], options: RunOptions = {}): string {
  const result = spawnSync(command, args, {
    cwd: options.cwd ?? root,
    env: environment(options.env),
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 256 * 1024 * 1024,
  })
  if (result.error) fail(notStarted(command, result.error))
  if (result.status !== 0) fail(`failed with status ${result.status}: ${command} ${args.join(' ')}`)
  return result.stdout
}

function notStarted(command: string, error: Error): string {
  const hint = installHints[command]
  return `could not start ${command}: ${error.message}${hint ? `; ${hint}` : ''}`
}
