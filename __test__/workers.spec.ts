// Worker threads, which share the library, and signals as Node.js was started with: what is one's own, inside and outside.
import { once, setMaxListeners } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { Rootfs } from 'rootfs'
import { cells, openDirectory, runInCell } from './support/cells.ts'
import { becomesAgain, guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import type { Job } from './support/job.ts'
import {
  containers,
  descendants,
  eventually,
  openFiles,
  processesMarked,
  processInfo,
} from './support/processes.ts'
import { findProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])
const bareImage = (): Promise<string> =>
  busyboxImage(join(host.scratch('bare'), 'image'), { mountpoints: false })

// ---------------------------------------------------------------- workers

interface Made {
  worker: Worker
  marker: string
  image: string
  tree: string[]
  pids: number[]
}

/** A worker whose containers run, on a root of its own. */
async function begin(): Promise<Made> {
  const image = await bareImage()
  const tree = snapshotTree(image)
  const marker = `rootfs-worker-${process.pid}-${Math.random()}`
  const worker = new Worker(join(checkout, '__test__', 'support', 'worker.ts'), {
    workerData: { image, marker },
  })
  const [{ pids }] = (await once(worker, 'message')) as [{ pids: number[] }]
  return { worker, marker, image, tree, pids }
}

async function ask(worker: Worker, count: number): Promise<unknown> {
  const answered = once(worker, 'message')
  worker.postMessage(count)
  return (await answered)[0]
}

/** Within a second nothing of it is left: no process, and no mountpoint. */
async function isGone(t: ExecutionContext, { marker, image, tree, pids }: Made): Promise<void> {
  const left = () => [...processesMarked(marker), ...pids.map(processInfo).filter((one) => one !== undefined)]
  t.deepEqual(await eventually(left, (some) => some.length === 0, 1000), [])
  await becomesAgain(t, image, tree, 1000)
}

testHere('two workers and the main thread use the library at once', async (t) => {
  t.timeout(60_000)
  const made = await Promise.all([begin(), begin()])
  const rootfs = new Rootfs(await bareImage()).defaults()
  const own = Array.from(
    { length: 40 },
    async (_, index) => (await rootfs.run('/bin/echo', [`${index}`])).stdout,
  )
  const answers = await Promise.all(made.map(({ worker }) => ask(worker, 40)))
  for (const answer of answers) t.deepEqual(answer, { right: true, running: true })
  t.deepEqual(
    await Promise.all(own),
    own.map((_, index) => `${index}\n`),
  )
  for (const one of made) {
    const exited = once(one.worker, 'exit')
    t.deepEqual(await ask(one.worker, 0), { closed: true })
    t.deepEqual(await exited, [0], 'and nothing keeps the thread')
    await isGone(t, one)
  }
})

testHere('a worker that is terminated takes its own containers, and no others', async (t) => {
  t.timeout(60_000)
  const [ended, other] = await Promise.all([begin(), begin()])
  const image = await bareImage()
  const box = await new Rootfs(image).defaults().prepare()
  const child = box.spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })
  await once(child, 'spawn')
  // With requests under way.
  ended.worker.postMessage(40)
  await ended.worker.terminate()
  await isGone(t, ended)
  t.deepEqual(await ask(other.worker, 10), { right: true, running: true })
  t.is((await box.run('/bin/echo', ['on'])).stdout, 'on\n')
  t.is(child.exitCode ?? child.signalCode, null)
  for (const pid of other.pids) t.truthy(processInfo(pid), `${pid}`)
  await other.worker.terminate()
  await isGone(t, other)
  await box.close()
})

/**
 * The open files, but for the three of each first process that waits for the next container, of which any number is there, and
 * for modules: Node.js itself leaves one open when a worker ends while it is read.
 */
function filesInUse(): string[] {
  const files = openFiles().filter((file) => !/\.(js|ts|json)$/.test(file))
  for (const { command } of descendants()) {
    if (command !== 'rootfs-spare') continue
    for (const held of ['/memfd:rootfs-journal (deleted)', 'anon_inode:[pidfd]', 'socket']) {
      const index = files.indexOf(held)
      if (index >= 0) files.splice(index, 1)
    }
  }
  return files
}

/** In CI a third of what `npm run test:full` asks for. */
const cycles = process.env.ROOTFS_TEST_FULL === undefined ? 7 : 20

testHere('workers one after another, terminated at any moment, leave nothing', async (t) => {
  t.timeout(120_000)
  const rootfs = new Rootfs(await bareImage()).defaults()
  await rootfs.run('/bin/true')
  const image = await bareImage()
  const tree = snapshotTree(image)
  const marker = `rootfs-workers-${process.pid}`
  const run = async (index: number) => {
    const worker = new Worker(join(checkout, '__test__', 'support', 'worker.ts'), {
      workerData: { image, marker },
    })
    if (index % 4 === 0) await once(worker, 'message')
    else await new Promise((resolve) => setTimeout(resolve, 150 + ((index * 40) % 200)))
    await worker.terminate()
  }
  await run(0)
  await eventually(containers, (all) => all.length === 0)
  // What waits is known before it has its name.
  const before = await eventually(filesInUse, (files) => !files.includes('/memfd:rootfs-journal (deleted)'))
  for (let index = 0; index < cycles; index++) await run(index)
  t.deepEqual(
    await eventually(
      () => processesMarked(marker),
      (left) => left.length === 0,
      1000,
    ),
    [],
  )
  await becomesAgain(t, image, tree, 1000)
  t.deepEqual(await eventually(filesInUse, (files) => `${files}` === `${before}`, 10_000), before)
  t.is((await rootfs.run('/bin/true')).exitCode, 0)
})

// ---------------------------------------------------------------- signals

/** Ignores and blocks every signal, those of the C libraries too, and executes a program. */
const launcher = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {'x86_64': (13, 14), 'aarch64': (134, 135)}[os.uname().machine]
ignore = ctypes.create_string_buffer(struct.pack('QQQQ', 1, 0, 0, 0))
everything = ctypes.create_string_buffer(struct.pack('Q', 2**64 - 1))
for signal in range(1, 65):
    # Node waits for its own children, and the kernel doesn't leave them when SIGCHLD is ignored.
    if signal not in (9, 17, 19):
        assert libc.syscall(number[0], signal, ignore, None, 8) == 0
assert libc.syscall(number[1], 2, everything, None, 8) == 0
os.execvp(sys.argv[1], sys.argv[1:])
`

const none = ['SigBlk:\t0000000000000000', 'SigIgn:\t0000000000000000', 'SigCgt:\t0000000000000000', ''].join(
  '\n',
)

for (const cell of cells) {
  testNeeding([...cell.needs, 'busybox', 'python3'])(
    `${cell.name}: signals are default inside, whatever Node.js was started with`,
    async (t) => {
      const image = join(host.scratch('image'), 'image')
      await busyboxImage(image, { owner: cell.owner })
      const evidence = join(openDirectory(host, 'evidence'), 'seen')
      const script = `exec cat /proc/self/status > '${evidence}'`
      const hook = { path: '/bin/sh', args: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] }
      const calls: Job['calls'] = [['defaults'], ['hook', 'createRuntime', hook]]
      // grep(1), which sets none, and not a shell, which does.
      const grep = { command: '/bin/grep', args: ['-E', '^Sig(Blk|Ign|Cgt)', '/proc/self/status'] }
      for (const mode of ['run', 'prepare'] as const) {
        const job: Job = { root: image, calls, mode, commands: [grep, grep] }
        const options = { launcher: [findProgram('python3')!, '-c', launcher] }
        const { error, results, left } = await runInCell(cell, job, host, options)
        t.is(error, undefined, error?.message)
        t.deepEqual(
          results.map(({ stdout }) => stdout),
          [none, none],
          mode,
        )
        const lines = readFileSync(evidence, 'utf8').split('\n')
        t.deepEqual(
          lines.filter((line) => /^Sig(Blk|Ign|Cgt)/.test(line)).join('\n'),
          none.trim(),
          'of a hook',
        )
        t.deepEqual(left, [])
      }
    },
  )
}

// ---------------------------------------------------------------- many at once

testHere('a worker that asks for much doesn’t keep another waiting for all of it', async (t) => {
  const image = join(host.scratch('image'), 'root')
  await busyboxImage(image)
  const count = 400
  const counter = new Int32Array(new SharedArrayBuffer(4))
  const script = `
    const { workerData } = require('node:worker_threads')
    const { image, counter, count, library } = workerData
    import(library).then(({ Rootfs }) => {
      // Each takes a while, so that all take much longer than one of another.
      const rootfs = new Rootfs(image).tmpfs('/many')
      for (let n = 0; n < 40; n++) rootfs.tmpfs('/many/' + n)
      for (let n = 0; n < count; n++) rootfs.run('/bin/true').then(() => Atomics.add(counter, 0, 1))
    })
  `
  const library = join(checkout, 'dist', 'index.js')
  const worker = new Worker(script, { eval: true, workerData: { image, counter, count, library } })
  const done = () => Atomics.load(counter, 0)
  await eventually(done, (number) => number >= 10)
  await new Rootfs(image).run('/bin/true')
  // It is its turn when one of those that were begun already is done.
  t.true(done() < count / 2, `${done()} of ${count} came before`)
  await eventually(done, (number) => number === count)
  t.is(done(), count)
  await worker.terminate()
})

testHere('what waits for its turn can be aborted', async (t) => {
  const image = join(host.scratch('image'), 'root')
  await busyboxImage(image)
  const controller = new AbortController()
  const { signal } = controller
  setMaxListeners(0, signal)
  const rootfs = new Rootfs(image).defaults()
  const runs = Array.from({ length: 300 }, () => rootfs.run('/bin/sleep', ['100'], { signal }))
  const boxes = Array.from({ length: 50 }, () => rootfs.prepare({ signal }))
  controller.abort()
  const results = await Promise.allSettled([...runs, ...boxes])
  t.deepEqual(
    new Set(results.map((result) => (result.status === 'rejected' ? result.reason.name : 'begun'))),
    new Set(['AbortError']),
  )
  const left = () => containers().map(({ command }) => command)
  t.deepEqual(await eventually(left, (some) => some.length === 0), [])
  t.is((await rootfs.run('/bin/echo', ['after'])).stdout, 'after\n')
})
