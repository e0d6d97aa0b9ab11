// Where the processor's time goes that one container takes, by perf: for each process, which system call it was in.

import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { makeContenders, type Scene } from './contenders.ts'
import { type Fixture, findProgram, makeFixture, removeFixture } from './fixture.ts'
import { runIsolated } from './isolation.ts'
import { table } from './statistics.ts'

const USAGE = `usage: node --import=@oxc-node/core/register bench/profile.ts [options]
  --of NAME       whose containers: rootfs, rootfs-net, rootfs-binds, rootfs-template, floor … (default: rootfs)
  --calls N       so many of them (default: 500, and a tenth of that with 1000 binds)
  --in-flight N   so many at a time (default: 1)`

interface Task {
  readonly name: string
  readonly scene: Scene
  readonly calls: number
  readonly inFlight: number
  readonly fixture: Fixture
  /** Where the time is written at which it began and ended; the kernel's clock, nanoseconds. */
  readonly result: string
}

type Span = readonly [begin: string, end: string]

/** Makes the containers, in the process that is watched. */
async function work({ name, scene, calls, inFlight, fixture, result }: Task): Promise<void> {
  const contenders = await makeContenders(fixture, 'pipe', (one) => one === name, scene)
  const [contender] = contenders
  if (contender === undefined || 'missing' in contender) {
    throw new Error(`${name}: ${contender === undefined ? 'not of this scene' : contender.missing}`)
  }
  await contender.many(Math.ceil(calls / 10), inFlight)
  await setTimeout(100)
  const begin = process.hrtime.bigint()
  if (inFlight > 1) await contender.many(calls, inFlight)
  else {
    for (let call = 0; call < calls; call++) {
      await contender.once()
      await setTimeout(2)
    }
  }
  const end = process.hrtime.bigint()
  writeFileSync(result, JSON.stringify([begin, end].map(String)))
  contender.close?.()
}

/** What the kernel's functions for system calls are named like. */
const CALL = /^(?:__x64_sys_|__arm64_sys_|__do_sys_|__se_sys_|do_sys_)(\w+?)\+/

/** What a sample was taken in, from its stack, innermost first. */
function place(stack: readonly string[]): string {
  const call = stack.map((frame) => CALL.exec(frame)?.[1]).find((name) => name !== undefined)
  if (call !== undefined) return call
  const has = (...names: string[]) => stack.some((frame) => names.some((name) => frame.startsWith(name)))
  if (has('exc_page_fault', 'do_page_fault', 'do_mem_abort')) return 'page faults'
  if (has('do_exit', 'task_work_run')) return 'its end, and what was put off'
  if (has('sysvec_', 'asm_sysvec_', 'common_interrupt', 'el0_irq', 'el1h_64_irq')) return 'interrupts'
  if (has('do_syscall_64', 'entry_SYSCALL_64', 'el0_svc', 'invoke_syscall')) return 'to the kernel and back'
  return /\((?:\[kernel|\[guest)/.test(stack[0] ?? '') ? 'the kernel besides' : 'the program itself'
}

/** Nanoseconds by process and place. */
async function read(data: string, [begin, end]: Span): Promise<Map<string, Map<string, number>>> {
  const perf = spawn('perf', ['script', '-i', data, '-F', 'comm,time,period,ip,sym,symoff,dso', '--ns'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const found = new Map<string, Map<string, number>>()
  const [from, to] = [Number(begin) / 1e9, Number(end) / 1e9]
  let [who, period, stack]: [string, number, string[]] = ['', 0, []]
  const add = () => {
    const process = whose(who)
    if (process !== undefined) {
      const places = found.get(process) ?? new Map<string, number>()
      found.set(process, places)
      const where = process === 'kernel threads' ? 'all' : place(stack)
      places.set(where, (places.get(where) ?? 0) + period)
    }
    ;[who, period, stack] = ['', 0, []]
  }
  for await (const line of createInterface({ input: perf.stdout })) {
    const head = /^(\S.*?)\s+(\d+\.\d+):\s+(\d+)/.exec(line)
    if (head !== null) {
      const time = Number(head[2])
      if (time >= from && time <= to) [who, period] = [head[1]!.trim(), Number(head[3])]
    } else if (line.trim() === '') add()
    else stack.push(line.trim().replace(/^[0-9a-f]+ /, ''))
  }
  add()
  if (found.size === 0) throw new Error('perf has told of no sample')
  return found
}

/** By their names, of all that runs on the machine. */
function whose(process: string): string | undefined {
  if (/^(?:ksoftirqd|kworker|rcu_|kdamond|migration|kcompactd)/.test(process)) return 'kernel threads'
  return /^(?:node|floor|rootfs.*|true|busybox)$/.test(process) ? process : undefined
}

function sum(places: Map<string, number>): number {
  return [...places.values()].reduce((a, b) => a + b, 0)
}

/** All that is a hundredth of the whole. */
function show(found: Map<string, Map<string, number>>, calls: number): void {
  const processes = [...found].sort(([, a], [, b]) => sum(b) - sum(a))
  const least = processes.reduce((all, [, places]) => all + sum(places), 0) / 100
  const rows = [['process', 'in', 'µs each']]
  const add = (who: string, where: string, ns: number): void => {
    if (ns >= least) rows.push([who, where, (ns / 1000 / calls).toFixed(0)])
  }
  for (const [who, places] of processes) {
    add(who, 'all', sum(places))
    if (places.size === 1) continue
    for (const [where, ns] of [...places].sort(([, a], [, b]) => b - a)) add('', where, ns)
  }
  console.log(table(rows, 2))
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      of: { type: 'string', default: 'rootfs' },
      calls: { type: 'string' },
      'in-flight': { type: 'string', default: '1' },
    },
  })
  const scene = /-binds$|-template$/.test(values.of) ? 'binds' : 'usual'
  const calls = Number(values.calls ?? (scene === 'binds' ? 50 : 500))
  const inFlight = Number(values['in-flight'])
  if (![calls, inFlight].every((count) => Number.isInteger(count) && count > 0)) {
    console.error(USAGE)
    process.exit(2)
  }
  if (process.getuid?.() !== 0 || findProgram('perf') === undefined) {
    console.error('profile: this needs root, and perf (on Debian the package linux-perf)')
    process.exit(1)
  }
  const fixture = makeFixture('busybox')
  try {
    const at = (name: string): string => join(fixture.directory, name)
    const task: Task = { name: values.of, scene, calls, inFlight, fixture, result: at('span.json') }
    writeFileSync(at('task.json'), JSON.stringify(task))
    const record = [
      'perf',
      'record',
      '-e',
      'cpu-clock',
      '--quiet',
      '-a',
      '-g',
      '-k',
      'CLOCK_MONOTONIC',
      '-o',
      at('perf.data'),
      '--',
    ]
    await runIsolated('profile.ts', at('task.json'), record)
    const span = JSON.parse(readFileSync(task.result, 'utf8')) as Span
    console.log(
      `${calls} containers of ${values.of}, ${inFlight} at a time; processor time, slower for being watched`,
    )
    show(await read(at('perf.data'), span), calls)
  } finally {
    removeFixture(fixture)
  }
}

const [, , file] = process.argv
if (file?.endsWith('task.json')) await work(JSON.parse(readFileSync(file, 'utf8')) as Task)
else await main()
