// Lints and type checks of both languages; changes nothing.
import { announce, fail, tryRun } from './command.ts'

const checks: ReadonlyArray<readonly [command: string, ...args: string[]]> = [
  ['biome', 'check'],
  ['tsc', '--noEmit'],
  ['cargo', 'fmt', '--all', '--check'],
  ['cargo', 'clippy', '--workspace', '--all-targets', '--', '-D', 'warnings'],
]

const failed: string[] = []
for (const [command, ...args] of checks) {
  const name = [command, ...args].join(' ')
  announce(name)
  if (tryRun(command, args) !== 0) failed.push(name)
}
if (failed.length > 0) fail(`failed: ${failed.join('; ')}`)
