// What is short, or stands still: descriptors of this process, and processes that take nothing. Only what needs it fails.
import { once } from 'node:events'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs, type RootfsError } from 'rootfs'
import { evaluate } from './support/evaluate.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { descendants } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox', 'prlimit'])

let made: Promise<string> | undefined
const image = (): Promise<string> => {
  made ??= busyboxImage(join(host.scratch('image'), 'image'))
  return made
}

// ---------------------------------------------------------------- descriptors

const limited = ['prlimit', '--nofile=200:200']

testHere('a first process that waits arrives when no file can be opened: it is given up', async (t) => {
  const found = await evaluate(
    `const root = () => new Rootfs(image).defaults()
     const long = root().spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })
     await once(long, 'spawn')
     const short = root().spawn('/bin/sleep', ['0.3'], { stdio: 'ignore' })
     await once(short, 'spawn')
     const files = fill()
     const [exitCode] = await once(short, 'exit')
     await sleep(500)
     free(files)
     const after = await outcome(root().run('/bin/true'))
     const alive = long.exitCode === null && long.signalCode === null
     const closed = once(long, 'close')
     long.kill('SIGKILL')
     await closed
     return { exitCode, after: after.value?.exitCode ?? after, alive }`,
    await image(),
    limited,
  )
  t.deepEqual(found, { exitCode: 0, after: 0, alive: true })
})

testHere('a command that cannot be watched for want of descriptors fails alone, and is ended', async (t) => {
  const found = (await evaluate(
    `const box = await new Rootfs(image).defaults().prepare()
     const kept = box.spawn('/bin/sleep', ['1000'])
     await once(kept, 'spawn')
     // Nothing is answered before there are no descriptors for it. One after the other: what fails gives descriptors back.
     const failing = async (ask) => {
       process.kill(box.pid, 'SIGSTOP')
       const asked = outcome(ask())
       const files = fill()
       process.kill(box.pid, 'SIGCONT')
       const failed = await asked
       free(files)
       return failed
     }
     const run = await failing(() => box.run('/bin/sleep', ['1001']))
     const mounts = await failing(() => box.mounts())
     let left = ''
     for (let count = 0; count < 50; count++) {
       left = (await box.run('/bin/busybox', ['ps', '-o', 'args'])).stdout
       if (!left.includes('1001')) break
       await sleep(20)
     }
     const still = kept.exitCode ?? kept.signalCode ?? 'runs'
     return { run, mounts, still, left: left.match(/sleep \\d+$/gm), closed: await outcome(box.close()) }`,
    await image(),
    limited,
  )) as { run: { hint: string }; left: unknown }
  t.like(found, {
    run: { code: 'ERR_ROOTFS_EXEC', errnoName: 'EMFILE' },
    mounts: { code: 'ERR_ROOTFS_PROC', errnoName: 'EMFILE' },
    still: 'runs',
    closed: {},
  })
  t.deepEqual(found.left, ['sleep 1000'], 'nothing else runs')
  t.regex(found.run.hint, /RLIMIT_NOFILE/)
})

for (const left of [0, 2, 4, 6, 8, 10, 12]) {
  testHere(`with ${left} descriptors left, a container begins or fails, and others go on`, async (t) => {
    const found = (await evaluate(
      `const root = () => new Rootfs(image).defaults()
       const long = root().spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })
       await once(long, 'spawn')
       await sleep(100)
       let files = fill(${left})
       let run
       try { run = root().run('/bin/sleep', ['0.1'], { stdio: 'ignore' }) } catch (error) { run = Promise.reject(error) }
       run = outcome(run)
       files = files.slice(0, -${left} || undefined).concat(fill())
       const found = await run
       free(files)
       const after = await outcome(root().run('/bin/true'))
       return { found: found.value?.exitCode ?? found.errnoName ?? found, after: after.value?.exitCode ?? after,
         alive: long.exitCode === null && long.signalCode === null }`,
      await image(),
      limited,
    )) as { found: unknown }
    t.log(found.found)
    t.true([0, 'EMFILE'].includes(found.found as string), JSON.stringify(found))
    t.like(found, { after: 0, alive: true })
  })
}

// ---------------------------------------------------------------- processes that take nothing

/** A prepared root that has stopped its own first process. */
async function stopped() {
  const box = await new Rootfs(await image()).defaults().namespaces({ pid: false }).prepare()
  process.kill(box.pid, 'SIGSTOP')
  return box
}

testHere('a stopped container holds up its own requests only, and is closed', async (t) => {
  t.timeout(30_000)
  const rootfs = new Rootfs(await image()).defaults()
  const box = await stopped()
  const waiting = Array.from({ length: 600 }, () =>
    box.run('/bin/true').catch((error: RootfsError) => error.code),
  )
  const begin = performance.now()
  t.like(await rootfs.namespaces({ network: true }).run('/bin/sleep', ['1000'], { timeout: 200 }), {
    timedOut: true,
  })
  const other = await rootfs.prepare()
  t.is((await other.run('/bin/true')).exitCode, 0)
  await other.close()
  await box.close()
  t.true(performance.now() - begin < 5000, 'nothing has waited')
  const ends = await Promise.all(waiting)
  t.is(ends.length, 600)
})

testHere('what waits for a stopped container is done when it goes on', async (t) => {
  t.timeout(30_000)
  const box = await stopped()
  const waiting = Array.from({ length: 600 }, (_, index) => box.run('/bin/echo', [`${index}`]))
  process.kill(box.pid, 'SIGCONT')
  const results = await Promise.all(waiting)
  t.deepEqual(
    results.map(({ stdout }) => stdout),
    results.map((_, index) => `${index}\n`),
  )
  await box.close()
})

testHere('a command in a stopped container is killed', async (t) => {
  t.timeout(30_000)
  const box = await new Rootfs(await image()).defaults().prepare()
  const child = box.spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  process.kill(box.pid, 'SIGSTOP')
  const closed = once(child, 'close')
  t.true(child.kill('SIGKILL'))
  process.kill(box.pid, 'SIGCONT')
  await closed
  t.is(child.signalCode, 'SIGKILL')
  await box.close()
})

testHere('more requests than are kept for a stopped container are refused', async (t) => {
  t.timeout(60_000)
  const box = await stopped()
  const codes = Array.from({ length: 18_000 }, () => box.mounts().catch((error: RootfsError) => error))
  const last = await codes.at(-1)
  t.like(last, { code: 'ERR_ROOTFS_SUPERVISOR' })
  t.regex((last as RootfsError).message, /requests wait for the container's first process/)
  await box.close()
  t.is((await Promise.all(codes)).length, 18_000)
})

testHere('a stopped supervisor holds up nobody but its own, and containers still end', async (t) => {
  t.timeout(30_000)
  const rootfs = new Rootfs(await image()).defaults()
  const box = await rootfs.prepare()
  const [supervisor] = descendants().filter(({ command }) => command === 'rootfs-super')
  process.kill(supervisor!.pid, 'SIGSTOP')
  const waiting = Array.from({ length: 600 }, () => rootfs.namespaces({ network: true }).prepare())
  t.is((await box.run('/bin/true')).exitCode, 0, 'a first process is not its supervisor')
  const closed = box.close()
  process.kill(supervisor!.pid, 'SIGCONT')
  await closed
  const boxes = await Promise.all(waiting)
  await Promise.all(boxes.map((one) => one.close()))
  t.is(boxes.length, 600)
})
