// Compares the time from call to exit of one container: ours, a C program's, bubblewrap's, crun's and runc's.

import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Scene } from './contenders.ts'
import { BINDS, findProgram, makeFixture, removeFixture } from './fixture.ts'
import { machine, runIsolated } from './isolation.ts'
import { table } from './statistics.ts'
import type { Heap, Measured, Result, Task } from './worker.ts'

const USAGE = `usage: node --import=@oxc-node/core/register bench/run.ts [options]
  --scene NAMES           usual, mounts (5000 more on the host), binds (1000 in the container), rootless (default: all)
  --heap small|1gb|both   memory of the Node process that calls, in the usual scene (default: both)
  --iterations N          measured calls of each contender (default: 200)
  --only NAMES            comma-separated, a * at the end matches the rest: rootfs*,floor,floor-net
  --stdio pipe|ignore     stdio of the command, for ours and for child_process (default: pipe)
  --target busybox|tiny   /bin/true of busybox, or a program that only exits (default: busybox)
  --in-flight N,N         containers a second with so many at a time, or '' for none (default: 1,10,50)
  --gap MS                pause between two calls (default: 2)
  --json FILE             write the results there`

/** What ours, at most, may be of another's median. `-net` counterparts have the same. */
const TARGETS: Record<Heap, Record<string, number>> = {
  small: { floor: 1.25, bwrap: 0.4, crun: 0.27, runc: 0.08, spawn: 1.3 },
  '1gb': { floor: 1.25, bwrap: 0.1, crun: 0.09, runc: 0.05, spawn: 0.12 },
}
/** A command in a prepared root, against one with no container at all. */
const PREPARED_TARGET: Record<Heap, number> = { small: 0.8, '1gb': 0.8 }
const BLOCKED_TARGET: Record<Heap, number> = { small: 0.2, '1gb': 0.02 }
const HEAP_TARGET = 1.2

/** How many times as many containers a second as another ours are to be, ten at a time. */
const THROUGHPUT_TARGET: Record<string, number> = { floor: 0.8, bwrap: 1.7, crun: 2.3, runc: 7 }

const SCENES: readonly Scene[] = ['usual', 'mounts', 'binds', 'rootless']
/** How many more mounts the host has in that scene. */
const HOST_MOUNTS = 5000
const HOST_MOUNTS_TARGET = 1.5
/** With many binds, against others. */
const BINDS_TARGET: Record<string, number> = { 'crun-binds': 0.5, 'runc-binds': 0.17, 'bwrap-binds': 0.02 }
const PER_BIND_TARGET = 1.3
const GROWTH_TARGET = 1.2
const TEMPLATE_TARGET = 0.4
const ROOTLESS_TARGET: Record<string, number> = { floor: 1.25, bwrap: 0.45 }
/** In megabytes. */
const MEMORY_TARGET = { supervisor: 2, container: 1 }

/** Who calls in the scene of an ordinary user. */
const ORDINARY_USER = 65534

interface Comparison {
  readonly where: string
  readonly ours: string
  readonly against: string
  readonly what: string
  readonly ratio: number
  readonly target?: number
}

function fail(message: string): never {
  console.error(`bench: ${message}\n${USAGE}`)
  process.exit(2)
}

function choice<T extends string>(value: string, name: string, allowed: readonly T[]): T {
  return allowed.find((item) => item === value) ?? fail(`--${name} is one of ${allowed.join(', ')}`)
}

function number(value: string, name: string, minimum: number): number {
  const result = Number(value)
  return Number.isInteger(result) && result >= minimum
    ? result
    : fail(`--${name} is a number from ${minimum}`)
}

function parse() {
  try {
    return parseArgs({
      options: {
        scene: { type: 'string', default: SCENES.join(',') },
        heap: { type: 'string', default: 'both' },
        iterations: { type: 'string', default: '200' },
        only: { type: 'string', default: '' },
        stdio: { type: 'string', default: 'pipe' },
        target: { type: 'string', default: 'busybox' },
        'in-flight': { type: 'string', default: '1,10,50' },
        gap: { type: 'string', default: '2' },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
  } catch (error) {
    return fail((error as Error).message)
  }
}

function readOptions() {
  const { values } = parse()
  if (values.help) {
    console.log(USAGE)
    process.exit()
  }
  const heap = choice(values.heap, 'heap', ['small', '1gb', 'both'])
  const heaps: readonly Heap[] = heap === 'both' ? ['small', '1gb'] : [heap]
  return {
    scenes: values.scene.split(',').map((name) => choice(name, 'scene', SCENES)),
    heaps,
    iterations: number(values.iterations, 'iterations', 1),
    only: values.only.split(',').filter((name) => name !== ''),
    stdio: choice(values.stdio, 'stdio', ['pipe', 'ignore']),
    target: choice(values.target, 'target', ['busybox', 'tiny']),
    gap: number(values.gap, 'gap', 0),
    inFlight: values['in-flight']
      .split(',')
      .filter((text) => text !== '')
      .map((text) => number(text, 'in-flight', 1)),
    json: values.json,
  }
}

/** What puts the measuring process where a scene plays. */
function place({ scene, fixture }: Task): string[] {
  if (scene === 'mounts') {
    const script = '"$1" mounts 0 "$2" "$3" "$4" && shift 4 && exec "$@"'
    const from = join(fixture.sources, '0')
    const to = join(fixture.directory, 'mounts')
    return ['sh', '-c', script, 'sh', fixture.crowd, `${HOST_MOUNTS}`, from, to]
  }
  if (scene === 'rootless' && process.getuid?.() === 0) {
    return ['setpriv', `--reuid=${ORDINARY_USER}`, `--regid=${ORDINARY_USER}`, '--clear-groups']
  }
  return []
}

/** Why a scene can't be measured here, or undefined. */
function obstacle(scene: Scene): string | undefined {
  const root = process.getuid?.() === 0
  if (scene === 'mounts' && !root) return 'needs root'
  if (scene !== 'rootless' || !root) return undefined
  if (findProgram('setpriv') === undefined) return 'setpriv of Debian’s util-linux is missing'
  const addon = join(import.meta.dirname, '..', 'dist', 'index.js')
  const command = [...place({ scene } as Task), 'cat', addon]
  const { status } = spawnSync(command[0]!, command.slice(1), { stdio: ['ignore', 'ignore', 'ignore'] })
  return status === 0 ? undefined : 'the checkout can’t be read by an ordinary user'
}

async function runWorker(task: Task): Promise<Result> {
  const file = join(task.fixture.directory, `task-${task.scene}-${task.heap}.json`)
  writeFileSync(file, JSON.stringify(task))
  await runIsolated('worker.ts', file, place(task))
  return JSON.parse(readFileSync(task.result, 'utf8')) as Result
}

/** The machine, with who measures and what against. */
function surroundings() {
  const version = (name: string): string | undefined => {
    const path = findProgram(name)
    return path && execFileSync(path, ['--version'], { encoding: 'utf8' }).split('\n')[0]
  }
  const peers = { bwrap: version('bwrap'), crun: version('crun'), runc: version('runc') }
  return { ...machine(), uid: process.getuid?.(), peers }
}

/** The median of one that was measured. */
function medianOf(result: Result | undefined, name: string): number | undefined {
  return result?.measured.find((one) => one.name === name)?.total.median
}

/** What comes of the scenes besides the usual one. */
function compareScenes(results: readonly Result[]): Comparison[] {
  const of = (scene: Scene) => results.find((one) => one.scene === scene && one.heap === 'small')
  const [usual, mounts, binds, rootless] = SCENES.map(of)
  const comparisons: Comparison[] = []
  const add = (
    where: string,
    ours: string,
    against: string,
    what: string,
    [value, other]: readonly [number | undefined, number | undefined],
    target: number,
  ): void => {
    if (value !== undefined && other !== undefined) {
      comparisons.push({ where, ours, against, what, ratio: value / other, target })
    }
  }
  const crowded = `+${HOST_MOUNTS} host mounts`
  const both = [medianOf(mounts, 'rootfs'), medianOf(usual, 'rootfs')] as const
  add(crowded, 'rootfs', 'without them', 'total', both, HOST_MOUNTS_TARGET)
  const many = `${BINDS} binds`
  const perBind = (name: string): number | undefined => {
    const [all, none] = [medianOf(binds, `${name}-binds`), medianOf(binds, name)]
    return all === undefined || none === undefined ? undefined : (all - none) / BINDS
  }
  add(many, 'rootfs-binds', 'floor-binds', 'per bind', [perBind('rootfs'), perBind('floor')], PER_BIND_TARGET)
  add(many, 'last 10 %', 'first 10 %', 'per bind', [binds?.growth, 1], GROWTH_TARGET)
  const withBinds = medianOf(binds, 'rootfs-binds')
  for (const [name, target] of Object.entries(BINDS_TARGET)) {
    add(many, 'rootfs-binds', name, 'total', [withBinds, medianOf(binds, name)], target)
  }
  const template = medianOf(binds, 'rootfs-template')
  add(many, 'rootfs-template', 'rootfs-binds', 'total', [template, withBinds], TEMPLATE_TARGET)
  for (const [name, target] of Object.entries(ROOTLESS_TARGET)) {
    const pair = [medianOf(rootless, 'rootfs'), medianOf(rootless, name)] as const
    add('rootless', 'rootfs', name, 'total', pair, target)
  }
  const megabytes = (bytes?: number) => (bytes === undefined ? undefined : bytes / 2 ** 20)
  const { supervisor, container } = usual?.memory ?? {}
  add('memory', 'supervisor', '1 MB', 'resident', [megabytes(supervisor), 1], MEMORY_TARGET.supervisor)
  add('memory', 'container', '1 MB', 'private', [megabytes(container), 1], MEMORY_TARGET.container)
  return comparisons
}

/** Each of ours against those that make the same: with a network namespace or without. */
function compare({ scene, heap, measured }: Result): Comparison[] {
  if (scene !== 'usual') return []
  const where = `${heap} heap`
  const find = (name: string): Measured | undefined => measured.find((one) => one.name === name)
  const comparisons: Comparison[] = []
  for (const suffix of ['', '-net']) {
    const ours = find(`rootfs${suffix}`)
    if (ours === undefined) continue
    for (const [name, target] of Object.entries(TARGETS[heap])) {
      const other = find(name === 'spawn' ? name : `${name}${suffix}`)
      if (other === undefined) continue
      const pair = { where, ours: ours.name, against: other.name }
      const ratio = ours.total.median / other.total.median
      // A container with a network namespace has no target against no container at all.
      comparisons.push({ ...pair, what: 'total', ratio, ...(!(suffix && name === 'spawn') && { target }) })
      if (name === 'spawn') {
        const blocked = ours.blocked!.median / other.blocked!.median
        comparisons.push({ ...pair, what: 'blocked', ratio: blocked, target: BLOCKED_TARGET[heap] })
      }
    }
  }
  const [prepared, spawned] = [find('rootfs-prepared'), find('spawn')]
  if (prepared !== undefined && spawned !== undefined) {
    const pair = { where, ours: prepared.name, against: spawned.name, what: 'total' }
    const ratio = prepared.total.median / spawned.total.median
    comparisons.push({ ...pair, ratio, target: PREPARED_TARGET[heap] })
  }
  return comparisons
}

function compareHeaps(results: readonly Result[]): Comparison[] {
  const usual = results.filter(({ scene }) => scene === 'usual')
  const [small, large] = ['small', '1gb'].map((heap) => usual.find((result) => result.heap === heap))
  if (small === undefined || large === undefined) return []
  return large.measured.flatMap(({ name, total }): Comparison[] => {
    const base = small.measured.find((one) => one.name === name)
    if (base === undefined || base.blocked === undefined) return []
    const target = name.startsWith('rootfs') ? HEAP_TARGET : undefined
    const ratio = total.median / base.total.median
    const pair = { where: '1 GB / small', ours: name, against: name }
    return [{ ...pair, what: 'total', ratio, ...(target && { target }) }]
  })
}

const SCENE_TITLES: Record<Scene, string> = {
  usual: 'the usual container',
  mounts: `${HOST_MOUNTS} more mounts on the host`,
  binds: `${BINDS} read-only binds`,
  rootless: 'an ordinary user',
}

const milliseconds = (value: number | undefined): string => (value === undefined ? '-' : value.toFixed(3))

function printResult(result: Result): void {
  const megabytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MB`
  console.log(
    `\n${SCENE_TITLES[result.scene]}, ${result.heap} heap: ${megabytes(result.rss)} resident, ${megabytes(result.arrayBuffers)} buffers`,
  )
  const base = (name: string): number | undefined => {
    const floor = name.endsWith('-net') ? 'floor-net' : 'floor'
    return result.measured.find((one) => one.name === floor)?.total.median
  }
  const head = [
    'contender',
    'calls',
    'median ms',
    'p95',
    'min',
    'first',
    'blocked',
    'p95',
    'mounts',
    '/ floor',
  ]
  const rows = result.measured.map(({ name, first, total, blocked, mounts }) => {
    const floor = base(name)
    return [
      name,
      String(total.count),
      ...[total.median, total.p95, total.minimum, first, blocked?.median, blocked?.p95].map(milliseconds),
      mounts === undefined ? '-' : String(mounts),
      floor === undefined ? '-' : (total.median / floor).toFixed(2),
    ]
  })
  console.log(table([head, ...rows]))
  for (const { name, reason } of result.missing) console.log(`${name}: ${reason}`)
}

function printThroughput({ heap, throughput }: Result): void {
  if (throughput.length === 0) return
  const rows = throughput.map(({ name, inFlight, perSecond }) => {
    const suffix = name.endsWith('-net') ? '-net' : ''
    const ours = throughput.find((one) => one.name === `rootfs${suffix}` && one.inFlight === inFlight)
    const ratio = ours && ours.perSecond / perSecond
    const target = inFlight === 10 ? THROUGHPUT_TARGET[name.replace('-net', '')] : undefined
    return [
      name,
      String(inFlight),
      perSecond.toFixed(0),
      ratio?.toFixed(2) ?? '-',
      target === undefined ? '-' : `>= ${target}`,
      target === undefined || ratio === undefined ? '' : ratio >= target ? 'met' : 'missed',
    ]
  })
  const head = ['many at once', 'in flight', 'per second', 'ours / it', 'target', '']
  console.log(`\n${heap} heap\n${table([head, ...rows])}`)
}

function printComparisons(comparisons: readonly Comparison[]): void {
  if (comparisons.length === 0) return
  const rows = comparisons.map(({ where, ours, against, what, ratio, target }) => [
    where,
    ours,
    against,
    what,
    ratio.toFixed(3),
    target === undefined ? '-' : `<= ${target}`,
    target === undefined ? '' : ratio <= target ? 'met' : 'missed',
  ])
  console.log(`\n${table([['where', 'ours', 'against', 'what', 'ratio', 'target', ''], ...rows], 4)}`)
}

const { scenes, heaps, json, target, ...options } = readOptions()
// An interrupt ends the worker, and with it this; but the fixture is removed first.
process.on('SIGINT', () => undefined)
const fixture = makeFixture(target)
try {
  // An ordinary user writes results too.
  mkdirSync(join(fixture.directory, 'mounts'))
  mkdirSync(join(fixture.directory, 'results'))
  chmodSync(join(fixture.directory, 'results'), 0o1777)
  const results: Result[] = []
  const missing: Array<{ scene: Scene; reason: string }> = []
  for (const scene of scenes) {
    const reason = obstacle(scene)
    if (reason !== undefined) {
      missing.push({ scene, reason })
      console.log(`\n${SCENE_TITLES[scene]}: not measured, ${reason}`)
      continue
    }
    for (const heap of scene === 'usual' ? heaps : (['small'] as const)) {
      const result = join(fixture.directory, 'results', `${scene}-${heap}.json`)
      const usual = scene === 'usual'
      const task: Task = {
        ...{ ...options, fixture, scene, heap, result },
        // A large heap makes each fork slow, and so many of them say nothing new.
        inFlight: usual && heap === 'small' ? options.inFlight : [],
        // Some take a second each there.
        iterations: scene === 'binds' ? Math.ceil(options.iterations / 10) : options.iterations,
        warmup: scene === 'binds' ? 2 : 10,
      }
      results.push(await runWorker(task))
      printResult(results.at(-1)!)
      printThroughput(results.at(-1)!)
    }
  }
  const comparisons = [...results.flatMap(compare), ...compareHeaps(results), ...compareScenes(results)]
  printComparisons(comparisons)
  const report = { machine: surroundings(), options: { ...options, target }, results, missing, comparisons }
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(report, undefined, 2)}\n`)
} finally {
  removeFixture(fixture)
}
