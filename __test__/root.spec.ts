// The root itself: its propagation in every word, read-only with and without what is mounted below it, and a root in a mount
// namespace that is not the container's own.
import { mkdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type OciSpec, Rootfs } from 'rootfs'
import { type Cell, cells, openDirectory, runInCell } from './support/cells.ts'
import { guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { isWithin, parseMountinfo } from './support/mountinfo.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** An image that is a shared mount and has another one below it. */
async function mountedImage(cell: Cell) {
  const root = await busyboxImage(join(host.scratch('image'), 'root'), { owner: cell.owner })
  const setup = `
    mount --bind ${root} ${root}; mount --make-shared ${root}
    mount -t tmpfs -o mode=1777 tmpfs ${root}/data; mount --make-shared ${root}/data`
  return { root, setup }
}

/** Of the root, then of what came along with it. Without `r` a word is about the root alone; what came along is never a peer. */
const propagations = [
  [undefined, ['master'], ['master']],
  ['private', [], []],
  ['rprivate', [], []],
  ['slave', ['master'], ['master']],
  ['rslave', ['master'], ['master']],
  ['shared', ['shared', 'master'], ['master']],
  ['rshared', ['shared', 'master'], ['shared', 'master']],
  ['unbindable', ['unbindable'], ['unbindable']],
  ['runbindable', ['unbindable'], ['unbindable']],
] as const

const names = ['root', 'root with ranges in a user namespace', 'unprivileged']
for (const cell of cells.filter(({ name }) => names.includes(name))) {
  for (const level of levels) {
    testNeeding([...cell.needs, 'busybox'], level)(
      `${cell.name}, ${level}: the root has the propagation that was asked for`,
      async (t) => {
        const { root, setup } = await mountedImage(cell)
        const evidence = openDirectory(host, 'evidence')
        for (const [word, ofRoot, below] of propagations) {
          const calls: Job['calls'] = [['proc'], ...(word ? ([['propagation', word]] as Job['calls']) : [])]
          const command = { command: 'cat', args: ['/proc/self/mountinfo'] }
          const { error, results } = await runInCell(
            cell,
            { root, calls, mode: 'run', commands: [command] },
            host,
            { level, setup: `${setup}; cat /proc/self/mountinfo > ${evidence}/host` },
          )
          t.is(error, undefined, JSON.stringify(error))
          const inside = parseMountinfo(results[0]!.stdout)
          const outside = parseMountinfo(readFileSync(join(evidence, 'host'), 'utf8'))
          for (const [path, expected] of [
            ['/', ofRoot],
            ['/data', below],
          ] as const) {
            const fields = inside.find(({ destination }) => destination === path)!.propagation
            const words = fields.map((field) => field.split(':')[0]!)
            t.deepEqual(words, [...expected], `${word} ${path}`)
            const peers = new Set(outside.flatMap(({ propagation }) => propagation))
            t.false(
              fields.some((field) => field.startsWith('shared:') && peers.has(field)),
              `${word} ${path}: nothing gets out`,
            )
          }
        }
      },
    )

    for (const recursive of [false, true]) {
      testNeeding([...cell.needs, 'busybox'], level)(
        `${cell.name}, ${level}: a root that is read-only${recursive ? ' with what is below it' : ''}`,
        async (t) => {
          const { root, setup } = await mountedImage(cell)
          const before = snapshotTree(root)
          const script = 'for at in / /data /own /tmp; do touch $at/new 2>/dev/null && echo $at; done; true'
          const calls: Job['calls'] = [['readonly', { recursive }], ['tmpfs', '/own'], ['dev']]
          const job: Job = {
            root,
            calls,
            mode: 'prepare',
            commands: [{ command: 'sh', args: ['-c', script] }],
          }
          const outcome = await runInCell(cell, job, host, { level, setup })
          t.is(outcome.error, undefined, JSON.stringify(outcome.error))
          t.is(outcome.results[0]!.stdout, recursive ? '/own\n' : '/data\n/own\n')
          t.deepEqual(snapshotTree(root), before)
        },
      )
    }
  }
}

for (const [cell, level] of cells.flatMap((one) => levels.map((level) => [one, level] as const))) {
  testNeeding([...cell.needs, 'busybox'], level)(
    `${cell.name}, ${level}: a missing working directory is made in a root that is read-only`,
    async (t) => {
      const root = await busyboxImage(join(host.scratch('image'), 'root'), { owner: cell.owner })
      const commands = [{ command: 'sh', args: ['-c', 'pwd; touch new'], options: { cwd: '/made/here' } }]
      const job: Job = { root, calls: [['readonly'], ['dev']], mode: 'run', commands }
      const { error, results } = await runInCell(cell, job, host, { level })
      t.is(error, undefined, JSON.stringify(error))
      t.is(results[0]!.stdout, '/made/here\n')
      t.regex(results[0]!.stderr, /Read-only file system/)
    },
  )
}

for (const level of levels) {
  testNeeding(['root', 'busybox', 'unshare'], level)(
    `${level}: what a link and .. lead to is where it is, and not what the path looks like`,
    async (t) => {
      const root = await busyboxImage(join(host.scratch('image'), 'root'))
      for (const path of ['a/b', 'a/hidden', 'hidden', 'frozen', 'a/frozen'])
        mkdirSync(join(root, path), { recursive: true })
      for (const path of ['a/hidden/file', 'hidden/file']) writeFileSync(join(root, path), 'seen\n')
      symlinkSync('/a/b', join(root, 'deep'))
      const before = snapshotTree(root)
      // Text only, these would be /, /frozen, /hidden and /.
      const calls: Job['calls'] = [
        ['dev'],
        ['proc'],
        ['tmpfs', '/deep/../mounted'],
        ['file', '/deep/../mounted/inside', 'here\n'],
        ['readonlyPaths', '/deep/../frozen'],
        ['mask', '/deep/../hidden'],
      ]
      const script = `cat /a/mounted/inside; cat /hidden/file; ls /a/hidden; touch /frozen/new
        touch /a/frozen/new 2>/dev/null || echo frozen; rm /frozen/new`
      const job: Job = { root, calls, mode: 'run', commands: [{ command: 'sh', args: ['-c', script] }] }
      const { error, results } = await runInCell(cells[0]!, job, host, { level })
      t.is(error, undefined, JSON.stringify(error))
      t.is(results[0]!.stdout, 'here\nseen\nfrozen\n')
      const over: Job = {
        ...job,
        calls: [['proc'], ['tmpfs', '/deep/..']],
        commands: [{ command: 'sh', args: ['-c', 'ls /a; cat /hidden/file'] }],
      }
      const covered = await runInCell(cells[0]!, over, host, { level })
      t.is(covered.error, undefined, JSON.stringify(covered.error))
      t.is(covered.results[0]!.stdout, 'seen\n')
      t.deepEqual(snapshotTree(root), before)
    },
  )
}

testNeeding(['root', 'busybox'])(
  'nothing can hide or freeze the root itself, however it is named',
  async (t) => {
    const root = await busyboxImage(join(host.scratch('image'), 'root'))
    symlinkSync('/', join(root, 'top'))
    for (const path of ['/', '/..', '/../.', '//']) {
      const expected = { code: 'ERR_INVALID_ARG_VALUE', message: /is the root itself/ }
      t.throws(() => new Rootfs(root).mask(path), expected)
      t.throws(() => new Rootfs(root).readonlyPaths(path), expected)
    }
    for (const begin of [
      new Rootfs(root).mask('/top'),
      new Rootfs(root).readonlyPaths('/top'),
      new Rootfs(root).bind(root, '/').mask('/top'),
      new Rootfs(root).tmpfs('/top'),
    ])
      await t.throwsAsync(begin.run('/bin/true'), { code: 'ERR_ROOTFS_MOUNT', message: /the root itself/ })
  },
)

/** A config without a mount namespace of the container's own. */
const withoutMounts = (root: string, args: string[]): OciSpec => ({
  ociVersion: '1.2.0',
  root: { path: root, readonly: true },
  process: { args, cwd: '/own', env: ['PATH=/bin:/usr/bin'], user: { uid: 0, gid: 0 } },
  hostname: 'inside',
  mounts: [
    { destination: '/proc', type: 'proc' },
    { destination: '/own', type: 'tmpfs' },
    { destination: '/dev', type: 'tmpfs' },
  ],
  linux: { namespaces: [{ type: 'pid' }, { type: 'uts' }] },
})

testNeeding(['root', 'busybox'], 'detached')(
  'without a mount namespace the root is entered by chroot, and nothing changes in the caller’s',
  async (t) => {
    const root = await busyboxImage(join(host.scratch('image'), 'root'))
    const before = snapshotTree(root)
    const mounts = hostMounts()
    const script = 'readlink /proc/self/ns/mnt; pwd; hostname; touch here /bad 2>/dev/null; ls; ls -d /bad'
    const rootfs = Rootfs.fromSpec(withoutMounts(root, ['sh', '-c', script]))
    const { stdout, warnings } = await rootfs.run()
    const [namespace, ...rest] = stdout.split('\n')
    t.is(namespace, readlinkSync('/proc/self/ns/mnt'))
    t.deepEqual(rest, ['/own', 'inside', 'here', ''])
    t.deepEqual(warnings.map(({ code }) => code).toSorted(), ['no-mount-namespace', 'not-verified'])
    await using box = await rootfs.prepare()
    t.is(box.steps.find(({ type }) => type === 'pivot')?.strategy, 'chroot')
    t.is((await box.run('/bin/ls', ['/own'])).stdout, '')
    t.is(hostMounts(), mounts)
    await box.close()
    t.deepEqual(snapshotTree(root), before)
  },
)

testNeeding(['root', 'busybox'], 'detached')(
  'without a mount namespace a new user namespace inside is refused by the kernel',
  async (t) => {
    const root = await busyboxImage(join(host.scratch('image'), 'root'))
    const { exitCode, stderr } = await Rootfs.fromSpec(
      withoutMounts(root, ['unshare', '--user', 'true']),
    ).run()
    t.not(exitCode, 0)
    t.regex(stderr, /not permitted/i)
  },
)

for (const level of ['attached', 'classic'] as const) {
  testNeeding(['root', 'busybox'], level)(
    `without a mount namespace level ${level} is refused before anything is mounted`,
    async (t) => {
      const root = await busyboxImage(join(host.scratch('image'), 'root'), { mountpoints: false })
      const before = snapshotTree(root)
      const directory = host.scratch('bundle')
      writeFileSync(join(directory, 'config.json'), JSON.stringify(withoutMounts(root, ['true'])))
      const job: Job = { root: { bundle: directory }, calls: [], mode: 'run', commands: [{}] }
      const { error } = await runInCell(cells[0]!, job, host, { level })
      t.is(error?.code, 'ERR_ROOTFS_UNSUPPORTED')
      t.deepEqual(snapshotTree(root), before)
      t.false(
        hostMounts()
          .split('\n')
          .some((line) => isWithin(root, line.split(' ')[4] ?? '')),
      )
    },
  )
}
