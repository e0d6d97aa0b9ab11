// Runs the tests, or the parts of them that are named: `npm test`, `npm run test:node -- __test__/cells.spec.ts`.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { findProgram } from '../__test__/support/program.ts'
import { announce, fail, root, run } from './command.ts'

/** They watch or count the processes of the whole machine, wait for a certain time, or use it up: nothing else runs beside them. */
const ALONE = [
  'child-process',
  'command',
  'degraded',
  'ending',
  'error-codes',
  'exhaustion',
  'host',
  'identity',
  'joined',
  'lifetime',
  'limits',
  'process',
  'stdio',
  'without-pidfds',
  'workers',
]

const parts = {
  system: () => {
    run(process.execPath, [...process.execArgv, join(import.meta.dirname, 'system-packages.ts')])
    beginDebianRoot()
  },
  // First of what can fail: whatever else does, they are checked.
  types: () => run('tsc', ['--noEmit']),
  rust: (args: string[]) => run('cargo', ['test', '--workspace', ...args]),
  node: runSpecs,
  full: runLong,
}

const [only, ...rest] = process.argv.slice(2)
if (only !== undefined && !Object.hasOwn(parts, only)) {
  fail(`unknown part ${only}: ${Object.keys(parts).join(', ')} are known`)
}
for (const [name, part] of Object.entries(parts)) {
  // What takes long is done only when it is asked for.
  if (only === undefined ? name === 'full' : only !== name) continue
  announce(`tests: ${name}`)
  const start = performance.now()
  await part(rest)
  announce(`tests: ${name} passed (${((performance.now() - start) / 1000).toFixed(1)} s)`)
}

/** It takes one processor most of a minute, and has that beside cargo. The specs wait for it, and say why it can't be made. */
function beginDebianRoot(): void {
  if (process.getuid?.() !== 0 || findProgram('debootstrap') === undefined) return
  const program = join(root, '__test__', 'support', 'images.ts')
  const child = spawn(process.execPath, [...process.execArgv, program], {
    cwd: root,
    stdio: 'inherit',
    detached: true,
  })
  // Where another part fails, all that it has begun ends too.
  process.once('exit', () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    try {
      process.kill(-child.pid, 'SIGTERM')
    } catch {
      // It has just ended.
    }
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
}

/** Every attack in every cell, and races and faults with their full numbers; docs/attacks.md has what came of the last run. */
async function runLong(): Promise<void> {
  const attacks = ['test', '--quiet', '--package', 'rootfs-supervisor', '--test', 'attacks', '--']
  run('cargo', [...attacks, '--all'])
  run('cargo', [...attacks, '--races=200'])
  const races = ['test', '--quiet', '--package', 'rootfs', '--test', 'races', '--', '--nocapture']
  run('cargo', races, { env: { ROOTFS_RACES: 'full' } })
  const kills = ['test', '--quiet', '--package', 'rootfs-supervisor', '--test', 'kills']
  run('cargo', kills, { env: { ROOTFS_KILLS: 'full' } })
  process.env.ROOTFS_CYCLES = '1000'
  process.env.ROOTFS_TEST_FULL = '1'
  await runSpecs(['lifetime', 'workers', 'exhaustion', 'degraded'].map((name) => `__test__/${name}.spec.ts`))
}

/** All specs, or name patterns or files. In CI a test may be skipped only if __test__/expected-skips.txt has its title. */
async function runSpecs(args: string[]): Promise<void> {
  const results: Ran[] = []
  for (const run of args.length > 0 ? [args] : allSpecs()) results.push(await ava(run))
  const failed = results.find(({ status }) => status !== 0)
  if (failed !== undefined) fail(`ava failed with status ${failed.status}`)
  const expected = expectedSkips()
  const skipped = results.flatMap((result) => result.skipped)
  const surprising = skipped.filter((title) => !expected.some((part) => title.includes(part)))
  if (process.env.CI && surprising.length > 0) {
    fail(`CI does not expect these tests to be skipped (${surprising.length}):\n  ${surprising.join('\n  ')}`)
  }
}

/** The arguments of ava for those that run two at a time, and for those that run alone. */
function allSpecs(): string[][] {
  const names = readdirSync(join(root, '__test__')).filter((name) => name.endsWith('.spec.ts'))
  const isAlone = (name: string) => ALONE.includes(name.replace('.spec.ts', ''))
  const files = (some: string[]) => some.map((name) => `__test__/${name}`)
  return [['--concurrency=2', ...files(names.filter((name) => !isAlone(name)))], files(names.filter(isAlone))]
}

interface Ran {
  status: number | null
  /** The titles of the tests that were skipped. */
  skipped: string[]
}

async function ava(args: string[]): Promise<Ran> {
  const program = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs')
  const child = spawn(process.execPath, [program, ...args], {
    cwd: root,
    stdio: ['inherit', 'pipe', 'inherit'],
  })
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', resolve)
  })
  const skipped: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    console.log(line)
    const title = /^\s*- \[skip\] (.*)$/.exec(line)?.[1]
    if (title !== undefined) skipped.push(title)
  }
  return { status: await exited, skipped }
}

/** The titles, or parts of them, that the list has: one a line, `#` begins a comment. */
function expectedSkips(): string[] {
  const list = join(root, '__test__', 'expected-skips.txt')
  if (!existsSync(list)) return []
  const lines = readFileSync(list, 'utf8').split('\n')
  return lines.map((line) => line.replace(/#.*/, '').trim()).filter((line) => line !== '')
}
