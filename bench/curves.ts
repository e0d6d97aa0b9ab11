// What a container costs as something grows. Each curve is measured in a process of its own, started by scale.ts in a
// private mount namespace; the mounts that it makes end with that.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { type PreparedRootfs, Rootfs } from 'rootfs'
import { makeContenders } from './contenders.ts'
import type { Fixture } from './fixture.ts'
import { summarize } from './statistics.ts'

/** One line of a table. Numbers that say nothing else are milliseconds. */
export type Point = Readonly<Record<string, number | string>>

export interface CurveTask {
  readonly curve: string
  readonly fixture: Fixture
  /** scale.c, compiled. */
  readonly helper: string
  readonly calls: number
  readonly result: string
}

/** Milliseconds between two calls: the next first process is made meanwhile, as it is where nobody is in a hurry. */
const GAP = 5
const WARMUP = 20

async function median(calls: number, call: () => Promise<number>): Promise<number> {
  const times: number[] = []
  for (let count = -Math.min(WARMUP, calls); count < calls; count++) {
    const time = await call()
    if (count >= 0) times.push(time)
    await setTimeout(GAP)
  }
  return summarize(times).median
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const before = performance.now()
  await action()
  return performance.now() - before
}

async function runTrue(rootfs: Pick<Rootfs, 'run'>): Promise<void> {
  const { exitCode } = await rootfs.run('/bin/true')
  if (exitCode !== 0) throw new Error(`a container ended with ${exitCode}`)
}

/**
 * Ours, and then the floor: not in turns, because what it leaves to the kernel's workers, the end of a copy of all mounts,
 * would be paid by ours. A floor of its own each time: it copies the mount table when it begins.
 */
async function withFloor(task: CurveTask): Promise<Point> {
  const point: Record<string, number> = {}
  for (const name of ['rootfs', 'floor']) {
    const [contender] = await makeContenders(task.fixture, 'pipe', (wanted) => wanted === name, 'usual')
    if (contender === undefined || 'missing' in contender) throw new Error(`${name}: ${contender?.missing}`)
    point[name] = await median(task.calls, async () => (await contender.once()).total)
    contender.close?.()
  }
  return point
}

async function mounts(task: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  const [source, directory] = ['source', 'mounts'].map((name) => join(task.fixture.directory, name))
  for (const name of [source!, directory!]) mkdirSync(name)
  // The directories are made in a tmpfs that ends with this namespace, so that none is left where it could be mounted on.
  execFileSync('mount', ['-t', 'tmpfs', 'scale', directory!])
  let made = 0
  for (const count of [0, 1000, 5000]) {
    execFileSync(task.helper, ['mounts', String(made), String(count), source!, directory!])
    made = count
    const table = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length - 1
    points.push({ 'mounts more': count, 'in the table': table, ...(await withFloor(task)) })
  }
  return points
}

async function threads(task: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  for (const count of [0, 1000, 10_000]) {
    const child = spawn(task.helper, ['threads', String(count)], { stdio: ['pipe', 'pipe', 'inherit'] })
    const closed = once(child, 'close')
    const line = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()
    if (line.value === 'ready') points.push({ 'idle threads': count, ...(await withFloor(task)) })
    else points.push({ 'idle threads': count, note: `not made: ${line.value}` })
    child.stdin.end()
    await closed
  }
  return points
}

async function binds({ fixture, calls }: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  let [base, templateBase] = [0, 0]
  const source = join(fixture.directory, 'source')
  mkdirSync(source)
  for (const count of [0, 10, 100, 1000, 10_000]) {
    for (let number = 0; number < count; number++) {
      mkdirSync(join(fixture.root, `mnt/${number}`), { recursive: true })
    }
    const describe = (): Rootfs => {
      const rootfs = new Rootfs(fixture.root).defaults()
      for (let number = 0; number < count; number++) {
        rootfs.bind(source, `/mnt/${number}`, { readonly: true })
      }
      return rootfs
    }
    const described = describe()
    // Without the description, which a template has only once.
    const total = await median(calls, () => timed(() => runTrue(described)))
    const description = await median(Math.min(calls, 10), () => timed(async () => describe()))
    const before = performance.now()
    const template = await described.template()
    const making = performance.now() - before
    const again = await median(calls, () => timed(() => runTrue(template)))
    await template.close()
    if (count === 0) [base, templateBase] = [total, again]
    points.push({
      binds: count,
      run: total,
      ...(count > 0 && { 'us each': (1000 * (total - base)) / count }),
      description,
      'make template': making,
      'from template': again,
      ...(count > 0 && { 'us each there': (1000 * (again - templateBase)) / count }),
    })
  }
  return points
}

/** Of one size, here: the task of a process that heap() starts. */
async function heapOf({ fixture, calls }: CurveTask, megabytes: number, what: string): Promise<Point> {
  const ballast = Array.from({ length: megabytes / 8 }, (_, chunk) => new Uint8Array(2 ** 23).fill(chunk + 1))
  const program = join(fixture.root, 'bin/true')
  const blocked: number[] = []
  const rootfs = async (): Promise<void> => {
    const before = performance.now()
    const running = runTrue(new Rootfs(fixture.root).defaults())
    blocked.push(performance.now() - before)
    await running
  }
  const withoutContainer = async (): Promise<void> => {
    const before = performance.now()
    const child = spawn(program)
    blocked.push(performance.now() - before)
    // An unread pipe never closes.
    child.stdout.resume()
    child.stderr.resume()
    await once(child, 'close')
  }
  const total = await median(calls, () => timed(what === 'rootfs' ? rootfs : withoutContainer))
  const { rss } = process.memoryUsage()
  // Also keeps it until here.
  if (ballast.length !== megabytes / 8) throw new Error('the ballast is gone')
  return { total, blocked: summarize(blocked.slice(-calls)).median, rss }
}

async function heap(task: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  for (const megabytes of [0, 1024, 4096]) {
    const available = memory('MemAvailable')
    // Only one process at a time has it.
    if (megabytes * 2 ** 20 > 0.8 * available) {
      const note = `skipped: ${Math.round(available / 2 ** 20)} MB are available`
      points.push({ 'MB of buffers': megabytes, note })
      continue
    }
    const [ours, spawned] = ['rootfs', 'spawn'].map((what) => {
      const file = join(task.fixture.directory, 'heap.json')
      writeFileSync(file, JSON.stringify({ ...task, curve: `heap ${megabytes} ${what}`, result: file }))
      const args = [...process.execArgv, import.meta.filename, file]
      execFileSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] })
      return (JSON.parse(readFileSync(file, 'utf8')) as Array<Record<string, number>>)[0]!
    })
    points.push({
      'MB of buffers': megabytes,
      'MB resident': Math.round(ours!.rss! / 2 ** 20),
      rootfs: ours!.total!,
      'rootfs blocks': ours!.blocked!,
      spawn: spawned!.total!,
      'spawn blocks': spawned!.blocked!,
    })
  }
  return points
}

/** Bytes that /proc/meminfo has under these names. */
function memory(...names: string[]): number {
  const text = readFileSync('/proc/meminfo', 'utf8')
  // One that this kernel doesn't have is nothing.
  const of = (name: string) => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  return 1024 * names.reduce((sum, name) => sum + of(name), 0)
}

/** All of the machine that isn't free or a cache of files, the kernel's own part included. */
const memoryInUse = (): number =>
  memory('AnonPages', 'Shmem', 'Slab', 'KernelStack', 'PageTables', 'SecPageTables', 'Percpu')

/** The fields of /proc/PID/stat after the name, which may have spaces: the first is the state. */
function statusOf(pid: number | string): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

/** The supervisor is the child of this process that is called so. */
function supervisor(): number {
  const found = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .find((pid) => {
      try {
        return (
          statusOf(pid)[1] === String(process.pid) &&
          readFileSync(`/proc/${pid}/comm`, 'utf8') === 'rootfs-super\n'
        )
      } catch {
        // It has ended meanwhile.
        return false
      }
    })
  if (found === undefined) throw new Error('there is no supervisor')
  return Number(found)
}

interface Processor {
  readonly node: number
  readonly supervisor: number
  readonly containers: number
}

const TICK = 1000 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))

/** Milliseconds of processor so far: of this process, of the supervisor, and of the containers that have ended. */
function processor(of: number): Processor {
  const { user, system } = process.cpuUsage()
  const status = statusOf(of).map(Number)
  return {
    node: (user + system) / 1000,
    supervisor: TICK * (status[11]! + status[12]!),
    containers: TICK * (status[13]! + status[14]!),
  }
}

/** Milliseconds that processors of this machine have had nothing to do. The kernel samples the busy time, but not this. */
function idle(): number {
  const [, ...times] = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.split(/ +/)
  const [idle, waiting] = [Number(times[3]), Number(times[4])]
  return TICK * (idle + waiting)
}

async function inFlight({ fixture, calls }: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  const one = () => runTrue(new Rootfs(fixture.root).defaults())
  for (let warmup = 0; warmup < 20; warmup++) await one()
  const pid = supervisor()
  for (const hands of [1, 2, 5, 10, 20, 50, 100]) {
    // A clock tick is ten containers' time: there have to be many.
    const count = Math.max(20 * calls, 6 * hands)
    let left = count
    const hand = async () => {
      while (left > 0) {
        left -= 1
        await one()
      }
    }
    const before = processor(pid)
    const idleBefore = idle()
    const took = await timed(() => Promise.all(Array.from({ length: hands }, hand)))
    const busy = cpus().length * took - (idle() - idleBefore)
    // What has ended is waited for, and what is ahead made or given up, a little later.
    await setTimeout(50)
    const after = processor(pid)
    const each = (what: keyof Processor): number => (after[what] - before[what]) / count
    points.push({
      'in flight': hands,
      'per second': (1000 * count) / took,
      node: each('node'),
      supervisor: each('supervisor'),
      container: each('containers'),
      'whole machine': busy / count,
      'processors busy': busy / took,
    })
  }
  return points
}

/** Bytes that a process alone has, and all that it has in memory. */
function residentOf(pid: number): { own: number; all: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const field = (name: string): number => 1024 * Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(text)?.[1])
  return { own: field('Private_Clean') + field('Private_Dirty'), all: field('Rss') }
}

const descriptors = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length

/** Milliseconds until what has ended is freed. */
const SETTLING = 500

async function alive({ fixture, calls }: CurveTask): Promise<Point[]> {
  const points: Point[] = []
  const rootfs = new Rootfs(fixture.root).defaults()
  // What the kernel and V8 keep for the next is not of those that are counted.
  await median(calls, () => timed(() => runTrue(rootfs)))
  await setTimeout(SETTLING)
  const pid = supervisor()
  const used = memoryInUse()
  const base = { node: descriptors(process.pid), supervisor: descriptors(pid) }
  const boxes: PreparedRootfs[] = []
  for (const count of [10, 100, 500]) {
    while (boxes.length < count) boxes.push(await rootfs.prepare())
    const more = await median(calls, async () => {
      const before = performance.now()
      const box = await rootfs.prepare()
      const took = performance.now() - before
      await box.close()
      return took
    })
    await setTimeout(SETTLING)
    const own = boxes.map((box) => residentOf(box.pid).own / 1024)
    const of = residentOf(pid)
    points.push({
      alive: count,
      'kB private each': summarize(own).median,
      'kB machine each': (memoryInUse() - used) / 1024 / count,
      'kB supervisor': of.all / 1024,
      'kB private of it': of.own / 1024,
      'fds Node each': (descriptors(process.pid) - base.node) / count,
      'fds supervisor each': (descriptors(pid) - base.supervisor) / count,
      'one more prepare': more,
    })
  }
  await Promise.all(boxes.map((box) => box.close()))
  return points
}

export const CURVES: Readonly<
  Record<string, { title: string; measure: (task: CurveTask) => Promise<Point[]> }>
> = {
  mounts: { title: 'mounts of the host, ms', measure: mounts },
  threads: { title: 'threads of the host, ms', measure: threads },
  binds: { title: 'read-only binds of a container, ms', measure: binds },
  heap: { title: 'memory of the process that calls, ms', measure: heap },
  'in-flight': { title: 'many at once; milliseconds of processor for each', measure: inFlight },
  alive: { title: 'prepared roots that live at once', measure: alive },
}

if (import.meta.filename === process.argv[1]) {
  const task = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as CurveTask
  const [curve, megabytes, what] = task.curve.split(' ')
  const points =
    what === undefined ? await CURVES[curve!]!.measure(task) : [await heapOf(task, Number(megabytes), what)]
  writeFileSync(task.result, JSON.stringify(points))
}
