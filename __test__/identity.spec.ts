// A caller who gives up rights, for good or for a while: containers have the rights he had when he asked, and nobody else's.
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { evaluate } from './support/evaluate.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

let made: Promise<string> | undefined
const image = (): Promise<string> => {
  made ??= busyboxImage(join(host.scratch('image'), 'image'))
  return made
}

/** A file that only root reads, in a directory that everybody enters. */
function secret(): string {
  const directory = host.scratch('secret')
  writeFileSync(join(directory, 'file'), 'for root only\n')
  chmodSync(join(directory, 'file'), 0o600)
  return directory
}

// ---------------------------------------------------------------- for good

testHere('setuid while a container runs: both go on, and the end of the first stops nothing', async (t) => {
  const found = await evaluate(
    `const first = small().spawn('/bin/sh', ['-c', 'read line; exit 3'])
     await once(first, 'spawn')
     const before = supervisors()
     beNobody()
     const second = await outcome(small().run('/bin/busybox', ['id', '-u']))
     const closed = once(first, 'close')
     first.stdin.end('\\n')
     const [exitCode] = await closed
     const third = await outcome(small().run('/bin/true'))
     const gone = await eventually(() => supervisors().length === 1)
     return { exitCode, second: second.value?.exitCode ?? second, third: third.value?.exitCode ?? third, gone, same: supervisors()[0] === before[0] }`,
    await image(),
  )
  t.deepEqual(found, { exitCode: 3, second: 0, third: 0, gone: true, same: false })
})

testHere('setuid without a container: the earlier supervisor ends, and another serves', async (t) => {
  const found = await evaluate(
    `const before = await outcome(small().run('/bin/cat', ['/proc/self/status']))
     await small().run('/bin/true')
     const [first] = supervisors()
     beNobody()
     const results = []
     for (let count = 0; count < 3; count++) results.push((await outcome(small().run('/bin/true'))).value?.exitCode)
     return { results, gone: await eventually(() => !supervisors().includes(first)), now: supervisors().length }`,
    await image(),
  )
  t.deepEqual(found, { results: [0, 0, 0], gone: true, now: 1 })
})

testHere(
  'a prepared root is closed, and its commands are ended, by whoever has given up his rights',
  async (t) => {
    const found = await evaluate(
      `const box = await small().prepare()
     const late = box.run('/bin/sleep', ['1000'], { timeout: 700 })
     const term = small().run('/bin/sleep', ['1000'], { timeout: 700, killSignal: 'SIGTERM' })
     const child = box.spawn('/bin/sleep', ['1000'])
     await once(child, 'spawn')
     beNobody()
     const ended = [await outcome(late), await outcome(term)].map(({ value }) => [value?.timedOut, value?.signal])
     const closed = once(child, 'close')
     await child[Symbol.asyncDispose]()
     return { ended, child: await closed, closed: await outcome(box.close()) }`,
      await image(),
    )
    t.deepEqual(found, {
      ended: [
        [true, 'SIGKILL'],
        [true, 'SIGKILL'],
      ],
      child: [null, 'SIGKILL'],
      closed: {},
    })
  },
)

// ---------------------------------------------------------------- what was prepared before

for (const [how, drop] of Object.entries({
  setuid: 'beNobody()',
  seteuid: 'process.seteuid(65534)',
  setegid: 'process.setegid(65534)',
  setgroups: 'process.setgroups([4711])',
})) {
  testHere(`${how}: what was prepared with other rights serves nobody any more`, async (t) => {
    const found = (await evaluate(
      `const box = await small().bind('${secret()}', '/secret').prepare()
       const before = await outcome(box.run('/bin/cat', ['/secret/file']))
       ${drop}
       const run = await outcome(box.run('/bin/cat', ['/secret/file']))
       const spawn = await new Promise((resolve) => box.spawn('/bin/true').once('error', resolve))
       const mounts = await outcome(box.mounts())
       return { before: before.value?.stdout, codes: [run.code, spawn.code, mounts.code], hint: run.hint,
         closed: await outcome(box.close()) }`,
      await image(),
    )) as { hint: string }
    const denied = 'ERR_ROOTFS_DENIED'
    t.like(found, { before: 'for root only\n', codes: [denied, denied, denied], closed: {} })
    t.regex(found.hint, /prepare another root/)
  })
}

testHere('seteuid and back: what was prepared serves again', async (t) => {
  const found = await evaluate(
    `const box = await small().prepare()
     process.seteuid(65534)
     const between = await outcome(box.run('/bin/true'))
     process.seteuid(0)
     return { between: between.code, after: (await outcome(box.run('/bin/true'))).value?.exitCode }`,
    await image(),
  )
  t.deepEqual(found, { between: 'ERR_ROOTFS_DENIED', after: 0 })
})

// ---------------------------------------------------------------- for a while

testHere(
  'a request is served with the rights of its moment, and not with those that come back',
  async (t) => {
    // Many times: the thread that executes the supervisor must not win.
    for (let turn = 0; turn < 5; turn++) {
      const found = (await evaluate(
        `process.setegid(65534); process.seteuid(65534)
       const asked = small().bind('${secret()}', '/secret').namespaces({ user: false }).run('/bin/cat', ['/secret/file'])
       process.seteuid(0); process.setegid(0)
       const first = await outcome(asked)
       return { first, then: (await outcome(small().run('/bin/true'))).value?.exitCode, supervisors: supervisors().length }`,
        await image(),
      )) as { first: { code?: string; message: string }; then: number; supervisors: number }
      t.is(found.first.code, 'ERR_ROOTFS_DENIED', JSON.stringify(found.first))
      t.deepEqual([found.then, found.supervisors], [0, 1])
    }
  },
)

testHere('the supervisor of an effective user has nothing to come back to', async (t) => {
  const found = await evaluate(
    `process.setegid(65534); process.seteuid(65534)
     const box = await small().prepare()
     process.seteuid(0); process.setegid(0)
     const status = readFileSync('/proc/' + supervisors()[0] + '/status', 'latin1')
     const result = status.match(/^(Uid|Gid|CapPrm|CapEff):.*$/gm)
     await box.close()
     return result`,
    await image(),
  )
  const nobody = '\t65534\t65534\t65534\t65534'
  const none = `\t${'0'.repeat(16)}`
  t.deepEqual(found, [`Uid:${nobody}`, `Gid:${nobody}`, `CapPrm:${none}`, `CapEff:${none}`])
})

testHere('identities that come and go have their containers, and keep one supervisor each', async (t) => {
  const found = await evaluate(
    `const ids = []
     const box = await small().prepare()
     for (const user of [65534, 0, 65533, 0, 65534]) {
       process.seteuid(0)
       if (user) process.seteuid(user)
       ids.push((await outcome(small().run('/bin/true'))).value?.exitCode)
     }
     process.seteuid(0)
     const own = await outcome(box.run('/bin/true'))
     await box.close()
     return { ids, own: own.value?.exitCode, few: await eventually(() => supervisors().length <= 2) }`,
    await image(),
  )
  t.deepEqual(found, { ids: [0, 0, 0, 0, 0], own: 0, few: true })
})

// ---------------------------------------------------------------- users of containers

testHere('a user that is not mapped in the user namespace is named, with what to do', async (t) => {
  const rootfs = new Rootfs(await image()).defaults().namespaces({
    user: {
      uids: [{ containerId: 0, hostId: 0, size: 1 }],
      gids: [{ containerId: 0, hostId: 0, size: 1 }],
    },
  })
  for (const user of [
    { uid: 1000, gid: 0 },
    { uid: 0, gid: 1000 },
  ]) {
    const error = await t.throwsAsync(rootfs.run('/bin/true', [], { user }), { code: 'ERR_ROOTFS_EXEC' })
    const which = user.uid === 0 ? 'gid 1000' : 'uid 1000'
    t.true(error?.message.includes(`${which} is not mapped in the user namespace`), error?.message)
    t.regex((error as Error & { hint: string }).hint, /uids, gids/)
  }
})
