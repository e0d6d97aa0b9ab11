// Programs of the host: where they are, and running one to its end.
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { join } from 'node:path'

const searchPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

/** Where a program is, looked up in the system's directories and not in the caller's PATH. */
export function findProgram(name: string): string | undefined {
  return searchPath
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

export interface Finished {
  exitCode: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface ProgramOptions {
  input?: string
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** Milliseconds until it is killed. @default 120000 */
  timeout?: number
}

export function runProgram(command: string, args: string[], options: ProgramOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: 'pipe',
      env: options.env ?? process.env,
      timeout: options.timeout ?? 120_000,
      killSignal: 'SIGKILL',
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    })
    const printed = { stdout: '', stderr: '' }
    child.stdout.setEncoding('utf8').on('data', (text: string) => (printed.stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (printed.stderr += text))
    child.once('error', reject)
    child.once('close', (exitCode, signal) => resolve({ exitCode, signal, ...printed }))
    // A program that ends without reading is no error of its own.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
  })
}

/** The same, for a program that must succeed. */
export async function mustRun(
  command: string,
  args: string[],
  options: ProgramOptions = {},
): Promise<string> {
  const { exitCode, signal, stdout, stderr } = await runProgram(command, args, options)
  if (exitCode !== 0) {
    throw new Error(`${command} ${args.join(' ')} ended with ${exitCode ?? signal}:\n${stderr || stdout}`)
  }
  return stdout
}
