// The programs that are compared. Each makes the same container once per call and says how long it took.

import { type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import type { PreparedRootfs, Rootfs, RootfsTemplate } from 'rootfs'
import {
  BINDS,
  bindPairs,
  bubblewrapArguments,
  type Fixture,
  findProgram,
  MOUNT_TABLE,
  makeBundle,
  TRUE,
} from './fixture.ts'

import { summarize } from './statistics.ts'

/**
 * What is measured: the usual container; the same on a host with many mounts; one with many binds; and one of an ordinary
 * user.
 */
export type Scene = 'usual' | 'mounts' | 'binds' | 'rootless'

/** Milliseconds. */
export interface Sample {
  /** From the call until everything is over: exit, stdio ended, taken down. */
  readonly total: number
  /** How long the call itself took: nothing else of JavaScript runs meanwhile. */
  readonly blocked?: number
}

export interface Contender {
  readonly name: string
  once(): Promise<Sample>
  /** So many containers, at most so many of them at a time; how many milliseconds all took. */
  many(count: number, inFlight: number): Promise<number>
  /** What a container of this kind says its mounts are. */
  mountTable?(): Promise<string>
  close?(): void
}

export interface Missing {
  readonly name: string
  readonly missing: string
}

export type Stdio = 'pipe' | 'ignore'

/** `unshared`: a contender with a network namespace of its own. */
const NETWORKS = [
  { suffix: '', unshared: false },
  { suffix: '-net', unshared: true },
]

async function output(file: string, args: readonly string[], input = ''): Promise<string> {
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  child.stdin.end(input)
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`${file} ended with ${code}`)
  return text
}

/** Has something done so many times, at most so many of them at once, by one of as many hands. */
async function lanes(count: number, inFlight: number, work: (lane: number) => Promise<unknown>) {
  const before = performance.now()
  let left = count
  const lane = async (_: unknown, number: number) => {
    while (left > 0) {
      left -= 1
      await work(number)
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane))
  return performance.now() - before
}

/** One after the other, and many at once. */
function measured(name: string, once: () => Promise<Sample>): Pick<Contender, 'name' | 'once' | 'many'> {
  return { name, once, many: (count, inFlight) => lanes(count, inFlight, once) }
}

/** A resident process that answers each line with the time of one container. */
function resident(name: string, fixture: Fixture, options: readonly string[]) {
  const child = spawn(fixture.floor, [...options, fixture.root], { stdio: ['pipe', 'pipe', 'inherit'] })
  // Its end is noticed where its answer is missing.
  child.stdin.on('error', () => undefined)
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    async once(): Promise<Sample> {
      child.stdin.write('1\n')
      const line = await lines.next()
      if (line.done) throw new Error(`${name} ended`)
      const { ns } = JSON.parse(line.value) as { ns: number }
      return { total: ns / 1e6 }
    },
    close: () => child.stdin.end(),
  }
}

/** Such a process, and more of them when more is to be done at once: each waits for its container. */
function floor(name: string, fixture: Fixture, options: readonly string[]): Contender {
  const all = [resident(name, fixture, options)]
  return {
    name,
    once: () => all[0]!.once(),
    async many(count, inFlight) {
      while (all.length < inFlight) all.push(resident(name, fixture, options))
      await Promise.all(all.map((one) => one.once()))
      return lanes(count, inFlight, (lane) => all[lane]!.once())
    },
    ...(!options.includes('--spawn-only') && {
      mountTable: () => output(fixture.floor, [...options, fixture.root, '--', ...MOUNT_TABLE], '1\n'),
    }),
    close: () => {
      for (const one of all) one.close()
    },
  }
}

function program(
  name: string,
  file: string,
  stdio: StdioOptions,
  commandLine: (args: readonly string[]) => string[],
): Contender {
  return {
    ...measured(name, async () => {
      const args = commandLine(TRUE)
      const before = performance.now()
      const child = spawn(file, args, { stdio })
      const blocked = performance.now() - before
      // What pipes carry is thrown away, but an unread pipe never closes.
      child.stdout?.resume()
      child.stderr?.resume()
      const code = await new Promise((resolve, reject) => child.on('close', resolve).on('error', reject))
      const total = performance.now() - before
      if (code !== 0) throw new Error(`${name} ended with ${code}`)
      return { total, blocked }
    }),
    mountTable: () => output(file, commandLine(MOUNT_TABLE)),
  }
}

/** A command in a root that was prepared before. */
const PREPARED = 'rootfs-prepared'
/** A container of a template that has all the binds. */
const TEMPLATE = 'rootfs-template'
/** A container with all the binds. */
const WITH_BINDS = 'rootfs-binds'

/** What a user writes, description included. */
function describe(library: typeof Rootfs, fixture: Fixture, { unshared = false, binds = false }): Rootfs {
  const rootfs = new library(fixture.root).defaults()
  if (binds) {
    for (const [source, destination] of bindPairs(fixture)) {
      rootfs.bind(source, destination, { readonly: true })
    }
  }
  return unshared ? rootfs.namespaces({ network: true }) : rootfs
}

type Runner = Pick<PreparedRootfs, 'run'>

/** One of ours: a command in what `make` gives, which is a part of what is measured, or in what `ready` has. */
function runs(
  name: string,
  stdio: Stdio,
  make: () => Runner,
  ready?: () => Promise<Runner>,
): Pick<Contender, 'name' | 'once' | 'many' | 'mountTable'> {
  return {
    ...measured(name, async () => {
      const known = await ready?.()
      const before = performance.now()
      const from = known ?? make()
      // Pipes are what one gets without options.
      const result = stdio === 'pipe' ? from.run('/bin/true') : from.run('/bin/true', [], { stdio })
      const blocked = performance.now() - before
      const { exitCode } = await result
      const total = performance.now() - before
      if (exitCode !== 0) throw new Error(`${name} ended with ${exitCode}`)
      return { total, blocked }
    }),
    async mountTable() {
      const [command, ...args] = MOUNT_TABLE
      return (await ((await ready?.()) ?? make()).run(command!, args)).stdout
    },
  }
}

/** Which of ours there are in a scene. */
function namesOfOurs(scene: Scene): string[] {
  if (scene === 'usual') return [...NETWORKS.map(({ suffix }) => `rootfs${suffix}`), PREPARED]
  return scene === 'binds' ? ['rootfs', WITH_BINDS, TEMPLATE] : ['rootfs']
}

async function ours(fixture: Fixture, stdio: Stdio, scene: Scene): Promise<Array<Contender | Missing>> {
  const names = namesOfOurs(scene)
  try {
    const { Rootfs } = await import('rootfs')
    let prepared: Promise<PreparedRootfs> | undefined
    const box = () => {
      prepared ??= describe(Rootfs, fixture, {}).prepare()
      return prepared
    }
    let made: Promise<RootfsTemplate> | undefined
    const template = () => {
      made ??= describe(Rootfs, fixture, { binds: true }).template()
      return made
    }
    const never = (): never => {
      throw new Error('there is nothing to make')
    }
    const all: Contender[] = [
      ...NETWORKS.map(({ suffix, unshared }) =>
        runs(`rootfs${suffix}`, stdio, () => describe(Rootfs, fixture, { unshared })),
      ),
      {
        ...runs(PREPARED, stdio, never, box),
        close: () => void prepared?.then((within) => within.close()),
      },
      runs(WITH_BINDS, stdio, () => describe(Rootfs, fixture, { binds: true })),
      { ...runs(TEMPLATE, stdio, never, template), close: () => void made?.then((one) => one.close()) },
    ]
    return all.filter(({ name }) => names.includes(name))
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    return names.map((name) => ({ name, missing: `not built: ${reason}` }))
  }
}

/**
 * How much longer the last tenth of the binds takes than the first: medians of the steps of some containers. More than about 1
 * would mean that a container's time grows with the square of its binds.
 */
export async function bindGrowth(fixture: Fixture): Promise<number> {
  const { Rootfs } = await import('rootfs')
  const ends: [number[], number[]] = [[], []]
  for (let round = 0; round < 5; round++) {
    await using box = await describe(Rootfs, fixture, { binds: true }).prepare()
    const times = box.steps
      .filter(({ destination }) => destination?.startsWith('/data/'))
      .map(({ durationUs }) => durationUs)
    ends[0].push(...times.slice(0, BINDS / 10))
    ends[1].push(...times.slice(-BINDS / 10))
  }
  const [first, last] = ends.map((times) => summarize(times).median)
  return last! / first!
}

/** What memory nobody else has: of the supervisor, and of each container that waits for commands. */
export interface Memory {
  /** Bytes that are in memory; what it shares with its children is in it. */
  readonly supervisor: number
  /** Bytes that only its first process has, the median of some. */
  readonly container: number
}

function kilobytes(file: string, keys: readonly string[]): number {
  const lines = readFileSync(file, 'utf8').split('\n')
  return lines
    .filter((line) => keys.some((key) => line.startsWith(`${key}:`)))
    .reduce((sum, line) => sum + Number(/(\d+) kB/.exec(line)?.[1] ?? 0), 0)
}

/** By proc_pid_smaps(5), of some containers at once. */
export async function measureMemory(fixture: Fixture): Promise<Memory> {
  const { Rootfs } = await import('rootfs')
  const boxes = await Promise.all(Array.from({ length: 20 }, () => describe(Rootfs, fixture, {}).prepare()))
  try {
    const own = boxes.map(({ pid }) =>
      kilobytes(`/proc/${pid}/smaps_rollup`, ['Private_Clean', 'Private_Dirty']),
    )
    const parent = /^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${boxes[0]!.pid}/status`, 'utf8'))?.[1]
    const supervisor = kilobytes(`/proc/${parent}/smaps_rollup`, ['Rss'])
    return { supervisor: supervisor * 1024, container: summarize(own).median * 1024 }
  } finally {
    for (const box of boxes) await box.close()
  }
}

export async function makeContenders(
  fixture: Fixture,
  stdio: Stdio,
  wanted: (name: string) => boolean,
  scene: Scene,
): Promise<Array<Contender | Missing>> {
  const contenders: Array<Contender | Missing> = []
  const add = (name: string, missing: string | undefined, make: () => Contender): void => {
    if (wanted(name)) contenders.push(missing === undefined ? make() : { name, missing })
  }
  const root = process.getuid?.() === 0
  const rootless = scene === 'rootless'
  const needsRoot = root || rootless ? undefined : 'needs root'
  const networks = scene === 'usual' ? NETWORKS : NETWORKS.slice(0, 1)

  for (const { suffix, unshared } of networks) {
    const name = `floor${suffix}`
    const options = [...(unshared ? ['--net'] : []), ...(rootless ? ['--user'] : [])]
    add(name, needsRoot, () => floor(name, fixture, options))
  }
  if (scene === 'usual') {
    add('floor-spawn', needsRoot, () => floor('floor-spawn', fixture, ['--spawn-only']))
  }
  if (scene === 'binds') {
    add('floor-binds', needsRoot, () => floor('floor-binds', fixture, ['--binds', `${BINDS}`]))
  }
  if (namesOfOurs(scene).some(wanted)) {
    contenders.push(...(await ours(fixture, stdio, scene)).filter(({ name }) => wanted(name)))
  }
  // The same program as in the containers, but of the host: what no container at all costs.
  if (scene === 'usual') {
    add('spawn', undefined, () => {
      const { mountTable: _, ...rest } = program('spawn', join(fixture.root, 'bin/true'), stdio, () => [])
      return rest
    })
  }
  addPeers(fixture, stdio, scene, { networks, needsRoot }, add)
  return contenders
}

/** The other programs, of Debian's packages. */
function addPeers(
  fixture: Fixture,
  stdio: Stdio,
  scene: Scene,
  { networks, needsRoot }: { networks: typeof NETWORKS; needsRoot: string | undefined },
  add: (name: string, missing: string | undefined, make: () => Contender) => void,
): void {
  const binds = scene === 'binds'
  const rootless = scene === 'rootless'
  for (const { suffix, unshared } of networks) {
    const name = `bwrap${binds ? '-binds' : suffix}`
    const path = findProgram('bwrap')
    add(name, path === undefined ? 'bubblewrap is not installed' : undefined, () =>
      program(name, path!, stdio, (args) =>
        bubblewrapArguments(fixture, args, unshared, { binds, rootless }),
      ),
    )
  }
  if (rootless) return
  for (const runtime of ['crun', 'runc']) {
    for (const { suffix, unshared } of networks) {
      const name = `${runtime}${binds ? '-binds' : suffix}`
      const path = findProgram(runtime)
      const bundles = new Map<readonly string[], string>()
      const bundle = (args: readonly string[]): string => {
        const made = bundles.get(args) ?? makeBundle(fixture, args, unshared, binds)
        bundles.set(args, made)
        return made
      }
      let calls = 0
      add(name, path === undefined ? `${runtime} is not installed` : needsRoot, () =>
        program(name, path!, stdio, (args) => [
          // State in the fixture, so that nothing of ours is in the machine's list of containers. crun can do
          // without a cgroup of its own, like the others; runc can't.
          ...['--root', join(fixture.directory, `${runtime}-state`)],
          ...(runtime === 'crun' ? ['--cgroup-manager=disabled'] : []),
          ...['run', '--bundle', bundle(args), `rootfs-bench-${process.pid}${suffix}-${calls++}`],
        ]),
      )
    }
  }
}
