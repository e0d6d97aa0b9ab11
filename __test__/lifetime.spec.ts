// How containers begin, live and end: nothing of them is left, however they or Node end.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type PreparedRootfs, Rootfs } from 'rootfs'
import { becomesAgain, guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import {
  allProcesses,
  descendants,
  eventually,
  openFiles,
  processesMarked,
  processInfo,
  threadCount,
} from './support/processes.ts'
import { runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

/** A root without a single directory for mounts: every mountpoint has to be made, and removed again. */
const bareImage = (): Promise<string> =>
  busyboxImage(join(host.scratch('bare'), 'image'), { mountpoints: false })

const register = '--import=@oxc-node/core/register'
const support = (name: string): string => join(checkout, '__test__', 'support', name)

// ---------------------------------------------------------------- many of them

/** What a leak would add to. */
function holdings() {
  const children = descendants()
  const supervisors = children.filter((info) => info.parentPid === process.pid)
  return {
    files: openFiles(),
    threads: threadCount(),
    children: children.map((info) => info.command).sort(),
    supervisorFiles: supervisors.map(({ pid }) => openFiles(pid)),
    supervisorThreads: supervisors.map(({ pid }) => threadCount(pid)),
    mounts: hostMounts(),
  }
}

type Holdings = ReturnType<typeof holdings>
const same = (a: Holdings, b: Holdings): boolean => JSON.stringify(a) === JSON.stringify(b)

/** The supervisor alone: a first process that nobody needs is given up after some seconds, and cleaners end. */
const idle = (): Promise<Holdings> => {
  let last = holdings()
  return eventually(
    () => {
      const previous = last
      last = holdings()
      return { now: last, stable: same(previous, last) && `${last.children}` === 'rootfs-super' }
    },
    ({ stable }) => stable,
    30_000,
  ).then(({ now }) => now)
}

/** The supervisor, its thread and libuv's pool are there from the first containers on. */
async function settled(rootfs: Rootfs): Promise<Holdings> {
  await Promise.all(Array.from({ length: 20 }, () => rootfs.run('/bin/true')))
  return idle()
}

testHere('1,000 containers one after another all succeed and leave nothing', async (t) => {
  t.timeout(240_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const rootfs = new Rootfs(image).defaults()
  const before = await settled(rootfs)
  t.deepEqual(before.children, ['rootfs-super'], 'nothing else stays')

  for (let count = 0; count < 1000; count++) {
    const { exitCode, signal, stderr } = await rootfs.run('/bin/true')
    if (exitCode !== 0) t.fail(`container ${count} ended with ${exitCode ?? signal}: ${stderr}`)
  }

  const after = await eventually(holdings, (now) => same(now, before), 30_000)
  t.deepEqual(after, before)
  t.deepEqual(snapshotTree(image), tree)
})

/** In CI a tenth of what `npm run test:full` asks for. */
const cycles = Number(process.env.ROOTFS_CYCLES ?? 100)

testHere(`${cycles} prepared roots one after another leave nothing`, async (t) => {
  t.timeout(240_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const rootfs = new Rootfs(image).defaults()
  const before = await settled(rootfs)

  for (let count = 0; count < cycles; count++) {
    const box = await rootfs.prepare()
    if (count % 10 === 0) t.is((await box.run('/bin/true')).exitCode, 0)
    await box.close()
  }

  const after = await eventually(holdings, (now) => same(now, before), 30_000)
  t.deepEqual(after, before)
  t.deepEqual(snapshotTree(image), tree)
})

testHere('200 containers at once all succeed and leave nothing', async (t) => {
  t.timeout(240_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const rootfs = new Rootfs(image).defaults()
  const before = await settled(rootfs)

  const results = await Promise.all(Array.from({ length: 200 }, () => rootfs.run('/bin/true')))
  t.deepEqual(
    results.filter(({ exitCode }) => exitCode !== 0),
    [],
  )

  const after = await eventually(holdings, (now) => same(now, before), 30_000)
  t.deepEqual(after, before)
  t.deepEqual(snapshotTree(image), tree)
})

testHere('200 prepared roots at once, closed in another order, leave nothing', async (t) => {
  t.timeout(240_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const rootfs = new Rootfs(image).defaults()
  const before = await settled(rootfs)

  const boxes = await Promise.all(Array.from({ length: 200 }, () => rootfs.prepare()))
  t.is(new Set(boxes.map(({ pid }) => pid)).size, 200)
  await Promise.all(boxes.filter((_, index) => index % 2 === 1).map((box) => box.close()))
  await Promise.all(boxes.filter((_, index) => index % 2 === 0).map((box) => box.close()))

  const after = await eventually(holdings, (now) => same(now, before), 30_000)
  t.deepEqual(after, before)
  t.deepEqual(snapshotTree(image), tree)
})

testHere('a first process that nobody needs is given up, and the supervisor stays', async (t) => {
  const rootfs = new Rootfs(await bareImage()).defaults()
  await rootfs.run('/bin/true')
  const waits = (now: Holdings) => now.children.includes('rootfs-spare')
  t.true(waits(await eventually(holdings, waits)), 'one waits at first')
  const supervisor = descendants().find(({ command }) => command === 'rootfs-super')
  const { children, supervisorFiles } = await eventually(holdings, (now) => now.children.length === 1, 10_000)
  t.deepEqual(children, ['rootfs-super'])
  t.false(supervisorFiles[0]?.includes('anon_inode:[pidfd]'), 'nothing of it is held')
  t.is((await rootfs.run('/bin/true')).exitCode, 0)
  t.is(descendants().find(({ command }) => command === 'rootfs-super')?.pid, supervisor?.pid)
})

testHere(
  'a first process that was ready before has the capabilities of its own command, and none else',
  async (t) => {
    const rootfs = new Rootfs(await bareImage()).defaults()
    const fields = ['-c', 'grep ^Cap /proc/self/status; cut -d" " -f41 /proc/self/stat']
    const run = (capabilities: string[]) => rootfs.run('/bin/sh', fields, { capabilities })
    const line = (name: string, set: bigint) => `Cap${name}:\t${set.toString(16).padStart(16, '0')}\n`
    const sets = { KILL: 1n << 5n, NET_RAW: 1n << 13n }
    for (const [name, set] of Object.entries(sets)) {
      // The second of a kind finds one that waits, and the first of another kind must not get that.
      for (let turn = 0; turn < 3; turn++) {
        const { stdout } = await run([name])
        const expected = { Inh: 0n, Prm: set, Eff: set, Bnd: set, Amb: 0n }
        const lines = Object.entries(expected).map(([key, bits]) => line(key, bits))
        t.is(stdout, `${lines.join('')}0\n`, 'and it is scheduled as any other process')
        await eventually(descendants, (all) => all.some(({ command }) => command === 'rootfs-spare'))
      }
    }
  },
)

// ---------------------------------------------------------------- the end of Node

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  testHere(
    `${signal} of Node while 20 containers run: within a second nothing of them is left`,
    async (t) => {
      t.timeout(120_000)
      const image = await bareImage()
      const tree = snapshotTree(image)
      const mounts = hostMounts()
      const marker = `rootfs-crowd-${process.pid}-${signal}-${Date.now()}`

      const node = spawn(process.execPath, [register, support('crowd.ts'), image, marker, '10', '10'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const ended = once(node, 'exit')
      const [said] = await Promise.race([once(node.stdout.setEncoding('utf8'), 'data'), ended])
      t.is(said, 'ready\n')

      // Twice as many as containers: the one in the foreground and the daemonised one.
      const marked = processesMarked(marker).filter(({ pid }) => pid !== node.pid)
      const recorded = descendants(node.pid)
      t.true(marked.length >= 40, `${marked.length} processes carry the marker`)
      t.true(recorded.length > marked.length, 'the supervisor and the first processes are there too')

      const killed = performance.now()
      node.kill(signal)
      // A zombie has given everything back; when it is reaped is up to the machine's init, whose child it is by now.
      const alive = () =>
        recorded.filter(({ pid, startTime }) => {
          const now = processInfo(pid)
          return now?.startTime === startTime && now.state !== 'Z'
        })
      const left = await eventually(
        () => [...processesMarked(marker), ...alive()],
        (some) => some.length === 0,
        1000,
      )
      t.log(`gone after ${Math.round(performance.now() - killed)} ms`)
      t.deepEqual(left, [])
      await ended

      t.is(hostMounts(), mounts)
      await becomesAgain(t, image, tree, 1000)
    },
  )
}

testHere(
  'SIGKILL of the supervisor: its containers are told and ended, and nothing that they made is left',
  async (t) => {
    t.timeout(60_000)
    const image = await bareImage()
    const tree = snapshotTree(image)
    const marker = `rootfs-orphans-${process.pid}-${Date.now()}`
    const options = { env: { PATH: '/bin:/usr/bin', MARKER: marker } }
    const rootfs = new Rootfs(image).defaults().tmpfs('/made/by/us/one')
    await rootfs.run('/bin/true')
    const [supervisor] = descendants().filter(({ command }) => command === 'rootfs-super')
    // Each makes directories in those of the one before.
    const further = new Rootfs(image)
      .defaults()
      .namespaces({ pid: false })
      .tmpfs('/made/by/us/one')
      .tmpfs('/made/by/us/two/deep')
    const box = await rootfs.prepare()
    const children = [rootfs, further, further].map((one) =>
      // With a pid namespace or without one, the process that is left behind is ended too.
      one.spawn('/bin/sh', ['-c', 'sleep 1000 & echo up; exec sleep 1001'], options),
    )
    const inBox = box.run('/bin/sleep', ['1000'], options)
    const errors = children.map(async (child) => {
      child.on('error', () => undefined)
      return once(child, 'close')
    })
    await Promise.all(children.map((child) => once(child.stdout!, 'data')))
    // The JS thread goes on meanwhile.
    let longest = 0
    let last = performance.now()
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
    }, 5)
    process.kill(supervisor!.pid, 'SIGKILL')
    for (const [code, signal] of await Promise.all(errors)) t.deepEqual([code, signal], [null, 'SIGKILL'])
    const error = await t.throwsAsync(inBox)
    t.regex((error as Error & { code: string }).code, /^ERR_ROOTFS_(SUPERVISOR|CLOSED)$/)
    await box.close()
    clearInterval(timer)
    t.true(longest < 500, `${longest} ms`)
    t.deepEqual(
      await eventually(
        () => processesMarked(marker),
        (left) => left.length === 0,
      ),
      [],
    )
    t.deepEqual(snapshotTree(image), tree)
    t.is((await rootfs.run('/bin/true')).exitCode, 0, 'and another supervisor serves')
  },
)

for (const what of ['run', 'prepare']) {
  testHere(`a program that is done ends by itself (${what}), and its containers with it`, async (t) => {
    const image = await bareImage()
    const tree = snapshotTree(image)
    const { exitCode, signal, stdout, stderr } = await runProgram(
      process.execPath,
      [register, support('idle.ts'), image, what],
      { timeout: 30_000 },
    )
    t.is(signal, null, 'it had to be killed')
    t.is(exitCode, 0, stderr)
    const said = JSON.parse(stdout) as { exitCode: number; pid?: number }
    t.is(said.exitCode, 0)
    if (said.pid !== undefined) {
      const pid = said.pid
      t.is(
        await eventually(
          () => processInfo(pid),
          (info) => info === undefined,
          1000,
        ),
        undefined,
      )
    }
    await becomesAgain(t, image, tree, 1000)
  })
}

// ---------------------------------------------------------------- close

/** What a container sees of its mounts and of a hidden file. */
async function view(box: PreparedRootfs): Promise<{ mounts: string[]; secret: string; inDirectory: string }> {
  const table = await box.run('/bin/cat', ['/proc/self/mountinfo'])
  const secret = await box.run('/bin/cat', ['/etc/secret-file'])
  const inDirectory = await box.run('/bin/ls', ['-A', '/etc/secret-directory'])
  return { mounts: table.stdout.split('\n'), secret: secret.stdout, inDirectory: inDirectory.stdout }
}

testHere(
  'two containers on one root directory: closing one leaves the other its mounts and masks',
  async (t) => {
    const image = await bareImage()
    const tree = snapshotTree(image)
    const data = host.scratch('data')
    writeFileSync(join(data, 'hello'), 'hello\n')
    const rootfs = new Rootfs(image)
      .defaults()
      .bind(data, '/data', { readonly: true })
      .tmpfs('/deeply/nested/place')
      .mask(['/etc/secret-file', '/etc/secret-directory'])

    const first = await rootfs.prepare()
    const second = await rootfs.prepare()
    const before = await view(second)
    t.is(before.secret, '')
    t.is(before.inDirectory, '')

    await first.close()
    t.deepEqual(await view(second), before)
    t.is((await second.run('/bin/cat', ['/data/hello'])).stdout, 'hello\n')

    await second.close()
    t.deepEqual(snapshotTree(image), tree, 'what was made for the mounts is gone, the rest is as before')
  },
)

testHere('a container of another builder on the same root directory is left alone too', async (t) => {
  const image = await bareImage()
  const tree = snapshotTree(image)
  const first = await new Rootfs(image).defaults().tmpfs('/both/one').prepare()
  const second = await new Rootfs(image).defaults().tmpfs('/both/two').mask('/etc/secret-file').prepare()
  const before = await view(second)
  await first.close()
  t.deepEqual(await view(second), before)
  await second.close()
  t.deepEqual(snapshotTree(image), tree)
})

testHere('mountpoints that were there stay there', async (t) => {
  const image = await bareImage()
  mkdirSync(join(image, 'data'), { mode: 0o750 })
  mkdirSync(join(image, 'proc'), { mode: 0o555 })
  const tree = snapshotTree(image)
  const box = await new Rootfs(image).defaults().tmpfs('/data').prepare()
  await box.close()
  t.deepEqual(snapshotTree(image), tree)
})

testHere('await using closes', async (t) => {
  const image = await bareImage()
  const tree = snapshotTree(image)
  let pid: number
  {
    await using box = await new Rootfs(image).defaults().prepare()
    pid = box.pid
    t.truthy(processInfo(pid))
    t.is((await box.run('/bin/true')).exitCode, 0)
  }
  t.is(processInfo(pid), undefined)
  t.deepEqual(snapshotTree(image), tree)
})

testHere('close ends what still runs, and closing again is no error', async (t) => {
  const box = await new Rootfs(await bareImage()).defaults().prepare()
  const child = box.spawn('/bin/sleep', ['1000'])
  const closed = once(child, 'close')
  await once(child, 'spawn')
  await box.close()
  t.deepEqual(await closed, [null, 'SIGKILL'])
  await box.close()
  await t.throwsAsync(box.run('/bin/true'), { code: 'ERR_ROOTFS_CLOSED' })
})

// ---------------------------------------------------------------- the JS thread

testHere('the JS thread goes on while a root of 200 binds is prepared', async (t) => {
  const image = await bareImage()
  const data = host.scratch('data')
  const rootfs = new Rootfs(image).defaults()
  for (let count = 0; count < 200; count++) rootfs.bind(data, `/binds/${count}`)
  // Starting the supervisor is not what is looked at here.
  await new Rootfs(image).defaults().run('/bin/true')

  let ticks = 0
  const timer = setInterval(() => ticks++, 1)
  const start = performance.now()
  const running = rootfs.run('/bin/true')
  const synchronous = performance.now() - start
  const { exitCode } = await running
  const total = performance.now() - start
  clearInterval(timer)

  t.log(`${ticks} ticks; the call took ${synchronous.toFixed(2)} ms of ${total.toFixed(2)} ms`)
  t.is(exitCode, 0)
  t.true(ticks >= 2, 'timers fire meanwhile')
  t.true(synchronous < total / 2, 'the call only queues the request')
})

// ---------------------------------------------------------------- a prepared root

testHere(
  'commands of a prepared root run at the same time, each with its own status and output',
  async (t) => {
    await using box = await new Rootfs(await bareImage()).defaults().prepare()
    const expected = Array.from({ length: 30 }, (_, index) =>
      index % 3 === 0
        ? { script: 'kill -TERM $$', exitCode: null, signal: 'SIGTERM', stdout: '', stderr: '' }
        : {
            script: `echo out ${index}; echo err ${index} >&2; exit ${index}`,
            exitCode: index,
            signal: null,
            stdout: `out ${index}\n`,
            stderr: `err ${index}\n`,
          },
    )
    const results = await Promise.all(expected.map(({ script }) => box.run('/bin/sh', ['-c', script])))
    t.deepEqual(
      results.map(({ exitCode, signal, stdout, stderr }) => ({ exitCode, signal, stdout, stderr })),
      expected.map(({ exitCode, signal, stdout, stderr }) => ({ exitCode, signal, stdout, stderr }) as never),
    )
  },
)

testHere('100 orphans in a prepared root are reaped', async (t) => {
  await using box = await new Rootfs(await bareImage()).defaults().prepare()
  // Each is left by its parent at once, and lives long enough to need another.
  const script = 'for i in $(seq 100); do sh -c "sleep 0.2 &" </dev/null >/dev/null 2>&1; done'
  t.is((await box.run('/bin/sh', ['-c', script])).exitCode, 0)
  const inside = () => descendants(box.pid)
  t.deepEqual(await eventually(inside, (left) => left.length === 0), [], 'neither zombies nor others')
  t.truthy(processInfo(box.pid))
})

testHere('the namespaces end with the first process of a container', async (t) => {
  const marker = `rootfs-orphan-${process.pid}-${Date.now()}`
  const options = { env: { PATH: '/bin', MARKER: marker } }
  const { exitCode } = await new Rootfs(await bareImage())
    .defaults()
    .run('/bin/sh', ['-c', 'setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 7'], options)
  t.is(exitCode, 7)
  t.deepEqual(processesMarked(marker), [])
})

testHere('the pid of a prepared root is the host pid of its first process', async (t) => {
  await using box = await new Rootfs(await bareImage()).defaults().prepare()
  t.true(descendants().some(({ pid }) => pid === box.pid))
  const child = box.spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  t.true(allProcesses().some(({ pid, command }) => pid === child.pid && command === 'sleep'))
  const closed = once(child, 'close')
  t.true(child.kill('SIGTERM'))
  t.deepEqual(await closed, [null, 'SIGTERM'])
})
