// Templates: what is shared and what is not, what is pinned, and how one ends. That containers are as they should be in each cell
// is in cells.spec.ts.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type PreparedRootfs, Rootfs, RootfsError } from 'rootfs'
import { cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { containers, descendants, eventually, openFiles, processInfo } from './support/processes.ts'
import { mustRun } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const asRoot = testNeeding(['root', 'busybox'])
/** A tree can only be shared where mounts can be put on mounts that are attached nowhere. */
const sharing = testNeeding(['root', 'busybox'], 'detached')

async function image(options?: { mountpoints: boolean }): Promise<string> {
  const made = join(host.scratch('image'), 'root')
  await busyboxImage(made, options)
  return made
}

/** A directory with one file. */
function directory(content: string): string {
  const made = host.scratch('source')
  writeFileSync(join(made, 'file'), content)
  return made
}

function shared({ steps }: PreparedRootfs): (string | undefined)[] {
  return steps.filter(({ strategy }) => strategy === 'template').map(({ destination }) => destination)
}

async function output(from: Pick<PreparedRootfs, 'run'>, script: string): Promise<string> {
  const { stdout, stderr } = await from.run('/bin/sh', ['-c', script])
  return stdout + stderr
}

/** The keepers of this process's templates. */
const keepers = () => containers().filter(({ command }) => command === 'rootfs-keeper')

sharing('binds are shared where nothing else is on, below or above them', async (t) => {
  const root = await image()
  const source = directory('a')
  await using template = await new Rootfs(root)
    .defaults()
    .bind(source, '/data/one')
    .bind(source, '/data/two', { readonly: true, propagation: 'rslave' })
    // On and below one another.
    .bind(source, '/nested')
    .bind(source, '/nested/inner')
    // On what is each container's own, and the other way round.
    .tmpfs('/run')
    .bind(source, '/run/below')
    .tmpfs('/above/tmpfs')
    .bind(source, '/above')
    .file('/etc/issue', 'each has one')
    .device({ path: '/srv/fifo', type: 'p' })
    .bind(join(source, 'missing'), '/optional', { optional: true })
    .directory('/srv/made')
    .bind(source, '/srv/made/below')
    // Passes events on.
    .bind(source, '/peers', { propagation: 'rshared' })
    .template()
  await using box = await template.prepare()
  t.deepEqual(shared(box), ['/data/one', '/data/two', '/optional'])
  t.deepEqual(template.warnings, box.warnings)
  t.deepEqual(
    box.skipped.map(({ destination }) => destination),
    ['/optional'],
  )
  t.is(
    await output(box, 'cat /data/one/file /run/below/file /etc/issue /srv/made/below/file'),
    'aaeach has onea',
  )
})

sharing('a place that links lead to is where they lead', async (t) => {
  const root = await image()
  await mustRun('ln', ['-s', 'run', join(root, 'link')])
  await mustRun('ln', ['-s', 'data', join(root, 'elsewhere')])
  const source = directory('a')
  await using template = await new Rootfs(root)
    .tmpfs('/run')
    .bind(source, '/link/inner')
    .bind(source, '/elsewhere/there')
    .template()
  await using box = await template.prepare()
  // One is on the tmpfs.
  t.deepEqual(shared(box), ['/elsewhere/there'])
  t.is(box.steps.find(({ strategy }) => strategy === 'template')?.resolved, '/data/there')
  t.is(await output(box, 'cat /run/inner/file /data/there/file'), 'aa')
})

sharing('where a link leads nowhere, or a path goes up, nothing is shared, and all works', async (t) => {
  const source = directory('a')
  const root = await image()
  await mustRun('ln', ['-s', 'nothing', join(root, 'dangling')])
  for (const path of ['/dangling', '/data/../own']) {
    await using template = await new Rootfs(root).bind(source, path).bind(source, '/data').template()
    await using box = await template.prepare()
    t.deepEqual(shared(box), [], path)
    t.is(await output(box, `cat ${path}/file /data/file`), 'aa')
  }
})

sharing('what needs a tree of its own gets one, of what the template holds open', async (t) => {
  const source = directory('a')
  const root = await image()
  const described = () => new Rootfs(root).bind(source, '/data')
  for (const [name, rootfs] of Object.entries({
    hook: described().hook('prestart', () => undefined),
    'recursive read-only root': described().readonly({ recursive: true }),
    'unbindable root': described().propagation('unbindable'),
    'mount on /': described().bind(source, '/'),
    'empty root': Rootfs.empty().bind('/bin/busybox', '/bin/sh').bind(source, '/data'),
    'overlay root': Rootfs.overlay({ lower: [root] }).bind(source, '/data'),
  })) {
    await using template = await rootfs.template()
    const moved = `${source}-moved`
    renameSync(source, moved)
    mkdirSync(source)
    if (name === 'mount on /') {
      const error = await t.throwsAsync(template.run('/bin/sh'), { instanceOf: RootfsError }, name)
      t.is((error as RootfsError).code, 'ERR_ROOTFS_EXEC')
      rmdirSync(source)
      renameSync(moved, source)
      continue
    }
    const box = await template.prepare()
    t.deepEqual(shared(box), [], name)
    t.is(await output(box, 'read line < /data/file; echo "$line"'), 'a\n', name)
    await box.close()
    rmdirSync(source)
    renameSync(moved, source)
  }
})

asRoot('sources are the files that were there when the template was made', async (t) => {
  const root = await image()
  const parent = host.scratch('parent')
  for (const name of ['source', 'deferred']) {
    mkdirSync(join(parent, name))
    writeFileSync(join(parent, name, 'file'), 'old\n')
  }
  const before = new Rootfs(root)
    .tmpfs('/run')
    .bind(join(parent, 'source'), '/data')
    .bind(join(parent, 'deferred'), '/run/there')
    .bind(join(parent, 'late'), '/own', { optional: true })
  await using template = await before.template()
  // Another source, another root, and what was missing.
  for (const name of ['source', 'deferred']) {
    renameSync(join(parent, name), join(parent, `${name}-before`))
    mkdirSync(join(parent, name))
    writeFileSync(join(parent, name, 'file'), 'new\n')
  }
  mkdirSync(join(parent, 'late'))
  renameSync(root, `${root}-before`)
  mkdirSync(root)
  const result = await template.run('/bin/cat', ['/data/file', '/run/there/file'])
  t.is(result.stdout, 'old\nold\n')
  t.deepEqual(
    result.skipped.map(({ destination }) => destination),
    ['/own'],
  )
  await t.throwsAsync(before.run('/bin/cat', ['/data/file']), { code: 'ERR_ROOTFS_EXEC' })
  rmdirSync(root)
  renameSync(`${root}-before`, root)
})

asRoot('a builder can change after its template was made', async (t) => {
  const root = await image()
  const rootfs = new Rootfs(root).hook('poststart', function first() {})
  let ran = 0
  rootfs.hook('poststart', () => {
    ran += 1
  })
  await using template = await rootfs.template()
  rootfs.bind('/nowhere', '/data').hook('poststart', () => t.fail('this is not the template’s'))
  await template.run('/bin/true')
  await using box = await template.prepare()
  t.is(ran, 2)
  t.true(box.steps.every(({ destination }) => destination !== '/data'))
})

/** A container with all capabilities, so that whatever it could do to another it can do. */
const everything = {
  capabilities: ['CAP_SYS_ADMIN', 'CAP_SYS_CHROOT', 'CAP_DAC_OVERRIDE', 'CAP_SYS_PTRACE', 'CAP_MKNOD'],
}

/** Writes a file of its own name into every directory that is a mount, and mounts a tmpfs on a directory of each. */
const mark = (name: string) => `
  while read -r id parent device of place rest; do
    [ -d "$place" ] || continue
    case $place in /sys*|/proc*) continue;; esac
    echo ${name} > "$place/mark-${name}" 2>/dev/null
    mkdir "$place/mount-${name}" 2>/dev/null && mount -t tmpfs none "$place/mount-${name}" 2>/dev/null
  done < /proc/self/mountinfo
  echo ready
  read -r line
`
const look = (name: string) => `
  find / -xdev -name '*-${name}' 2>/dev/null
  while read -r id parent device of place rest; do
    case $place in /sys*|/proc*) continue;; esac
    ls -a "$place" 2>/dev/null | grep -e '-${name}$'
  done < /proc/self/mountinfo
  grep -c mount-${name} /proc/self/mountinfo
  true
`

sharing('two containers exchange nothing through their mounts', async (t) => {
  const root = await image()
  const before = snapshotTree(root)
  const source = directory('a')
  await using template = await new Rootfs(root)
    .defaults()
    .tmpfs('/tmp', { mode: 0o1777 })
    .tmpfs('/run')
    .bind(source, '/data', { readonly: true })
    .file('/etc/note', 'own', { writable: true })
    .file('/etc/issue', 'read-only')
    .readonly()
    .template()
  const box = await template.prepare()
  const live = await template.prepare()
  t.deepEqual(shared(box), ['/data'])
  const child = box.spawn('/bin/sh', ['-c', mark('first')], { ...everything, stdio: 'pipe' })
  await once(child.stdout!, 'data')
  const there = await box.run('/bin/sh', ['-c', look('first')], everything)
  // It did write, and mount: there is something to be seen.
  t.regex(there.stdout, /mark-first/)
  t.regex(there.stdout, /mount-first/)
  for (const other of [live, template]) {
    t.is((await other.run('/bin/sh', ['-c', look('first')], everything)).stdout, '0\n')
  }
  // Whoever has the rights can make a filesystem writable that is mounted for him.
  const change =
    'echo changed > /etc/note; mount -o remount,rw /etc/issue; echo changed > /etc/issue; mount -o remount,ro /etc/issue; cat /etc/issue'
  t.is((await box.run('/bin/sh', ['-c', change], everything)).stdout, 'changed\n')
  for (const other of [live, template]) t.is(await output(other, 'cat /etc/note /etc/issue'), 'ownread-only')
  child.stdin!.end()
  await box.close()
  await live.close()
  await template.close()
  t.deepEqual(snapshotTree(root), before)
})

for (const user of [
  undefined,
  { uids: [{ containerId: 0, hostId: 0, size: 65536 }], gids: [{ containerId: 0, hostId: 0, size: 65536 }] },
]) {
  sharing(
    `mounts that a container has exchanged are an error, ${user ? 'in' : 'without'} a user namespace`,
    async (t) => {
      const root = await image()
      const [one, two] = [directory('one'), directory('two')]
      for (const name of ['x', 'y', 'z']) mkdirSync(join(root, name))
      const rootfs = new Rootfs(root)
      if (user) rootfs.namespaces({ user })
      // The flags are the same, and so are two of the sources.
      rootfs.bind(one, '/x/data').bind(two, '/y/data').bind(one, '/z/data').mask('/y/data/file')
      for (const [first, second] of [
        ['x', 'y'],
        ['x', 'z'],
      ]) {
        await using template = await rootfs.template()
        t.is(await output(template, 'cat /x/data/file /y/data/file /z/data/file'), 'oneone')
        const exchange = `mv /${first} /t; mv /${second} /${first}; mv /t /${second}`
        await template.run('/bin/sh', ['-c', exchange])
        for (const verify of [true, false]) {
          const error = await t.throwsAsync(template.run('/bin/true', [], { verify }), {
            instanceOf: RootfsError,
          })
          t.is((error as RootfsError).code, 'ERR_ROOTFS_VERIFY')
          // With the same source, what is there is recognized by its order.
          t.is((error as RootfsError).destination, second === 'y' ? '/x/data' : '/y/data')
          t.is((error as RootfsError).step?.destination, (error as RootfsError).destination)
          t.regex((error as RootfsError).hint ?? '', /make another template/)
        }
        // Without a template each is mounted where its place is.
        t.is(await output(rootfs, 'cat /x/data/file /y/data/file /z/data/file'), 'oneone')
      }
    },
  )
}

sharing('links of an image that lead nowhere don’t keep binds from being shared', async (t) => {
  const root = await image()
  mkdirSync(join(root, 'dev'), { recursive: true })
  await mustRun('ln', ['-s', '/proc/self/fd', join(root, 'dev/fd')])
  await mustRun('ln', ['-s', '/nowhere', join(root, 'dangling')])
  const source = directory('a')
  await using template = await new Rootfs(root).defaults().bind(source, '/data').template()
  await using box = await template.prepare()
  t.deepEqual(shared(box), ['/data'])
  t.deepEqual(template.warnings, [])
  await using unclear = await new Rootfs(root).bind(source, '/data').bind(source, '/dangling').template()
  t.deepEqual(
    unclear.warnings.map(({ code, step }) => [code, step]),
    [['template-not-shared', 3]],
  )
})

sharing('what is made below a bind from inside the root is removed', async (t) => {
  const root = await image()
  const source = directory('a')
  await using template = await new Rootfs(root)
    .bind(source, '/data')
    .bind({ inRoot: '/data' }, '/own')
    .tmpfs('/own/new')
    .template()
  await template.run('/bin/true')
  t.deepEqual(readdirSync(source), ['file'])
})

sharing('a host whose / is shared sees nothing of it, nor do containers of one another', async (t) => {
  const root = await image()
  const source = directory('a')
  // The driver's own mount namespace has a shared /, and two containers with all rights over their mounts.
  const mounting = 'mount -t tmpfs none /data && mount -t tmpfs none /mnt && echo mounted'
  const outcome = await runInCell(
    cells[0]!,
    {
      root,
      calls: [['defaults'], ['bind', source, '/data'], ['bind', source, '/own', { propagation: 'rslave' }]],
      mode: 'run',
      template: true,
      commands: [
        {
          command: '/bin/sh',
          args: ['-c', mounting.replace('/mnt', '/own')],
          options: { capabilities: ['CAP_SYS_ADMIN'] },
        },
        { command: '/bin/sh', args: ['-c', 'ls /data /own; grep -c tmpfs.none /proc/self/mountinfo'] },
      ],
    },
    host,
    { setup: 'mount --make-rshared /', level: 'detached' },
  )
  t.is(outcome.error, undefined)
  t.is(outcome.results[0]?.stdout, 'mounted\n')
  t.is(outcome.results[1]?.stdout, '/data:\nfile\n\n/own:\nfile\n0\n')
})

sharing('mounts that have moved since the template was made are an error', async (t) => {
  const root = await image()
  await using template = await new Rootfs(root).bind(directory('a'), '/data').template()
  renameSync(join(root, 'data'), join(root, 'moved'))
  mkdirSync(join(root, 'data'))
  const error = await t.throwsAsync(template.run('/bin/true'), { instanceOf: RootfsError })
  t.is((error as RootfsError).code, 'ERR_ROOTFS_VERIFY')
  t.is((error as RootfsError).destination, '/data')
  await t.throwsAsync(template.run('/bin/true', [], { verify: false }), { code: 'ERR_ROOTFS_VERIFY' })
  rmdirSync(join(root, 'data'))
  renameSync(join(root, 'moved'), join(root, 'data'))
})

sharing('so are mounts of one directory that was moved, or of which one was moved', async (t) => {
  const root = await image()
  const source = directory('a')
  const box = ['a', 'b', 'c'].reduce((box, name) => box.bind(source, `/srv/${name}`), new Rootfs(root))
  await using template = await box.template()
  t.is((await template.run('/bin/true')).exitCode, 0)
  const refused = (destination: string) =>
    t.throwsAsync(template.run('/bin/true'), { code: 'ERR_ROOTFS_VERIFY', message: RegExp(destination) })
  renameSync(join(root, 'srv'), join(root, 'moved'))
  symlinkSync('moved', join(root, 'srv'))
  await refused('/srv/a')
  unlinkSync(join(root, 'srv'))
  renameSync(join(root, 'moved'), join(root, 'srv'))
  renameSync(join(root, 'srv/c'), join(root, 'srv/d'))
  symlinkSync('d', join(root, 'srv/c'))
  await refused('/srv/c')
  unlinkSync(join(root, 'srv/c'))
  renameSync(join(root, 'srv/d'), join(root, 'srv/c'))
  t.is((await template.run('/bin/true')).exitCode, 0)
})

asRoot('mountpoints are made once, stay as long as the template, and are removed with it', async (t) => {
  const root = await image({ mountpoints: false })
  const before = snapshotTree(root)
  const template = await new Rootfs(root).defaults().bind(directory('a'), '/data/one').template()
  const made = snapshotTree(root)
  t.notDeepEqual(made, before)
  const box = await template.prepare()
  const { warnings } = await template.run('/bin/true')
  t.deepEqual(warnings, [])
  t.deepEqual(snapshotTree(root), made)
  // A container that lives keeps them.
  await template.close()
  t.deepEqual(
    template.warnings.map(({ code }) => code).filter((code) => code !== 'mountpoint-left'),
    [],
  )
  t.is(await output(box, 'cat /data/one/file'), 'a')
  await box.close()
  await eventually(
    () => existsSync(join(root, 'data')),
    (there) => !there,
  )
  t.deepEqual(snapshotTree(root), before)
})

asRoot('a template whose keeper was killed says so, and its containers live on', async (t) => {
  const root = await image({ mountpoints: false })
  const before = snapshotTree(root)
  const template = await new Rootfs(root).defaults().bind(directory('a'), '/data').template()
  const box = await template.prepare()
  t.is(keepers().length, 1)
  process.kill(keepers()[0]!.pid, 'SIGKILL')
  await eventually(
    () => keepers().length,
    (left) => left === 0,
  )
  const error = await t.throwsAsync(
    eventually(
      () => template.run('/bin/true').then(() => false),
      (refused) => refused,
    ),
    { instanceOf: RootfsError },
  )
  t.is((error as RootfsError).code, 'ERR_ROOTFS_CLOSED')
  t.regex(error!.message, /keeper has ended/)
  const child = template.spawn('/bin/true')
  const [event] = (await once(child, 'error')) as [RootfsError]
  t.is(event.code, 'ERR_ROOTFS_CLOSED')
  t.is(await output(box, 'cat /data/file'), 'a')
  await box.close()
  await template.close()
  await eventually(
    () => existsSync(join(root, 'data')),
    (there) => !there,
  )
  t.deepEqual(snapshotTree(root), before)
})

asRoot('a template ends with the process that has made it', async (t) => {
  const root = await image({ mountpoints: false })
  const before = snapshotTree(root)
  const script = `
    const { Rootfs } = await import('rootfs')
    const template = await new Rootfs(process.argv[1]).defaults().bind('/tmp', '/data').template()
    await template.prepare()
    console.log('ready')
    setInterval(() => {}, 1000)
  `
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script, root], {
    cwd: checkout,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout, 'data')
  t.notDeepEqual(snapshotTree(root), before)
  const running = descendants(child.pid)
  t.true(running.some(({ command }) => command === 'rootfs-keeper'))
  child.kill('SIGKILL')
  await once(child, 'close')
  const living = () => running.filter(({ pid, startTime }) => processInfo(pid)?.startTime === startTime)
  t.deepEqual(await eventually(living, (left) => left.length === 0), [])
  t.deepEqual(snapshotTree(root), before)
})

asRoot('a template that is closed is closed, and leaves nothing', async (t) => {
  const root = await image()
  const files = openFiles()
  const template = await new Rootfs(root)
    .bind(directory('a'), '/data')
    .tmpfs('/run')
    .bind(directory('b'), '/run/b')
    .template()
  await template.run('/bin/true')
  await Promise.all([template.close(), template.close()])
  await template[Symbol.asyncDispose]()
  await t.throwsAsync(template.run('/bin/true'), { code: 'ERR_ROOTFS_CLOSED' })
  await t.throwsAsync(template.prepare(), { code: 'ERR_ROOTFS_CLOSED' })
  t.is(keepers().length, 0)
  const left = await eventually(
    () => openFiles().filter((file) => !files.includes(file)),
    (some) => some.every((file) => !file.startsWith('/')),
  )
  t.deepEqual(
    left.filter((file) => file.startsWith('/')),
    [],
  )
})

asRoot('what can’t be opened is an error of its step, and nothing is left', async (t) => {
  const root = await image({ mountpoints: false })
  const before = snapshotTree(root)
  const good = directory('a')
  for (const [rootfs, code, step] of [
    [new Rootfs(root).bind(good, '/data').bind('/no/such', '/own'), 'ERR_ROOTFS_SOURCE', '/own'],
    [
      new Rootfs(root).bind(good, '/data').tmpfs('/run').bind('/no/such', '/run/x'),
      'ERR_ROOTFS_SOURCE',
      '/run/x',
    ],
    [new Rootfs(root).bind(good, '/bin/busybox'), 'ERR_ROOTFS_MOUNT', '/bin/busybox'],
    [new Rootfs(join(root, 'no-root')).bind(good, '/data'), 'ERR_ROOTFS_ROOT', '/'],
  ] as const) {
    const error = await t.throwsAsync(
      rootfs.template().then(async (template) => {
        // Without a shared tree it is found where it is mounted.
        await using made = template
        await made.run('/bin/true')
      }),
      { instanceOf: RootfsError },
    )
    t.is((error as RootfsError).code, code)
    t.is((error as RootfsError).step?.destination, step)
  }
  t.deepEqual(snapshotTree(root), before)
  t.is(keepers().length, 0)
})

asRoot('its options are those of prepare, but for the cgroup', async (t) => {
  const rootfs = new Rootfs(await image()).bind(directory('a'), '/data')
  await t.throwsAsync(rootfs.template({ cgroup: '/sys/fs/cgroup' } as object), {
    code: 'ERR_INVALID_ARG_VALUE',
  })
  await t.throwsAsync(rootfs.template({ verfy: true } as object), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(rootfs.template({ signal: AbortSignal.abort() }), { name: 'AbortError' })
  await using template = await rootfs.template({ verify: false })
  await t.throwsAsync(template.prepare({ verfy: true } as object), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(template.run('/bin/true', [], { signal: AbortSignal.abort() }), { name: 'AbortError' })
  t.is((await template.run('/bin/cat', ['/data/file'])).stdout, 'a')
})

asRoot('a template is one container’s description for many at once', async (t) => {
  const source = directory('a')
  await using template = await new Rootfs(await image()).defaults().bind(source, '/data').template()
  const results = await Promise.all(
    Array.from({ length: 40 }, () => template.run('/bin/cat', ['/data/file'])),
  )
  t.deepEqual(new Set(results.map(({ stdout }) => stdout)), new Set(['a']))
})

asRoot('hundreds of sources are handed over, and none is mistaken for another', async (t) => {
  const parent = host.scratch('sources')
  const rootfs = new Rootfs(await image()).tmpfs('/run')
  const count = 400
  for (let number = 0; number < count; number++) {
    const source = join(parent, `${number}`)
    mkdirSync(source)
    writeFileSync(join(source, 'file'), `${number} `)
    // Half of them on what is each container's own.
    rootfs.bind(source, number % 2 === 0 ? `/data/${number}` : `/run/${number}`)
  }
  await using template = await rootfs.template()
  const names = Array.from({ length: count }, (_, n) => `/${n % 2 === 0 ? 'data' : 'run'}/${n}/file`)
  const { stdout } = await template.run('/bin/cat', names)
  t.deepEqual(
    stdout.trim().split(' '),
    Array.from({ length: count }, (_, number) => `${number}`),
  )
})

testNeeding(['root', 'busybox', 'unshare', 'setpriv'])(
  'without privileges a file that was replaced is an error',
  async (t) => {
    const cell = cells.find(({ name }) => name === 'unprivileged')!
    const root = join(host.scratch('image'), 'root')
    await busyboxImage(root, { owner: cell.owner })
    const source = host.scratch('source')
    chmodSync(source, 0o777)
    mkdirSync(join(source, 'one'))
    const script = `mv '${source}/one' '${source}/before'; mkdir '${source}/one'`
    const job = {
      root,
      calls: [
        ['bind', join(source, 'one'), '/data'],
        ['hook', 'poststop', { path: '/bin/sh', args: ['sh', '-c', script] }],
      ] as [string, ...unknown[]][],
      mode: 'run' as const,
      template: true,
      commands: [{ command: '/bin/true' }],
    }
    const { error, results } = await runInCell(cell, job, host)
    t.deepEqual(results, [])
    t.is(error?.code, 'ERR_ROOTFS_SOURCE')
    t.regex(error?.message ?? '', /is not the file that the template was made with/)
    t.deepEqual(readdirSync(source).sort(), ['before', 'one'])
    t.true(lstatSync(root).isDirectory())
  },
)
