// Messages on standard error, and the exit status that goes with one.
import type { RootfsError, Warning } from '../../index.js'

/** The command line is wrong. */
export class UsageError extends Error {}

/** rootfs itself has failed. */
const FAILED = 125
/** The command is there and can't be executed. */
const NOT_EXECUTABLE = 126
/** The command isn't there. */
const NOT_FOUND = 127

/** Text for a terminal: names of a config or an image could otherwise move its cursor. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** A hint that says how to call a function, for those who have written a command line. */
function forCommandLine(hint: string): string {
  return hint.replace(/\{ ignore: \['(.*)'\] \}/, (_, name: string) =>
    /^[\w./-]+$/.test(name) ? `--ignore ${name}` : `--ignore '${name.replaceAll("'", "'\\''")}'`,
  )
}

function line(text: string): void {
  process.stderr.write(`rootfs: ${printable(text)}\n`)
}

/** Says what went wrong, and what to do about it. */
export function report(error: unknown): void {
  const { name, message = `${error}`, pointer, hint } = error as Partial<RootfsError>
  // The addon's loader says in several lines what it has tried. In others a line's end is part of a name.
  const lines = name === 'Error' ? message.replace(/^rootfs: /, '').split('\n') : [message]
  lines.forEach((text, index) => {
    line(index === 0 && pointer ? `${text} (${pointer})` : text)
  })
  if (error instanceof UsageError) {
    line('try rootfs --help')
  } else if (hint !== undefined) {
    line(`hint: ${forCommandLine(hint)}`)
  }
}

export function reportWarnings(warnings: readonly Warning[]): void {
  for (const { message } of warnings) {
    line(`warning: ${message}`)
  }
}

/** As shells and other container runtimes have it. */
export function exitStatus(error: unknown): number {
  const { code, syscall, errnoName } = error as Partial<RootfsError>
  if (code !== 'ERR_ROOTFS_EXEC' || syscall !== 'execve') {
    return FAILED
  }
  return errnoName === 'ENOENT' ? NOT_FOUND : NOT_EXECUTABLE
}
