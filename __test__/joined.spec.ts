// Namespaces that exist already, and cgroups: what a container finds when it is put into them.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type NamespaceOptions, Rootfs, RootfsError } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { containers, eventually, processesMarked, processInfo } from './support/processes.ts'
import { mustRun } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const NEEDS = ['root', 'busybox', 'unshare'] as const
const testHere = testNeeding(NEEDS)
const kinds = ['user', 'pid', 'mount', 'ipc', 'uts', 'cgroup', 'network'] as const
const file = {
  user: 'user',
  pid: 'pid',
  mount: 'mnt',
  ipc: 'ipc',
  uts: 'uts',
  cgroup: 'cgroup',
  network: 'net',
}

const image = (owner?: Cell['owner']): Promise<string> =>
  busyboxImage(join(host.scratch('image'), 'root'), owner === undefined ? {} : { owner })

/** A process in namespaces of its own; they are there as long as it lives. */
async function holder(t: ExecutionContext, args: string[], as: string[] = []): Promise<number> {
  const script = 'hostname held; echo up; exec sleep 1000'
  const [command = '', ...rest] = [...as, 'unshare', ...args, 'sh', '-c', script]
  const child: ChildProcess = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout!, 'data')
  t.teardown(async () => {
    for (const pid of [...below(child.pid!), child.pid!]) process.kill(pid, 'SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  // With --fork the namespaces are those of the child.
  return below(child.pid!)[0] ?? child.pid!
}

const below = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)

const paths = (pid: number, names: ReadonlyArray<keyof typeof file>): NamespaceOptions =>
  Object.fromEntries(names.map((name) => [name, { path: `/proc/${pid}/ns/${file[name]}` }]))

/** A command with its arguments. */
interface Command {
  command: string
  args: string[]
}

const links = (names: ReadonlyArray<keyof typeof file>): Command => ({
  command: '/bin/sh',
  args: ['-c', names.map((name) => `readlink /proc/self/ns/${file[name]}`).join(';')],
})

const wanted = (pid: number, names: ReadonlyArray<keyof typeof file>): string =>
  `${names.map((name) => readlinkSync(`/proc/${pid}/ns/${file[name]}`)).join('\n')}\n`

const withProc = (root: string): Rootfs => new Rootfs(root).proc().dev()

async function bothWays(
  t: ExecutionContext,
  rootfs: Rootfs,
  command: Command,
  check: (stdout: string) => void,
) {
  const tree = hostMounts()
  const ran = await rootfs.run(command.command, command.args)
  t.is(ran.stderr, '')
  check(ran.stdout)
  await using box = await rootfs.prepare()
  for (let count = 0; count < 2; count++) {
    const { stdout, stderr } = await box.run(command.command, command.args)
    t.is(stderr, '')
    check(stdout)
  }
  t.is(hostMounts(), tree)
}

for (const name of ['pid', 'ipc', 'uts', 'cgroup', 'network'] as const) {
  testHere(`root: a ${name} namespace by its path is the container's`, async (t) => {
    const flags = { pid: '--pid', ipc: '--ipc', uts: '--uts', cgroup: '--cgroup', network: '--net' }
    const pid = await holder(t, [flags[name], '--uts', '--fork'])
    const rootfs = withProc(await image()).namespaces(paths(pid, [name]))
    await bothWays(t, rootfs, links([name]), (stdout) => t.is(stdout, wanted(pid, [name])))
    if (name === 'uts') t.is((await rootfs.run('hostname')).stdout, 'held\n')
  })
}

testHere('root: in a joined pid namespace the first process is one of many, and ends alone', async (t) => {
  const pid = await holder(t, ['--pid', '--fork', '--uts'])
  const rootfs = withProc(await image()).namespaces(paths(pid, ['pid']))
  const { stdout } = await rootfs.run('/bin/sh', ['-c', 'cat /proc/1/cmdline | tr "\\0" " "; echo $$'])
  t.regex(stdout, /sleep 1000 \d+\n/)
  t.not(stdout.trim().split(' ').at(-1), '1')
  const child = rootfs.spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  t.is(readlinkSync(`/proc/${child.pid}/ns/pid`), readlinkSync(`/proc/${pid}/ns/pid`))
  t.true(child.kill('SIGTERM'))
  t.deepEqual(await once(child, 'close'), [null, 'SIGTERM'])
  t.truthy(processInfo(pid))
})

testHere('root: all that a prepared root runs in a joined pid namespace ends with it', async (t) => {
  const pid = await holder(t, ['--pid', '--fork', '--uts'])
  const marker = `rootfs-joined-${Date.now()}`
  const options = { env: { PATH: '/bin', MARKER: marker } }
  const box = await withProc(await image())
    .namespaces(paths(pid, ['pid']))
    .prepare()
  const child = box.spawn('/bin/sh', ['-c', 'sleep 1000 & echo up; wait'], options)
  await once(child.stdout!, 'data')
  t.true(processesMarked(marker).length > 0)
  await box.close()
  const left = await eventually(
    () => processesMarked(marker).filter(({ command }) => command === 'sh'),
    (now) => now.length === 0,
  )
  t.deepEqual(left, [])
  // What the command had begun is not in the first process's group: it is documented that it stays.
  for (const { pid: stray } of processesMarked(marker)) process.kill(stray, 'SIGKILL')
  t.truthy(processInfo(pid))
})

for (const map of ['0 0 1', '0 100000 65536']) {
  testHere(`root: a user namespace by its path, with the mapping ${map}`, async (t) => {
    const pid = await holder(t, ['--user', '--uts', '--net', '--pid', '--fork'])
    for (const file of ['uid_map', 'gid_map']) writeFileSync(`/proc/${pid}/${file}`, map)
    const owner = map.includes('100000') ? { uid: 100_000 } : { uid: 0 }
    const root = await image(owner)
    const names = ['user', 'uts', 'network', 'pid'] as const
    const rootfs = new Rootfs(root).defaults({ cgroup: false }).namespaces(paths(pid, names))
    await bothWays(t, rootfs, links(names), (stdout) => t.is(stdout, wanted(pid, names)))
    const { stdout } = await rootfs.run('/bin/sh', [
      '-c',
      'id -u; cat /proc/self/uid_map; stat -c %u /bin; hostname',
    ])
    const seen = readFileSync(`/proc/${pid}/uid_map`, 'utf8')
    t.true(stdout.startsWith(`0\n${seen}0\n`), stdout)
    const tree = snapshotTree(root)
    await rootfs.tmpfs('/made/below').run('/bin/true')
    t.deepEqual(snapshotTree(root), tree)
    // Root's files, in a directory that only root may enter, are those of the namespace's root.
    const closed = host.scratch('closed')
    writeFileSync(join(closed, 'file'), '')
    chmodSync(closed, 0o700)
    const mapped = rootfs.bind(closed, '/mapped', { idMap: 'userns' })
    t.is((await mapped.run('/bin/stat', ['-c', '%u', '/mapped/file'])).stdout, '0\n')
  })
}

testHere('root: a user namespace with another one of the host joins both', async (t) => {
  const inside = await holder(t, ['--user', '--map-root-user', '--uts'])
  const outside = await holder(t, ['--net', '--uts'])
  const rootfs = new Rootfs(await image())
    .defaults({ cgroup: false })
    .namespaces({ ...paths(inside, ['user']), ...paths(outside, ['network']) })
  const { command, args } = links(['user', 'network'])
  t.is((await rootfs.run(command, args)).stdout, wanted(inside, ['user']) + wanted(outside, ['network']))
})

testHere('root: a new user namespace can be in a network namespace of the host', async (t) => {
  const pid = await holder(t, ['--net', '--uts'])
  const rootfs = new Rootfs(await image())
    .defaults({ cgroup: false })
    .namespaces({ user: true, ...paths(pid, ['network']) })
  await bothWays(t, rootfs, links(['network']), (stdout) => t.is(stdout, wanted(pid, ['network'])))
})

const testDetached = testNeeding(NEEDS, 'detached')

testDetached('root: a mount namespace by its path is joined, and nothing in it changes', async (t) => {
  const pid = await holder(t, ['--mount', '--uts'])
  const root = await image()
  const data = host.scratch('data')
  writeFileSync(join(data, 'hello'), 'from the host\n')
  const rootfs = withProc(root)
    .bind(data, '/data', { readonly: true })
    .tmpfs('/frozen', { readonly: true })
    .tmpfs('/frozen/open')
    .readonly()
    .namespaces(paths(pid, ['mount']))
  const before = readFileSync(`/proc/${pid}/mountinfo`, 'utf8')
  const script = [
    'readlink /proc/self/ns/mnt',
    'pwd',
    'ls /',
    'cat /data/hello',
    'for at in /data /frozen /frozen/open /; do echo x > $at/written && echo "wrote $at" || true; done',
    'ls /proc/self/root/..',
    'wc -l < /proc/self/mountinfo',
  ].join('; ')
  const tree = snapshotTree(root)
  const names = 'bin data dev etc frozen linuxrc own proc run sbin sys tmp usr'
  const ls = `${names.split(' ').join('\n')}\n`
  const check = (stdout: string) =>
    t.is(stdout, `${wanted(pid, ['mount'])}/\n${ls}from the host\nwrote /frozen/open\n${ls}0\n`)
  const ran = await rootfs.run('/bin/sh', ['-c', script])
  check(ran.stdout)
  t.true(ran.warnings.some(({ code }) => code === 'not-verified'))
  await using box = await rootfs.prepare()
  check((await box.run('/bin/sh', ['-c', script])).stdout)
  t.deepEqual(
    box.steps.filter(({ type }) => type === 'pivot' || type === 'verify').map(({ strategy }) => strategy),
    ['chroot', 'no-mount-table'],
  )
  t.is(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'), before)
  t.deepEqual(
    snapshotTree(root).filter((line) => !/^\/(frozen|data)/.test(line)),
    tree.filter((line) => !/^\/(frozen|data)/.test(line)),
  )
  await box.close()
  t.deepEqual(snapshotTree(root), tree)
})

testDetached('root: read-only in read-only, with mounts below, in a joined mount namespace', async (t) => {
  const pid = await holder(t, ['--mount', '--uts'])
  const [outer, inner] = [host.scratch('outer'), host.scratch('inner')]
  mkdirSync(join(outer, 'along'))
  const job: Job = {
    root: await image(),
    calls: [
      ['dev'],
      // What comes along is read-only too, and what is mounted there since is not.
      ['mount', { destination: '/outer', source: outer, options: ['rbind', 'rro'] }],
      ['mount', { destination: '/outer/inner', source: inner, options: ['bind', 'ro'] }],
      ['tmpfs', '/outer/inner/open'],
      ['tmpfs', '/outer/open'],
      ['namespaces', paths(pid, ['mount'])],
    ],
    mode: 'run',
    commands: [
      {
        command: '/bin/sh',
        args: [
          '-c',
          `cd /outer; for at in . along inner inner/open open; do
             { echo x > $at/written; } 2>/dev/null && echo "wrote $at" || echo "refused $at"
           done`,
        ],
      },
    ],
  }
  const root = cells.find(({ name }) => name === 'root')!
  const { error, results } = await runInCell(root, job, host, { setup: `mount -t tmpfs along '${outer}/along'` })
  t.is(error, undefined)
  t.is(
    results[0]!.stdout,
    'refused .\nrefused along\nrefused inner\nwrote inner/open\nwrote open\n',
    results[0]!.stderr,
  )
})

testDetached('root: in a joined mount namespace a new user namespace is refused by the kernel', async (t) => {
  const pid = await holder(t, ['--mount', '--uts'])
  const rootfs = withProc(await image()).namespaces(paths(pid, ['mount']))
  const result = await rootfs.run('unshare', ['--user', 'true'])
  t.not(result.exitCode, 0)
  t.regex(result.stderr, /not permitted/i)
})

testDetached('root: a joined mount namespace needs level detached', async (t) => {
  const pid = await holder(t, ['--mount', '--uts'])
  process.env.ROOTFS_TEST_LEVEL = 'attached'
  t.teardown(() => delete process.env.ROOTFS_TEST_LEVEL)
  await t.throwsAsync(
    withProc(await image())
      .namespaces(paths(pid, ['mount']))
      .run('/bin/true'),
    {
      code: 'ERR_ROOTFS_UNSUPPORTED',
      message: /6\.15/,
    },
  )
})

test('masks, read-only paths and early hooks need a mount namespace of the container’s own', (t) => {
  const mount = { mount: { path: '/proc/self/ns/mnt' } }
  const wrong: Array<(rootfs: Rootfs) => Rootfs> = [
    (rootfs) => rootfs.mask('/proc/kcore'),
    (rootfs) => rootfs.readonlyPaths('/proc/sys'),
    (rootfs) => rootfs.readonly({ recursive: true }),
    (rootfs) => rootfs.hook('createRuntime', { path: '/bin/true' }),
    (rootfs) => rootfs.defaults(),
  ]
  for (const call of wrong) {
    t.throws(() => call(Rootfs.empty().namespaces(mount)), {
      code: 'ERR_INVALID_ARG_VALUE',
      message: /mount namespace/,
    })
    t.throws(() => call(Rootfs.empty()).namespaces(mount), {
      code: 'ERR_INVALID_ARG_VALUE',
      message: /mount namespace/,
    })
  }
})

testHere('a user namespace in a joined mount namespace is refused, with what to do', async (t) => {
  const rootfs = Rootfs.empty().namespaces({ user: true, mount: { path: '/proc/self/ns/mnt' } })
  await t.throwsAsync(rootfs.run('/bin/true'), {
    code: 'ERR_ROOTFS_UNSUPPORTED',
    message: /namespaces\.mount/,
  })
})

for (const kind of kinds) {
  testHere(`what is no ${kind} namespace is refused`, async (t) => {
    const other = kind === 'uts' ? 'ipc' : 'uts'
    const directory = host.scratch('wrong')
    symlinkSync('/nowhere', join(directory, 'dangling'))
    writeFileSync(join(directory, 'file'), '')
    await mustRun('mkfifo', [join(directory, 'fifo')])
    const attempt = (path: string) => Rootfs.empty().namespaces({ [kind]: { path } })
    for (const [path, message] of [
      [join(directory, 'missing'), /can't be opened.*ENOENT/],
      [join(directory, 'dangling'), /can't be opened.*ENOENT/],
      [join(directory, 'file'), /is no namespace/],
      [join(directory, 'fifo'), /is no namespace/],
      [directory, /is no namespace/],
      [`/proc/self/ns/${file[other]}`, new RegExp(`of the kind ${other}`)],
    ] as const) {
      const expected = { instanceOf: RootfsError, code: 'ERR_ROOTFS_SOURCE', message }
      await t.throwsAsync(attempt(path).run('/bin/true'), expected)
      await t.throwsAsync(attempt(path).prepare(), expected)
      const child = attempt(path).spawn('/bin/true')
      const [error] = (await once(child, 'error')) as [Error]
      t.regex(error.message, message)
      t.true(error.message.startsWith(`step 0 (namespaces): namespaces.${kind}`))
    }
    t.throws(() => attempt('relative/path'), { code: 'ERR_INVALID_ARG_VALUE' })
    t.throws(() => attempt('/with\0nul'), { code: 'ERR_INVALID_ARG_VALUE' })
    t.deepEqual(containers(), [])
  })
}

test('a user namespace by its path excludes mappings', (t) => {
  const uids = [{ containerId: 0, hostId: 0, size: 1 }]
  const user = { path: '/proc/self/ns/user', uids, gids: uids } as unknown as NamespaceOptions['user'] &
    object
  t.throws(() => Rootfs.empty().namespaces({ user }), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /uids and gids/,
  })
})

// ---------------------------------------------------------------- as an ordinary user

const ordinary = cells.find(({ name }) => name === 'unprivileged')!
const ORDINARY_NEEDS = [...ordinary.needs, 'busybox', 'setpriv', 'unshare'] as const
const asOrdinary = ['setpriv', '--reuid', `${ordinary.uid}`, '--regid', `${ordinary.uid}`, '--clear-groups']

for (const names of [
  ['user', 'uts', 'pid', 'network'],
  ['user', 'mount', 'uts', 'pid', 'network'],
] as const) {
  const level = names.includes('mount' as never) ? 'detached' : undefined
  testNeeding(ORDINARY_NEEDS, level)(`an ordinary user joins what is his: ${names.join(', ')}`, async (t) => {
    const args = ['--user', '--map-root-user', '--mount', '--uts', '--net', '--pid', '--fork']
    const pid = await holder(t, args, asOrdinary)
    const root = await image(ordinary.owner)
    const base: Job['calls'] = [['proc'], ['dev'], ['namespaces', paths(pid, names)]]
    const outcome = await runInCell(
      ordinary,
      { root, calls: base, mode: 'prepare', commands: [links(names)] },
      host,
    )
    t.is(outcome.error, undefined)
    t.is(outcome.results[0]?.stdout, wanted(pid, names))
    return undefined
  })
}

testNeeding(ORDINARY_NEEDS)('an ordinary user is refused what is root’s, with what to do', async (t) => {
  const pid = await holder(t, ['--net', '--uts'])
  const root = await image(ordinary.owner)
  const job = {
    root,
    calls: [['namespaces', paths(pid, ['network'])]],
    mode: 'run',
    commands: [{ command: '/bin/true' }],
  }
  const outcome = await runInCell(ordinary, job as Job, host)
  t.like(outcome.error, { code: 'ERR_ROOTFS_DENIED', errnoName: 'EACCES' })
  t.regex(outcome.error?.hint ?? '', /trace/)
})

// ---------------------------------------------------------------- cgroups

const CGROUP2 = 0x63677270
const hierarchy = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'].find(
  (path) => existsSync(path) && statfsSync(path).type === CGROUP2,
)
const noCgroup = hierarchy === undefined ? 'there is no cgroup2 hierarchy' : undefined
const testCgroup = (title: string, work: (t: ExecutionContext, directory: string) => Promise<void>) => {
  if (noCgroup) return test.skip(`${title} (skipped: ${noCgroup})`, () => {})
  return testHere(title, async (t) => {
    const directory = mkdtempSync(join(hierarchy!, 'rootfs-test-'))
    try {
      await work(t, directory)
    } finally {
      await eventually(
        () => readFileSync(join(directory, 'cgroup.procs'), 'utf8'),
        (procs) => procs === '',
      )
      rmdirSync(directory)
    }
  })
}

const script = 'echo $$ > /dev/null; cat /proc/self/cgroup | grep ^0; sleep 0.1'

for (const user of [false, true]) {
  testCgroup(
    `root${user ? ' with a user namespace' : ''}: the container is in its cgroup, and sees it as the root`,
    async (t, directory) => {
      const rootfs = new Rootfs(await image()).defaults({ cgroup: false }).namespaces({ user })
      t.is((await rootfs.run('/bin/sh', ['-c', script], { cgroup: directory })).stdout, '0::/\n')
      const seen = new Rootfs(await image()).defaults({ cgroup: false }).namespaces({ user, cgroup: false })
      const { stdout } = await seen.run('/bin/sh', ['-c', script], { cgroup: directory })
      t.is(stdout, `0::/${directory.slice(hierarchy!.length + 1)}\n`)
      await using box = await rootfs.prepare({ cgroup: directory })
      t.is((await box.run('/bin/sh', ['-c', script])).stdout, '0::/\n')
      const child = box.spawn('/bin/sleep', ['1000'])
      await once(child, 'spawn')
      const inside = readFileSync(join(directory, 'cgroup.procs'), 'utf8').trim().split('\n').map(Number)
      t.deepEqual(inside.sort(), [box.pid, child.pid!].sort())
      const other = seen.spawn('/bin/sleep', ['1000'], { cgroup: directory })
      await once(other, 'spawn')
      t.true(readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').includes(`${other.pid}`))
      const end = once(other, 'close')
      other.kill('SIGKILL')
      await end
    },
  )
}

testCgroup('root: a relative cgroup is taken from the working directory', async (t, directory) => {
  const cwd = process.cwd()
  process.chdir(hierarchy!)
  try {
    const rootfs = new Rootfs(await image()).proc()
    const { stdout } = await rootfs.run('cat', ['/proc/self/cgroup'], {
      cgroup: directory.slice(hierarchy!.length + 1),
    })
    t.regex(stdout, /^0::\/$/m)
  } finally {
    process.chdir(cwd)
  }
})

testCgroup(
  'without a pid namespace, all that is in the cgroup ends with the container',
  async (t, directory) => {
    const rootfs = new Rootfs(await image()).dev().namespaces({ pid: false })
    const marker = `rootfs-cgroup-${Date.now()}`
    const options = { env: { PATH: '/bin:/usr/bin', MARKER: marker } }
    const daemon = 'setsid sh -c "setsid sleep 1000 & echo up" </dev/null; '
    // One command that ends by itself, one that is killed, one in a prepared root.
    t.is(
      (
        await rootfs.run('/bin/sh', ['-c', daemon.replace('& echo', '>/dev/null 2>&1 & echo')], {
          ...options,
          cgroup: directory,
        })
      ).exitCode,
      0,
    )
    const child = rootfs.spawn('/bin/sh', ['-c', `${daemon}exec sleep 1000`], {
      ...options,
      cgroup: directory,
    })
    await once(child.stdout!, 'data')
    const end = once(child, 'close')
    child.kill('SIGKILL')
    await end
    const box = await rootfs.prepare({ cgroup: directory })
    const second = box.spawn('/bin/sh', ['-c', `${daemon}exec sleep 1000`], options)
    await once(second.stdout!, 'data')
    t.true(processesMarked(marker).length > 1)
    await box.close()
    t.deepEqual(
      await eventually(
        () => processesMarked(marker),
        (left) => left.length === 0,
        1000,
      ),
      [],
    )
  },
)

testHere('what is no cgroup of version 2 is refused', async (t) => {
  const rootfs = new Rootfs(await image()).defaults()
  const directory = host.scratch('no-cgroup')
  for (const [cgroup, message] of [
    [directory, /no directory of a cgroup2 filesystem/],
    [join(directory, 'missing'), /can't be opened.*ENOENT/],
    ['/etc/passwd', /can't be opened.*ENOTDIR/],
  ] as const) {
    const expected = { instanceOf: RootfsError, code: 'ERR_ROOTFS_SOURCE', message }
    await t.throwsAsync(rootfs.run('/bin/true', [], { cgroup }), expected)
    await t.throwsAsync(rootfs.prepare({ cgroup }), expected)
    const [error] = (await once(rootfs.spawn('/bin/true', [], { cgroup }), 'error')) as [Error]
    t.regex(error.message, message)
  }
  for (const cgroup of [1, {}, '', 'with\0nul']) {
    const code = /^ERR_INVALID_ARG/
    const error = await t.throwsAsync(rootfs.prepare({ cgroup: cgroup as string }))
    t.regex((error as NodeJS.ErrnoException).code!, code)
    t.throws(() => rootfs.spawn('/bin/true', [], { cgroup: cgroup as string }))
  }
})

testCgroup('a cgroup that takes no processes is refused with what to do', async (t, directory) => {
  const rootfs = new Rootfs(await image()).defaults()
  const [threaded, inner] = [join(directory, 'threaded'), join(directory, 'inner')]
  for (const made of [threaded, inner]) mkdirSync(made)
  try {
    // Beside a threaded one, it is an invalid domain.
    writeFileSync(join(threaded, 'cgroup.type'), 'threaded')
    const error = await t.throwsAsync(rootfs.run('/bin/true', [], { cgroup: inner }), {
      instanceOf: RootfsError,
      code: 'ERR_ROOTFS_DENIED',
    })
    t.regex((error as RootfsError).hint ?? '', /cgroup\.procs/)
  } finally {
    for (const made of [threaded, inner]) rmdirSync(made)
  }
})

if (noCgroup === undefined) {
  testNeeding(ORDINARY_NEEDS)(
    'an ordinary user uses a cgroup that is delegated to him, and no other',
    async (t) => {
      const root = await image(ordinary.owner)
      const top = mkdtempSync(join(hierarchy!, 'rootfs-test-'))
      const [own, mine, others] = ['own', 'own/mine', 'others'].map((name) => join(top, name)) as [
        string,
        string,
        string,
      ]
      try {
        chmodSync(top, 0o755)
        for (const directory of [own, mine, others]) mkdirSync(directory)
        for (const directory of [own, mine]) {
          for (const name of [
            '',
            'cgroup.procs',
            'cgroup.subtree_control',
            'cgroup.threads',
            'cgroup.kill',
          ]) {
            chownSync(join(directory, name), ordinary.uid, ordinary.uid)
          }
        }
        // The caller himself has to be in the delegated part.
        const setup = `echo $$ > ${own}/cgroup.procs`
        const job = (cgroup: string): Job => ({
          root,
          calls: [['proc']],
          mode: 'run',
          commands: [{ command: '/bin/cat', args: ['/proc/self/cgroup'], options: { cgroup } }],
        })
        const outcome = await runInCell(ordinary, job(mine), host, { setup })
        t.is(outcome.error, undefined)
        t.regex(outcome.results[0]!.stdout, /^0::\/$/m)
        const refused = await runInCell(ordinary, job(others), host, { setup })
        t.like(refused.error, { code: 'ERR_ROOTFS_DENIED', errnoName: 'EACCES' })
      } finally {
        const empty = () => readFileSync(join(own, 'cgroup.procs'), 'utf8') === ''
        await eventually(empty, (yes) => yes)
        for (const directory of [others, mine, own, top]) rmdirSync(directory)
      }
    },
  )
}
