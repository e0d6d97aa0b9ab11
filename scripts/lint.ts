// Lints and type checks of both languages; changes nothing.
import { spawnSync } from 'node:child_process'
import { announce, fail, tryRun } from './command.ts'

const checks: Array<readonly [command: string, ...args: string[]]> = [
  ['biome', 'check'],
  ['tsc', '--noEmit'],
  ['cargo', 'fmt', '--all', '--check'],
  ['cargo', 'clippy', '--workspace', '--all-targets', '--', '-D', 'warnings'],
]

// Not among the development packages: it takes minutes to build.
if (spawnSync('cargo', ['deny', '--version'], { stdio: 'ignore' }).status !== 0)
  announce('cargo deny is not installed: skipped')
// Advisories are asked for by `npm run audit`: the same sources may be bad tomorrow.
else checks.push(['cargo', 'deny', '--all-features', 'check', 'licenses', 'bans', 'sources'])

const failed: string[] = []
for (const [command, ...args] of checks) {
  const name = [command, ...args].join(' ')
  announce(name)
  if (tryRun(command, args) !== 0) failed.push(name)
}
if (failed.length > 0) fail(`failed: ${failed.join('; ')}`)
