// Roots that are changed by others while a container is made of them, and images whose links lead to the root itself.
import { mkdirSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import test from 'ava'
import { type MountInfo, Rootfs, RootfsError } from 'rootfs'
import { exchange } from './support/exchange.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { findProgram, runProgram } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])
const image = (): Promise<string> => busyboxImage(join(host.scratch('image'), 'root'))

/** What of /proc is read-only and hidden by default, as far as this kernel has it. */
const READONLY = ['bus', 'fs', 'irq', 'sys']

function unprotected(mounts: MountInfo[]): string[] {
  const proc = mounts.find(({ type, root }) => type === 'proc' && root === '/')
  if (!proc) return ['proc is not mounted']
  // By their parents: the names of the way are exchanged even while the table is read.
  const at = (name: string) =>
    mounts.findLast(({ parentId, destination }) => parentId === proc.id && basename(destination) === name)
  const writable = READONLY.filter((name) => !at(name)?.options.includes('ro'))
  const shown = ['keys', 'timer_list'].filter((name) => !at(name))
  return [...writable, ...shown]
}

for (const level of levels) {
  testNeeding(['root', 'busybox'], level)(
    `${level}: a /proc that is renamed while the container is made makes no mask miss`,
    async (t) => {
      t.timeout(120_000)
      const root = await image()
      mkdirSync(join(root, 'proc2'))
      process.env.ROOTFS_TEST_LEVEL = level
      t.teardown(() => delete process.env.ROOTFS_TEST_LEVEL)
      const racer = exchange(join(root, 'proc'), join(root, 'proc2'))
      t.teardown(() => racer.kill('SIGKILL'))
      const outcomes: Record<string, number> = {}
      for (let turn = 0; turn < 40; turn++) {
        let outcome = 'protected'
        try {
          await using box = await new Rootfs(root).defaults({ cgroup: false }).prepare()
          const missed = unprotected(await box.mounts())
          if (missed.length > 0) outcome = `missed ${missed.join()}`
        } catch (error) {
          if (!(error instanceof RootfsError)) throw error
          outcome = error.code
        }
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
      }
      t.log(outcomes)
      t.deepEqual(
        Object.keys(outcomes).filter((outcome) => outcome.startsWith('missed')),
        [],
      )
      t.true((outcomes.protected ?? 0) > 0)

      // The same by paths: what was mounted on one name is not below it any more.
      const naive = `for i in $(seq 200); do
      mount -t proc proc "$0/proc" && { mount --bind "$0/proc/sys" "$0/proc/sys" 2>/dev/null || echo missed; }
      umount -lq "$0/proc" "$0/proc2"
    done`
      const unshare = findProgram('unshare') ?? ''
      const args = ['--mount', '--propagation', 'private', '/bin/sh', '-c', naive, root]
      const { stdout } = await runProgram(unshare, args)
      t.true(stdout.includes('missed'), 'positive control: paths are led astray')
    },
  )
}

// ---------------------------------------------------------------- links to the root itself

for (const target of ['.', '/', '../..', '/etc/..']) {
  testHere(`an image whose /dev is a link to ${target}: refused, and nothing is made in it`, async (t) => {
    const root = await image()
    rmdirSync(join(root, 'dev'))
    symlinkSync(target, join(root, 'dev'))
    writeFileSync(join(root, 'ptmx'), 'precious')
    const before = snapshotTree(root)
    const error = await t.throwsAsync(new Rootfs(root).defaults().run('/bin/true'), {
      instanceOf: RootfsError,
    })
    t.is(error.code, 'ERR_ROOTFS_MOUNT')
    t.regex(error.message, /leads to the root itself/)
    t.is(error.destination, '/dev')
    t.deepEqual(snapshotTree(root), before)
  })
}

testHere('a tmpfs on a link to the root is refused: what is written would go past it', async (t) => {
  const root = await image()
  symlinkSync('/', join(root, 'scratch'))
  await t.throwsAsync(new Rootfs(root).tmpfs('/scratch').run('/bin/true'), {
    code: 'ERR_ROOTFS_MOUNT',
    message: /leads to the root itself/,
  })
})

testHere('the root itself can neither be masked nor made read-only as a path', async (t) => {
  for (const path of ['/', '//', '/.']) {
    const expected = { code: 'ERR_INVALID_ARG_VALUE', message: /is the root itself/ }
    t.throws(() => new Rootfs('/srv').mask(path), expected)
    t.throws(() => new Rootfs('/srv').readonlyPaths(['/etc', path]), expected)
  }
  const root = await image()
  symlinkSync('/', join(root, 'all'))
  for (const path of ['/etc/..', '/all']) {
    const expected = { code: 'ERR_ROOTFS_MOUNT', message: /is the root itself/ }
    await t.throwsAsync(new Rootfs(root).mask(path).run('/bin/true'), expected)
    await t.throwsAsync(new Rootfs(root).readonlyPaths(path).run('/bin/true'), expected)
  }
})
