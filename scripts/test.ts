// Runs the tests, or the parts of them that are named: `npm test`, `npm run test:node -- __test__/cells.spec.ts`.
import { type StdioOptions, spawn } from 'node:child_process'
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
  rust: (args: string[]) => run('cargo', ['test', '--workspace', ...args]),
  types: () => run('tsc', ['--noEmit']),
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
  spawn(process.execPath, [...process.execArgv, program], { cwd: root, stdio: 'inherit' })
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
  const skipped: string[] = []
  if (args.length > 0) {
    skipped.push(...(await ava(args)))
  } else {
    const isAlone = (file: string) => ALONE.some((name) => file === `__test__/${name}.spec.ts`)
    const files = readdirSync(join(root, '__test__'))
      .filter((file) => file.endsWith('.spec.ts'))
      .map((file) => `__test__/${file}`)
    skipped.push(...(await ava(['--concurrency=2', ...files.filter((file) => !isAlone(file))])))
    skipped.push(...(await ava(files.filter(isAlone))))
  }
  const expected = expectedSkips()
  const surprising = skipped.filter((title) => !expected.some((part) => title.includes(part)))
  if (process.env.CI && surprising.length > 0) {
    fail(`CI does not expect these tests to be skipped (${surprising.length}):\n  ${surprising.join('\n  ')}`)
  }
}

/** Runs ava. The titles of the tests that were skipped. */
async function ava(args: string[]): Promise<string[]> {
  const program = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs')
  const stdio: StdioOptions = ['inherit', 'pipe', 'inherit']
  const child = spawn(process.execPath, [program, ...args], { cwd: root, stdio })
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', resolve)
  })
  const skipped: string[] = []
  for await (const line of createInterface({ input: child.stdout! })) {
    console.log(line)
    const title = /^\s*- \[skip\] (.*)$/.exec(line)?.[1]
    if (title !== undefined) skipped.push(title)
  }
  const status = await exited
  if (status !== 0) fail(`ava failed with status ${status}`)
  return skipped
}

/** The titles, or parts of them, that the list has: one a line, `#` begins a comment. */
function expectedSkips(): string[] {
  const list = join(root, '__test__', 'expected-skips.txt')
  if (!existsSync(list)) return []
  const lines = readFileSync(list, 'utf8').split('\n')
  return lines.map((line) => line.replace(/#.*/, '').trim()).filter((line) => line !== '')
}
