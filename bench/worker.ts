// Measures every contender in turn, with one size of heap. Started by run.ts, in a private mount namespace.
//
// What goes through child_process has a process of its own (peers.ts): a fork write-protects the memory of the
// process that forks, and whatever runs in that next would pay for it, page by page.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import {
  bindGrowth,
  type Contender,
  type Memory,
  type Missing,
  makeContenders,
  measureMemory,
  type Sample,
  type Scene,
  type Stdio,
} from './contenders.ts'
import type { Fixture } from './fixture.ts'
import { type Summary, shuffler, summarize } from './statistics.ts'

export type Heap = 'small' | '1gb'

export interface Task {
  readonly fixture: Fixture
  readonly scene: Scene
  readonly heap: Heap
  readonly iterations: number
  readonly warmup: number
  readonly gap: number
  readonly stdio: Stdio
  readonly only: readonly string[]
  readonly inFlight: readonly number[]
  readonly result: string
}

export interface Measured {
  readonly name: string
  /** Of the first call: what is started on first use is in it. */
  readonly first: number
  readonly total: Summary
  readonly blocked?: Summary
  readonly mounts?: number
}

/** How many containers a second there are when many are made at once. */
export interface Throughput {
  readonly name: string
  readonly inFlight: number
  readonly perSecond: number
}

export interface Result {
  readonly scene: Scene
  readonly heap: Heap
  readonly rss: number
  readonly arrayBuffers: number
  readonly measured: readonly Measured[]
  readonly throughput: readonly Throughput[]
  /** How much longer the last tenth of many binds takes than the first. */
  readonly growth?: number
  readonly memory?: Memory
  readonly missing: ReadonlyArray<{ name: string; reason: string }>
}

/**
 * A gigabyte of buffers, every page written. Not V8's own heap: its pages are marked MADV_DONTFORK, so fork
 * doesn't copy their page tables and a gigabyte of JavaScript objects hardly shows in what child_process
 * takes.
 */
export function fillMemory(): Uint8Array[] {
  return Array.from({ length: 128 }, (_, chunk) => new Uint8Array(2 ** 23).fill(chunk + 1))
}

/** `bwrap` names one contender, `bwrap*` all that begin so. */
export function matches(name: string, patterns: readonly string[]): boolean {
  const fits = (pattern: string): boolean =>
    pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
  return patterns.length === 0 || patterns.some(fits)
}

async function countMounts(contender: Contender): Promise<number | undefined> {
  // Lines that are no mounts are the floor's own answer.
  return (await contender.mountTable?.())?.split('\n').filter((line) => line.includes(' - ')).length
}

/** Whether a contender begins its containers by child_process. */
export const isPeer = (name: string): boolean => !name.startsWith('rootfs') && !name.startsWith('floor')

/** The contenders of peers.ts, as if they were here. */
async function peers(file: string): Promise<Array<Contender | Missing>> {
  const child = fork(join(import.meta.dirname, 'peers.ts'), [file])
  const answer = async () => {
    const over = new AbortController()
    const first = ['message', 'exit'].map((event) => once(child, event, { signal: over.signal }))
    const [message] = (await Promise.race(first).finally(() => {
      over.abort()
      for (const waiting of first) waiting.catch(() => undefined)
    })) as [Answer]
    if (typeof message !== 'object' || message === null) throw new Error('the process of the peers has ended')
    if (message.error !== undefined) throw new Error(message.error)
    return message
  }
  const { contenders = [], missing = [] } = await answer()
  const ask = (request: Request): Promise<Answer> => {
    child.send(request)
    return answer()
  }
  const proxies = contenders.map(
    (name): Contender => ({
      name,
      once: async () => (await ask({ name, what: 'once' })).sample!,
      many: async (count, inFlight) => (await ask({ name, what: 'many', count, inFlight })).took!,
      mountTable: async () => (await ask({ name, what: 'mountTable' })).text!,
      close: () => child.connected && child.disconnect(),
    }),
  )
  if (proxies.length === 0) child.disconnect()
  return [...proxies, ...missing]
}

export interface Request {
  readonly name: string
  readonly what: 'once' | 'many' | 'mountTable'
  readonly count?: number
  readonly inFlight?: number
}

export interface Answer {
  readonly contenders?: string[]
  readonly missing?: Missing[]
  readonly sample?: Sample
  readonly took?: number
  readonly text?: string
  readonly error?: string
}

async function measure(task: Task, file: string): Promise<Result> {
  const ballast = task.heap === '1gb' ? fillMemory() : []
  const contenders: Contender[] = []
  const missing: Array<{ name: string; reason: string }> = []
  const first = new Map<string, number>()
  const mounts = new Map<string, number>()
  const here = await makeContenders(
    task.fixture,
    task.stdio,
    (name) => !isPeer(name) && matches(name, task.only),
    task.scene,
  )
  for (const candidate of [...here, ...(await peers(file))]) {
    if ('missing' in candidate) {
      missing.push({ name: candidate.name, reason: candidate.missing })
      continue
    }
    // One that is installed but refused by this machine is reported like one that is missing.
    try {
      first.set(candidate.name, (await candidate.once()).total)
      const count = await countMounts(candidate)
      if (count !== undefined) mounts.set(candidate.name, count)
      contenders.push(candidate)
    } catch (error) {
      missing.push({ name: candidate.name, reason: `does not run: ${(error as Error).message}` })
      candidate.close?.()
    }
  }

  const samples = new Map<string, Sample[]>(contenders.map(({ name }) => [name, []]))
  const shuffle = shuffler(1)
  for (let round = -task.warmup; round < task.iterations; round++) {
    // Everyone once per round, so that drift meets all alike; in another order each time, because what one
    // leaves to the kernel's workers (a network namespace's end) is paid by whoever comes next.
    for (const contender of shuffle(contenders)) {
      const sample = await contender.once()
      if (round >= 0) samples.get(contender.name)!.push(sample)
      await setTimeout(task.gap)
    }
    if (round > 0 && round % 50 === 0) {
      console.error(`bench: ${task.heap} heap, ${round} of ${task.iterations}`)
    }
  }

  const throughput: Throughput[] = []
  for (const inFlight of task.inFlight) throughput.push(...(await measureMany(contenders, inFlight, shuffle)))

  const has = (name: string): boolean => contenders.some((contender) => contender.name === name)
  const growth = has('rootfs-binds') ? await bindGrowth(task.fixture) : undefined
  const usual = task.scene === 'usual' && task.heap === 'small'
  const memory = usual && has('rootfs') ? await measureMemory(task.fixture) : undefined
  const { rss, arrayBuffers } = process.memoryUsage()
  for (const contender of contenders) contender.close?.()
  // Also keeps the ballast alive until here.
  if (task.heap === '1gb' && ballast.length === 0) throw new Error('the ballast is gone')
  const measured = contenders.map(({ name }): Measured => {
    const all = samples.get(name)!
    const blocked = all.flatMap((sample) => (sample.blocked === undefined ? [] : [sample.blocked]))
    const count = mounts.get(name)
    return {
      name,
      first: first.get(name)!,
      total: summarize(all.map((sample) => sample.total)),
      ...(blocked.length > 0 && { blocked: summarize(blocked) }),
      ...(count !== undefined && { mounts: count }),
    }
  })
  return {
    scene: task.scene,
    heap: task.heap,
    rss,
    arrayBuffers,
    measured,
    throughput,
    ...(growth !== undefined && { growth }),
    ...(memory && { memory }),
    missing,
  }
}

/** Rounds of many at once, and the containers of each. */
const ROUNDS = 5
const AT_ONCE = 60

async function measureMany(
  contenders: readonly Contender[],
  inFlight: number,
  shuffle: <T>(items: readonly T[]) => T[],
): Promise<Throughput[]> {
  const took = new Map<string, number[]>(contenders.map(({ name }) => [name, []]))
  for (let round = 0; round < ROUNDS; round++) {
    for (const contender of shuffle(contenders)) {
      took.get(contender.name)!.push(await contender.many(AT_ONCE, inFlight))
    }
  }
  return [...took].map(([name, times]) => ({
    name,
    inFlight,
    perSecond: (AT_ONCE * 1000) / summarize(times).median,
  }))
}

if (import.meta.filename === process.argv[1]) {
  const file = process.argv[2]!
  const task = JSON.parse(readFileSync(file, 'utf8')) as Task
  writeFileSync(task.result, JSON.stringify(await measure(task, file)))
}
