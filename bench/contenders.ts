// The programs that are compared. Each makes the same container once per call and says how long it took.

import { type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import type { PreparedRootfs } from 'rootfs'
import { bubblewrapArguments, type Fixture, findProgram, MOUNT_TABLE, makeBundle, TRUE } from './fixture.ts'

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

async function ours(fixture: Fixture, stdio: Stdio): Promise<Array<Contender | Missing>> {
  const names = [...NETWORKS.map(({ suffix }) => `rootfs${suffix}`), PREPARED]
  try {
    const { Rootfs } = await import('rootfs')
    // What a user writes, description included.
    const describe = (unshared: boolean) => {
      const rootfs = new Rootfs(fixture.root).defaults()
      return unshared ? rootfs.namespaces({ network: true }) : rootfs
    }
    let prepared: Promise<PreparedRootfs> | undefined
    const box = () => {
      prepared ??= describe(false).prepare()
      return prepared
    }
    const command: Contender = {
      ...measured(PREPARED, async () => {
        const within = await box()
        const before = performance.now()
        const result = stdio === 'pipe' ? within.run('/bin/true') : within.run('/bin/true', [], { stdio })
        const blocked = performance.now() - before
        const { exitCode } = await result
        const total = performance.now() - before
        if (exitCode !== 0) throw new Error(`${PREPARED} ended with ${exitCode}`)
        return { total, blocked }
      }),
      async mountTable() {
        const [command, ...args] = MOUNT_TABLE
        return (await (await box()).run(command!, args)).stdout
      },
      close: () => void prepared?.then((within) => within.close()),
    }
    const containers: Contender[] = NETWORKS.map(({ suffix, unshared }) => ({
      ...measured(`rootfs${suffix}`, async () => {
        const before = performance.now()
        // Pipes are what one gets without options.
        const result =
          stdio === 'pipe'
            ? describe(unshared).run('/bin/true')
            : describe(unshared).run('/bin/true', [], { stdio })
        const blocked = performance.now() - before
        const { exitCode } = await result
        const total = performance.now() - before
        if (exitCode !== 0) throw new Error(`rootfs${suffix} ended with ${exitCode}`)
        return { total, blocked }
      }),
      async mountTable() {
        const [command, ...args] = MOUNT_TABLE
        return (await describe(unshared).run(command!, args)).stdout
      },
    }))
    return [...containers, command]
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    return names.map((name) => ({ name, missing: `not built: ${reason}` }))
  }
}

export async function makeContenders(
  fixture: Fixture,
  stdio: Stdio,
  wanted: (name: string) => boolean,
): Promise<Array<Contender | Missing>> {
  const contenders: Array<Contender | Missing> = []
  const add = (name: string, missing: string | undefined, make: () => Contender): void => {
    if (wanted(name)) contenders.push(missing === undefined ? make() : { name, missing })
  }
  const root = process.getuid?.() === 0
  const needsRoot = root ? undefined : 'needs root'

  for (const { suffix, unshared } of NETWORKS) {
    const name = `floor${suffix}`
    add(name, needsRoot, () => floor(name, fixture, unshared ? ['--net'] : []))
  }
  add('floor-spawn', needsRoot, () => floor('floor-spawn', fixture, ['--spawn-only']))
  if ([PREPARED, ...NETWORKS.map(({ suffix }) => `rootfs${suffix}`)].some(wanted)) {
    contenders.push(...(await ours(fixture, stdio)).filter(({ name }) => wanted(name)))
  }
  // The same program as in the containers, but of the host: what no container at all costs.
  add('spawn', undefined, () => {
    const { mountTable: _, ...rest } = program('spawn', join(fixture.root, 'bin/true'), stdio, () => [])
    return rest
  })
  for (const { suffix, unshared } of NETWORKS) {
    const name = `bwrap${suffix}`
    const path = findProgram('bwrap')
    add(name, path === undefined ? 'bubblewrap is not installed' : undefined, () =>
      program(name, path!, stdio, (args) => bubblewrapArguments(fixture, args, unshared)),
    )
  }
  for (const runtime of ['crun', 'runc']) {
    for (const { suffix, unshared } of NETWORKS) {
      const name = `${runtime}${suffix}`
      const path = findProgram(runtime)
      const bundles = new Map<readonly string[], string>()
      const bundle = (args: readonly string[]): string => {
        const made = bundles.get(args) ?? makeBundle(fixture, args, unshared)
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
  return contenders
}
