// Runs tests on older kernels of Debian. Needs root, Debian's apt, and x86-64. The host's files are below an overlay in each
// machine, so nothing is written to them.
//
//   npm run test:older [-- [--kernel 6.1|6.12|uml]... [--as root|user]... [--match TITLE]... [TEST...]]
//
// A test is a file of a spec, or the name of a Rust test of the supervisor, with its arguments after commas
// (`attacks,dev-link`). An ordinary user can run only few of them: most become one themselves, and need root for that.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { announce, capture, fail, root } from './command.ts'
import { provide } from './debian-packages.ts'
import { MARK, type Suite, scriptOf } from './older-kernel/guest.ts'
import { kept, type Machine, machines } from './older-kernel/machines.ts'

const users = ['root', 'user'] as const
type User = (typeof users)[number]

/** What says much about a kernel and starts few processes, which is slow in an emulated machine. */
const usual: Record<User, string[]> = {
  root: [
    ...['cells', 'lifetime', 'generated', 'attacks,dev-link,mount-on-proc'],
    ...['destinations', 'options'].map(specFile),
  ],
  user: ['cells,ordinary_user', ...['examples', 'inspect', 'open-in-root', 'probe'].map(specFile)],
}

const { values, positionals } = parseArgs({
  options: {
    kernel: { type: 'string', multiple: true, default: Object.keys(machines) },
    as: { type: 'string', multiple: true, default: [...users] },
    match: { type: 'string', multiple: true, default: [] },
  },
  allowPositionals: true,
})

function specFile(name: string): string {
  return `__test__/${name}.spec.ts`
}

const isSpec = (name: string): boolean => name.endsWith('.ts')

/** The executables of the Rust tests, by name. */
function rustTests(): Map<string, string> {
  const built = capture('cargo', [
    ...['test', '--package', 'rootfs-supervisor', '--no-run'],
    '--message-format=json-render-diagnostics',
  ])
  const messages = built.split('\n').filter((line) => line.startsWith('{'))
  const found = new Map<string, string>()
  for (const { target, executable } of messages.map((line) => JSON.parse(line)))
    if (target?.kind.includes('test') && executable) found.set(target.name, executable)
  return found
}

function suitesOf(user: User, built: Map<string, string>): Suite[] {
  const names = positionals.length > 0 ? positionals : usual[user]
  const suites: Suite[] = []
  for (const name of names) {
    if (isSpec(name)) {
      const titles = values.match.map((title) => `--match=${title}`)
      suites.push({ name, command: [process.execPath, 'node_modules/.bin/ava', ...titles, name] })
    } else {
      const [test = '', ...args] = name.split(',')
      const program = built.get(test)
      if (program === undefined) fail(`no test ${test}: ${[...built.keys()].join(', ')} are known`)
      suites.push({ name: name.replaceAll(',', ' '), command: [program, ...args] })
    }
  }
  return suites
}

interface Row {
  kernel: string
  user: User
  suite: string
  passed: number
  failed: number
  skipped: number
  /** Undefined while it runs. */
  status?: number
}

/** Adds what a line of a test program or of ava says in the end. */
function count(row: Row, line: string): void {
  const number = (pattern: RegExp): number => Number(pattern.exec(line)?.[1] ?? 0)
  // When some have failed, ava doesn't say how many have not.
  if (/^ {2}[√✔] /.test(line)) row.passed += 1
  if (/^test result: |^ {2}\d+ (tests?|hooks?|uncaught|unhandled) /.test(line)) {
    row.passed += number(/(\d+) passed/)
    row.failed += number(/(\d+) (?:(?:tests?|hooks?) )?failed/) + number(/(\d+) (?:uncaught|unhandled)/)
    row.skipped += number(/(\d+) (?:ignored|tests? skipped)/)
  }
  const attacks = /^\d+ attacks, (\d+) runs, (\d+) failed/.exec(line)
  if (attacks !== null) {
    row.failed += Number(attacks[2])
    row.passed += Number(attacks[1]) - Number(attacks[2])
  }
}

/** Of what uname says: the release, and the package's version. */
function exact(said: string): string {
  const [release = ''] = said.split(' ')
  const version = /Debian (\S+)/.exec(said)?.[1]
  return version === undefined ? `${release} (user-mode Linux)` : `${release} (${version})`
}

async function runIn(name: string, machine: Machine, user: User, suites: Suite[]): Promise<Row[]> {
  announce(`${name}, as ${user}: ${suites.map((suite) => suite.name).join(', ')}`)
  const directory = mkdtempSync(join(kept, 'script-'))
  const rows: Row[] = []
  let [kernel, ended] = ['', false]
  const lines: string[] = []
  try {
    const script = join(directory, 'script')
    writeFileSync(script, scriptOf(root, dirname(process.execPath), user, suites))
    const [command = '', ...args] = machine.boot(script)
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const closed = new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
    const deadline = setTimeout(() => child.kill('SIGKILL'), 30 * 60_000)
    for await (const said of createInterface({ input: child.stdout })) {
      const line = said.replace(/\r$/, '')
      const [, word, rest = ''] = new RegExp(`^${MARK} (\\w+) ?(.*)$`).exec(line) ?? []
      const row = rows.at(-1)
      if (word === 'kernel') kernel = exact(rest)
      if (word === 'suite') rows.push({ kernel, user, suite: rest, passed: 0, failed: 0, skipped: 0 })
      if (word === 'status' && row !== undefined) row.status = Number(rest)
      if (word === 'end') ended = true
      lines.push(line)
      // What the machine says before and after is of interest only if it fails.
      if (kernel !== '' && !ended && word !== 'status') console.log(line)
      if (row !== undefined && row.status === undefined) count(row, line)
    }
    await closed
    clearTimeout(deadline)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
  if (!ended) {
    announce(`the machine has ended too early:\n${lines.slice(-30).join('\n')}`)
    process.exitCode = 1
  }
  return rows
}

if (process.getuid?.() !== 0) fail('it has to run as root')
if (process.arch !== 'x64') fail('it needs a machine with x86-64')
if (/\s/.test(root)) fail(`the path of the checkout has a space: ${root}`)
const chosen = values.kernel.map((name) => {
  const machine = machines[name]
  if (machine === undefined) fail(`no kernel ${name}: ${Object.keys(machines).join(', ')} are known`)
  return { name, machine }
})
const as = values.as.map((name) => users.find((user) => user === name) ?? fail(`--as ${name}: root or user`))
const requirements = chosen.flatMap(({ machine }) => machine.requirements)
if (provide([...new Map(requirements.map((wanted) => [wanted.program, wanted])).values()]).length > 0)
  fail('these packages are needed')
for (const { machine } of chosen) machine.prepare()
const built = rustTests()
const rows: Row[] = []
for (const { name, machine } of chosen)
  for (const user of as) {
    const suites = suitesOf(user, built)
    if (suites.length > 0) rows.push(...(await runIn(name, machine, user, suites)))
  }

console.log('\n| kernel | as | tests | passed | failed | skipped |\n| --- | --- | --- | --- | --- | --- |')
for (const { kernel, user, suite, passed, failed, skipped, status } of rows) {
  const came =
    status === undefined ? 'it has not ended' : status === 0 || failed > 0 ? failed : `status ${status}`
  console.log(`| ${kernel} | ${user} | ${suite} | ${passed} | ${came} | ${skipped} |`)
}
if (rows.length === 0 || rows.some((row) => row.status !== 0)) process.exitCode = 1
