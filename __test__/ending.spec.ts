// The end of containers where nothing is easy: no pid namespace, another user, and processes that are killed on the way.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { becomesAgain, guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { allProcesses, descendants, eventually, processesMarked, processInfo } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])
const bareImage = (): Promise<string> =>
  busyboxImage(join(host.scratch('bare'), 'image'), { mountpoints: false })

const alive = (pid: number): boolean => !['Z', undefined].includes(processInfo(pid)?.state)
const gone = (pid: number) => eventually(() => !alive(pid), Boolean, 3000)

const nobody = 65534
// A user namespace can't have a proc of its own without a pid namespace.
const builder = (image: string, namespaces: object): Rootfs =>
  new Rootfs(image)
    .namespaces(namespaces)
    .proc('/proc', { fallback: 'bind' })
    .file('/dev/null', '')
    .tmpfs('/made/by/us')
const users = { root: 0, 'another user': nobody }
const spaces = {
  'without a pid namespace': { pid: false },
  'with a pid namespace': {},
  'without a pid namespace, in a user namespace': {
    pid: false,
    user: {
      uids: [{ containerId: 0, hostId: 0, size: 65535 }],
      gids: [{ containerId: 0, hostId: 0, size: 65535 }],
    },
  },
}

// ---------------------------------------------------------------- without a pid namespace

/** One in the foreground, one in the background, and one that has left both its session and its parent. */
const daemons = 'sleep 1001 & setsid sh -c "setsid sleep 1002 & echo up" </dev/null; exec sleep 1000'

for (const [who, id] of Object.entries(users)) {
  for (const [where, namespaces] of Object.entries(spaces)) {
    testHere(`${where}, as ${who}: close ends all that was started, with its daemons`, async (t) => {
      const image = await bareImage()
      const tree = snapshotTree(image)
      const marker = `rootfs-ending-${process.pid}-${Date.now()}`
      const options = { user: { uid: id, gid: id }, env: { PATH: '/bin:/usr/bin', MARKER: marker } }
      const box = await builder(image, namespaces).prepare()
      const children = [1, 2, 3].map(() => box.spawn('/bin/sh', ['-c', daemons], options))
      const closed = children.map((child) => once(child, 'close'))
      await Promise.all(children.map((child) => once(child.stdout!, 'data')))
      t.true(processesMarked(marker).length >= 9, 'each has begun three')
      await box.close()
      t.deepEqual(processesMarked(marker), [], 'nothing is left when close has ended')
      for (const end of await Promise.all(closed)) t.deepEqual(end, [null, 'SIGKILL'])
      t.is(processInfo(box.pid), undefined)
      t.deepEqual(snapshotTree(image), tree)
    })
  }
}

testHere('without a pid namespace, a first process that is stopped is killed in the end', async (t) => {
  const image = await bareImage()
  const box = await new Rootfs(image).defaults().namespaces({ pid: false }).prepare()
  const child = box.spawn('/bin/sleep', ['1000'], { user: { uid: nobody, gid: nobody }, stdio: 'ignore' })
  await once(child, 'spawn')
  process.kill(box.pid, 'SIGSTOP')
  await box.close()
  t.true(await gone(child.pid!), 'what it had started ends with it')
  t.is(processInfo(box.pid), undefined)
})

// ---------------------------------------------------------------- Node and the supervisor are killed

for (const [who, id] of Object.entries(users)) {
  for (const [where, namespaces] of Object.entries(spaces)) {
    for (const way of ['run', 'prepare']) {
      testHere(
        `${where}, ${way} as ${who}: the command ends when Node and the supervisor are killed`,
        async (t) => {
          const image = await bareImage()
          const program = join(checkout, '__test__', 'support', 'ending.ts')
          const args = [
            '--import=@oxc-node/core/register',
            program,
            image,
            JSON.stringify(namespaces),
            `${id}`,
            way,
          ]
          const node = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
          const ended = once(node, 'exit')
          const [said] = (await Promise.race([once(node.stdout.setEncoding('utf8'), 'data'), ended])) as [
            string,
          ]
          const pid = Number(said)
          t.true(alive(pid), `${said}`)
          const supervisor = descendants(node.pid).find(({ parentPid }) => parentPid === node.pid)!.pid
          // Stopped first, so that it can't do anything about Node's end.
          process.kill(supervisor, 'SIGSTOP')
          node.kill('SIGKILL')
          await ended
          process.kill(supervisor, 'SIGKILL')
          t.true(await gone(pid), 'it runs no longer')
        },
      )
    }
  }
}

// ---------------------------------------------------------------- commands that end at once

for (const [where, namespaces] of Object.entries(spaces)) {
  testHere(`${where}: commands that end at once have had a pid each`, async (t) => {
    await using box = await builder(await bareImage(), namespaces).prepare()
    const pids = new Set<number>()
    for (let round = 0; round < 20; round++) {
      const children = [1, 2, 3, 4, 5].map(() => box.spawn('/bin/true', [], { stdio: 'ignore' }))
      await Promise.all(
        children.map(async (child) => {
          const ended = once(child, 'close')
          await once(child, 'spawn')
          t.true(child.pid! > 0 && child.pid !== box.pid, `${child.pid}`)
          pids.add(child.pid!)
          await ended
        }),
      )
    }
    t.is(pids.size, 100)
    // It is the host's.
    const child = box.spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })
    await once(child, 'spawn')
    t.is(processInfo(child.pid!)?.parentPid, box.pid)
  })
}

// ---------------------------------------------------------------- many end at once

testHere('containers that are ended together while they begin leave no mountpoint', async (t) => {
  const image = await bareImage()
  const begin = () => new Rootfs(image).defaults().bind('/usr', '/made/by')
  const timedOut = () => begin().run('/bin/sleep', ['5'], { timeout: 1 + Math.floor(Math.random() * 6) })
  const aborted = () => {
    const signal = AbortSignal.timeout(Math.floor(Math.random() * 7))
    return begin().run('/bin/sleep', ['5'], { signal })
  }
  const tree = snapshotTree(image)
  for (let round = 0; round < 60; round++) {
    for (const ended of await Promise.allSettled([timedOut(), aborted(), timedOut(), aborted()])) {
      const { code, name, timedOut } = ended.status === 'fulfilled' ? ended.value : ended.reason
      t.true(timedOut || name === 'AbortError' || name === 'TimeoutError', `${code} ${name}`)
    }
    // One that others' ends have left in use is removed with the last of them.
    const left = await eventually(
      () => snapshotTree(image),
      (now) => JSON.stringify(now) === JSON.stringify(tree),
      1000,
    )
    t.deepEqual(left, tree)
  }
})

testHere('a directory with a file that somebody puts in stays, and is told once', async (t) => {
  const image = await bareImage()
  const box = await new Rootfs(image).defaults().tmpfs('/other').prepare()
  const made = await new Rootfs(image).defaults().bind('/usr', '/made/by').prepare()
  writeFileSync(join(image, 'made', 'mine'), '')
  await made.close()
  await box.close()
  t.true(existsSync(join(image, 'made', 'mine')))
  t.false(existsSync(join(image, 'made', 'by')))
  const later = await new Rootfs(image).defaults().run('/bin/true')
  t.deepEqual(later.warnings, [])
  rmSync(join(image, 'made'), { recursive: true })
})

// ---------------------------------------------------------------- cleaners are killed

/** Kills what cleans up, as soon as it is there, this many times; how many it were. */
function killCleaners(limit: number): { killed: () => number; stop: () => void } {
  let killed = 0
  let timer: NodeJS.Immediate | undefined
  const seen = new Set<number>()
  const look = () => {
    for (const { pid, command, parentPid } of allProcesses()) {
      if (command !== 'rootfs-cleaner' || killed >= limit || seen.has(pid)) continue
      if (processInfo(parentPid)?.parentPid !== process.pid) continue
      seen.add(pid)
      killed++
      process.kill(pid, 'SIGKILL')
    }
    timer = setImmediate(look)
  }
  look()
  return { killed: () => killed, stop: () => clearImmediate(timer) }
}

/** So many mountpoints that it takes a while to remove them. */
async function manyMountpoints(image: string) {
  const rootfs = new Rootfs(image).defaults()
  for (let count = 0; count < 2000; count++) rootfs.tmpfs(`/made/by/us/${count}`)
  return rootfs.prepare()
}

testHere('when a cleaner is killed another does its work', async (t) => {
  t.timeout(120_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const box = await manyMountpoints(image)
  const cleaners = killCleaners(1)
  await box.close()
  cleaners.stop()
  t.is(cleaners.killed(), 1, 'one was there to be killed')
  t.deepEqual(
    box.warnings.filter(({ code }) => code === 'mountpoint-left'),
    [],
  )
  t.deepEqual(snapshotTree(image), tree)
})

testHere('when that is killed too, what is left is told, and removed after the next container', async (t) => {
  t.timeout(120_000)
  const image = await bareImage()
  const tree = snapshotTree(image)
  const box = await manyMountpoints(image)
  const cleaners = killCleaners(2)
  await box.close()
  cleaners.stop()
  t.is(cleaners.killed(), 2)
  const left = box.warnings.filter(({ code }) => code === 'mountpoint-left')
  t.true(left.length > 0)
  t.regex(left[0]!.message, /was killed$/)
  await new Rootfs(image).defaults().run('/bin/true')
  await becomesAgain(t, image, tree)
})

// ---------------------------------------------------------------- keys of the caller

testNeeding(['root', 'busybox', 'cc'])(
  'the keys of the caller are not those of its containers',
  async (t) => {
    const image = await bareImage()
    const source = join(checkout, '__test__', 'support', 'key.c')
    const [cc] = [spawn('cc', ['-static', '-o', join(image, 'bin', 'key'), source], { stdio: 'inherit' })]
    t.deepEqual(await once(cc, 'exit'), [0, null])
    const program = `
    import { Rootfs } from 'rootfs'
    const user = { user: { uid: 65534, gid: 65534 } }
    const spaces = [{}, { user: true }, { pid: false }]
    for (const namespaces of spaces) {
      const rootfs = new Rootfs(${JSON.stringify(image)}).defaults().namespaces(namespaces)
      const options = namespaces.user ? {} : user
      // The second finds a first process that was made before.
      for (let turn = 0; turn < 2; turn++) {
        console.log((await rootfs.run('/bin/key', ['read'])).stdout.trim())
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      console.log((await rootfs.run('/bin/key', ['read'], options)).stdout.trim())
      const box = await rootfs.prepare()
      console.log((await box.run('/bin/key', ['read'], options)).stdout.trim())
      await box.close()
    }`
    const node = [process.execPath, '--input-type=module', '--eval', program]
    const run = async (command: string[]): Promise<string> => {
      const child = spawn(join(image, 'bin', 'key'), ['add', ...command], {
        cwd: checkout,
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let said = ''
      child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
      t.deepEqual(await once(child, 'close'), [0, null])
      return said
    }
    t.is(await run([join(image, 'bin', 'key'), 'read']), 'secret\n', 'the caller itself can read it')
    t.deepEqual((await run(node)).trim().split('\n'), Array(12).fill('none'))
  },
)
