// Errors: what each says, and that nothing is left after it.
import { chmodSync, copyFileSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Rootfs, RootfsError } from 'rootfs'
import { cells, openDirectory, runInCell } from './support/cells.ts'
import { becomesAgain, guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { containers, eventually } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

const bareImage = (): Promise<string> =>
  busyboxImage(join(host.scratch('bare'), 'image'), { mountpoints: false })

interface Wanted {
  code: string
  [property: string]: unknown
}

/** The supervisor is a child of this process; a container is a child of that. */

/** The call fails as wanted, and the image, the mounts and the processes are as before. */
async function fails(
  t: ExecutionContext,
  image: string,
  wanted: Wanted,
  call: () => Promise<unknown>,
): Promise<RootfsError> {
  const tree = snapshotTree(image)
  const mounts = hostMounts()
  const error = await t.throwsAsync(call)
  if (!(error instanceof RootfsError)) {
    t.log(error)
    t.fail('it is no RootfsError')
    throw error
  }
  t.like(error, wanted)
  t.is(error.name, 'RootfsError')
  t.not(error.message, '')
  t.regex(error.stack ?? '', /errors\.spec/, 'the stack leads to the caller')
  if (error.errnoName !== undefined) t.true((error.errno ?? 0) < 0)
  t.deepEqual(
    await eventually(
      () => containers(),
      (left) => left.length === 0,
      1000,
    ),
    [],
  )
  await becomesAgain(t, image, tree, 1000)
  t.is(hostMounts(), mounts)
  return error
}

/** A test of one failing builder, through `run` and through `prepare`. */
function failing(title: string, wanted: Wanted, build: (image: string) => Rootfs | Promise<Rootfs>) {
  testHere(title, async (t) => {
    const image = await bareImage()
    const rootfs = await build(image)
    await fails(t, image, wanted, () => rootfs.run('/bin/true'))
    await fails(t, image, wanted, () => rootfs.prepare())
  })
}

// ---------------------------------------------------------------- the root

failing(
  'a root that does not exist',
  { code: 'ERR_ROOTFS_ROOT', errnoName: 'ENOENT' },
  (image) => new Rootfs(join(image, 'missing')),
)

// The kernel would follow it where a slash comes after it.
for (const ending of ['', '/', '/.', '//./']) {
  failing(
    `a root that is a symlink, named with '${ending}' at the end`,
    { code: 'ERR_ROOTFS_ROOT' },
    (image) => {
      const link = join(host.scratch('link'), 'root')
      symlinkSync(image, link)
      return new Rootfs(`${link}${ending}`)
    },
  )
}

failing(
  'a root that is a file',
  { code: 'ERR_ROOTFS_ROOT', errnoName: 'ENOTDIR' },
  (image) => new Rootfs(join(image, 'etc', 'passwd')),
)

// ---------------------------------------------------------------- sources and destinations

testHere('a source that does not exist: which step, source and destination', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults().tmpfs('/first').bind('/no/such/source', '/data')
  const wanted = {
    code: 'ERR_ROOTFS_SOURCE',
    errnoName: 'ENOENT',
    source: '/no/such/source',
    destination: '/data',
  }
  const error = await fails(t, image, wanted, () => rootfs.run('/bin/true'))
  t.like(error.step, { type: 'mount', destination: '/data' })
  t.is(rootfs.plan().steps[error.step!.index]?.destination, '/data')
  t.true(error.message.includes('/no/such/source'))
  t.true(error.message.includes('/data'))
  t.true(error.message.includes('ENOENT'))
})

testHere('a source that does not exist but may: it is skipped and listed', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults().bind('/no/such/source', '/data', { optional: true })
  const { exitCode, skipped } = await rootfs.run('/bin/true')
  t.is(exitCode, 0)
  t.like(skipped[0], { type: 'mount', destination: '/data' })
  t.is(skipped.length, 1)
})

failing(
  'a file where a directory is to be mounted',
  { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOTDIR', destination: '/etc/passwd' },
  (image) => new Rootfs(image).defaults().bind(host.scratch('data'), '/etc/passwd'),
)

failing(
  'a directory where a file is to be mounted',
  { code: 'ERR_ROOTFS_MOUNT', errnoName: 'EISDIR', destination: '/etc' },
  (image) => {
    const file = join(host.scratch('data'), 'file')
    writeFileSync(file, '')
    return new Rootfs(image).defaults().bind(file, '/etc')
  },
)

failing(
  'a destination below a file',
  { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOTDIR', destination: '/etc/passwd/below' },
  (image) => new Rootfs(image).defaults().tmpfs('/etc/passwd/below'),
)

failing('a loop of links in a destination', { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ELOOP' }, (image) => {
  symlinkSync('/loop', join(image, 'loop'))
  return new Rootfs(image).defaults().tmpfs('/loop/below')
})

// ---------------------------------------------------------------- filesystems

failing(
  'a filesystem that does not exist',
  { code: 'ERR_ROOTFS_UNSUPPORTED', errnoName: 'ENODEV', destination: '/x' },
  (image) => new Rootfs(image).defaults().mount({ destination: '/x', type: 'nosuchfs', source: 'none' }),
)

testHere('an option that a filesystem does not know: the kernel’s own words', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image)
    .defaults()
    .mount({ destination: '/x', type: 'tmpfs', source: 'tmpfs', options: ['nosuchoption=1'] })
  const wanted = { code: 'ERR_ROOTFS_MOUNT', errnoName: 'EINVAL', destination: '/x' }
  const error = await fails(t, image, wanted, () => rootfs.run('/bin/true'))
  // What mount(2) refuses is only in the kernel's own log.
  if (process.env.ROOTFS_TEST_LEVEL !== 'classic')
    t.true(error.kernelLog?.some((line) => line.includes('nosuchoption')))
})

// ---------------------------------------------------------------- /proc

const procPlaces: Array<[title: string, destination: string]> = [
  ['over /proc', '/proc'],
  ['over /proc in another spelling', '/./x/..//proc/'],
  ['inside /proc', '/proc/self'],
  ['on an attribute of a process', '/proc/self/attr'],
  ['on /proc/sys', '/proc/sys'],
  ['through a link to /proc', '/to-proc/self'],
]

for (const [title, destination] of procPlaces) {
  failing(`a mount ${title}`, { code: 'ERR_ROOTFS_PROC' }, (image) => {
    symlinkSync('/proc', join(image, 'to-proc'))
    mkdirSync(join(image, 'x'))
    return new Rootfs(image).defaults().tmpfs(destination)
  })
  failing(`a bind ${title}`, { code: 'ERR_ROOTFS_PROC' }, (image) => {
    symlinkSync('/proc', join(image, 'to-proc'))
    mkdirSync(join(image, 'x'))
    return new Rootfs(image).defaults().bind(host.scratch('fake'), destination)
  })
}

for (const name of ['proc', 'sys']) {
  failing(`/${name} that is a link`, { code: 'ERR_ROOTFS_PROC', destination: `/${name}` }, (image) => {
    mkdirSync(join(image, 'elsewhere'))
    symlinkSync('/elsewhere', join(image, name))
    const rootfs = new Rootfs(image)
    return name === 'proc' ? rootfs.proc() : rootfs.sysfs()
  })
}

// ---------------------------------------------------------------- the command

testHere('a command that does not exist', async (t) => {
  const image = await bareImage()
  const wanted = { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' }
  const rootfs = new Rootfs(image).defaults()
  const error = await fails(t, image, wanted, () => rootfs.run('/no/such/command'))
  t.true(error.message.includes('/no/such/command'))
  t.is(error.hint, undefined, 'nothing is known')
  const bare = await fails(t, image, wanted, () => rootfs.run('no-such-command'))
  t.true(bare.message.includes('it was not found in PATH='), bare.message)
})

testHere('a command that is in no directory of PATH', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults()
  t.is((await rootfs.run('true')).exitCode, 0)
  const wanted = { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' }
  const found = await fails(t, image, wanted, () => rootfs.run('true', [], { env: { PATH: '/etc:/usr' } }))
  t.true(found.message.includes('it was not found in PATH=/etc:/usr:'), found.message)
  t.regex(found.hint ?? '', /PATH of the option env/)
  const nowhere = await fails(t, image, wanted, () => rootfs.run('true', [], { env: {} }))
  t.true(nowhere.message.includes('its environment has no PATH'), nowhere.message)
  // What is there but can't be executed is told, wherever it is.
  const directory = { code: 'ERR_ROOTFS_EXEC', errnoName: 'EACCES' }
  const refused = await fails(t, image, directory, () =>
    rootfs.run('passwd', [], { env: { PATH: '/bin:/etc:/usr' } }),
  )
  t.true(refused.message.includes('its mode has no x bit'), refused.message)
})

testHere('a command that is not executable: why', async (t) => {
  const image = await bareImage()
  writeFileSync(join(image, 'bin', 'owners'), '#!/bin/sh\n', { mode: 0o744 })
  writeFileSync(join(image, 'bin', 'of-text'), '#!/etc/passwd\n', { mode: 0o755 })
  mkdirSync(join(image, 'closed'), { mode: 0o700 })
  writeFileSync(join(image, 'closed', 'program'), '#!/bin/sh\n', { mode: 0o755 })
  const rootfs = new Rootfs(image)
    .defaults()
    .bind(join(image, 'bin'), '/noexec', { noexec: true })
    .tmpfs('/tmp')
  const box = await rootfs.prepare()
  t.teardown(() => box.close())
  const user = { uid: 1000, gid: 1000 }
  for (const [command, why, options] of [
    ['/etc/passwd', 'its mode has no x bit', {}],
    ['/bin', 'it is a directory', {}],
    ['/dev/null', 'it is no regular file', {}],
    ['/noexec/busybox', 'it is on a mount with noexec', {}],
    ['/bin/owners', "its mode doesn't let this user execute it", { user }],
    ['/closed/program', 'this user may not enter a directory on the way to it', { user }],
    ['/bin/of-text', "its interpreter /etc/passwd can't be executed", {}],
  ] as const) {
    const error = await t.throwsAsync(box.run(command, [], options), { instanceOf: RootfsError })
    t.like(error, { code: 'ERR_ROOTFS_EXEC', errnoName: 'EACCES' })
    t.true(error!.message.includes(why), `${command}: ${error!.message}`)
    t.regex((error as RootfsError).hint ?? '', /chmod \+x/)
  }
})

testHere('a program that is no program', async (t) => {
  const image = await bareImage()
  writeFileSync(join(image, 'bin', 'broken'), 'neither ELF nor script\n', { mode: 0o755 })
  const wanted = { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOEXEC' }
  await fails(t, image, wanted, () => new Rootfs(image).defaults().run('/bin/broken'))
})

testHere('a script whose interpreter is missing', async (t) => {
  const image = await bareImage()
  writeFileSync(join(image, 'bin', 'script'), '#!/no/such/interpreter\n', { mode: 0o755 })
  const wanted = { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' }
  const error = await fails(t, image, wanted, () => new Rootfs(image).defaults().run('/bin/script'))
  t.true(
    error.message.includes('it exists, but its interpreter /no/such/interpreter does not'),
    error.message,
  )
  t.regex(error.hint ?? '', /interpreter or loader into the root/)
  writeFileSync(join(image, 'bin', 'windows'), '#!/bin/sh\r\necho\r\n', { mode: 0o755 })
  const windows = await fails(t, image, wanted, () => new Rootfs(image).defaults().run('windows'))
  t.regex(windows.message, /its interpreter \/bin\/sh(\r|\\r) does not/)
})

testHere('a dynamic program whose loader is missing', async (t) => {
  const image = await bareImage()
  copyFileSync(process.execPath, join(image, 'bin', 'node'))
  writeFileSync(join(image, 'bin', 'indirect'), '#!/bin/node\n', { mode: 0o755 })
  const rootfs = new Rootfs(image).defaults()
  const wanted = { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' }
  for (const command of ['/bin/node', 'node', '/bin/indirect']) {
    const error = await fails(t, image, wanted, () => rootfs.run(command))
    t.regex(error.message, /it exists, but its interpreter \/lib\S*\/ld\S* does not/, command)
    t.regex(error.hint ?? '', /\/lib64/)
  }
  // Whoever may execute it but not read it is told as much as can be known.
  chmodSync(join(image, 'bin', 'node'), 0o711)
  const error = await fails(t, image, wanted, () =>
    rootfs.run('/bin/node', [], { user: { uid: 1000, gid: 1000 } }),
  )
  t.true(error.message.includes('it exists, but its interpreter or loader does not'), error.message)
  // A program with everything in its place does run.
  t.is((await rootfs.run('/bin/true')).exitCode, 0)
})

testHere('a user who is not mapped: which id, and how to map it', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults().namespaces({ user: true })
  const error = await fails(t, image, { code: 'ERR_ROOTFS_EXEC', errnoName: 'EINVAL' }, () =>
    rootfs.run('/bin/true', [], { user: { uid: 1000, gid: 1000 } }),
  )
  t.true(error.message.includes('gid 1000 is not mapped in the user namespace'), error.message)
  t.regex(error.hint ?? '', /only id 0 is mapped.*namespaces\(\{ user: \{ uids, gids \} \}\)/)
})

testHere('a failed command leaves a prepared root usable', async (t) => {
  const box = await new Rootfs(await bareImage()).defaults().prepare()
  t.teardown(() => box.close())
  await t.throwsAsync(box.run('/no/such/command'), { code: 'ERR_ROOTFS_EXEC' })
  t.is((await box.run('/bin/true')).exitCode, 0)
})

// ---------------------------------------------------------------- the working directory

testHere('a working directory', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults().tmpfs('/tmp')
  t.is((await rootfs.run('/bin/pwd')).stdout, '/\n')
  t.is((await rootfs.run('/bin/pwd', [], { cwd: '/etc/frozen' })).stdout, '/etc/frozen\n')
  t.is((await rootfs.run('/bin/pwd', [], { cwd: '/tmp/made/by/us' })).stdout, '/tmp/made/by/us\n')
})

testHere('a working directory that is a file', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults()
  await fails(t, image, { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOTDIR' }, () =>
    rootfs.run('/bin/true', [], { cwd: '/etc/passwd' }),
  )
})

for (const fd of [3, 9, 33, 200]) {
  testHere(`a working directory through an fd that might lead out (${fd})`, async (t) => {
    const image = await bareImage()
    const rootfs = new Rootfs(image).defaults()
    const tree = snapshotTree(image)
    const error = await t.throwsAsync(rootfs.run('/bin/pwd', [], { cwd: `/proc/self/fd/${fd}` }))
    t.true(error instanceof RootfsError)
    t.deepEqual(snapshotTree(image), tree)
  })
}

// ---------------------------------------------------------------- hooks

for (const point of ['prestart', 'createRuntime', 'createContainer', 'startContainer'] as const) {
  testHere(`a ${point} hook that fails undoes everything`, async (t) => {
    const image = await bareImage()
    const args = ['sh', '-c', 'echo to the log; echo to the errors >&2; exit 3']
    const path = '/bin/sh'
    const rootfs = new Rootfs(image).defaults().tmpfs('/made').hook(point, { path, args })
    const error = await fails(t, image, { code: 'ERR_ROOTFS_HOOK' }, () => rootfs.run('/bin/true'))
    t.true(error.message.includes(point))
    t.regex(error.message, /\b3\b/, 'its exit status')
    t.true(error.message.includes('to the errors') || JSON.stringify(error).includes('to the errors'))
  })
}

testHere('a hook over its timeout is killed', async (t) => {
  const image = await bareImage()
  const hook = { path: '/bin/sleep', args: ['sleep', '1000'], timeout: 1 }
  const rootfs = new Rootfs(image).defaults().hook('createRuntime', hook)
  const error = await fails(t, image, { code: 'ERR_ROOTFS_HOOK' }, () => rootfs.run('/bin/true'))
  t.regex(error.message, /time/i)
})

testHere('a hook that does not exist', async (t) => {
  const image = await bareImage()
  const rootfs = new Rootfs(image).defaults().hook('createRuntime', { path: '/no/such/hook' })
  await fails(t, image, { code: 'ERR_ROOTFS_HOOK' }, () => rootfs.run('/bin/true'))
})

// ---------------------------------------------------------------- closed

testHere('a closed root refuses everything but another close', async (t) => {
  const image = await bareImage()
  const tree = snapshotTree(image)
  const box = await new Rootfs(image).defaults().prepare()
  await box.close()
  await t.throwsAsync(box.run('/bin/true'), { instanceOf: RootfsError, code: 'ERR_ROOTFS_CLOSED' })
  await t.throwsAsync(box.mounts(), { instanceOf: RootfsError, code: 'ERR_ROOTFS_CLOSED' })
  await box.close()
  t.deepEqual(snapshotTree(image), tree)
})

// ---------------------------------------------------------------- what the image holds

testHere('names made before the failing step are taken back, names that were there are not', async (t) => {
  const image = await bareImage()
  mkdirSync(join(image, 'kept'))
  writeFileSync(join(image, 'kept', 'file'), 'kept\n')
  linkSync(join(image, 'kept', 'file'), join(image, 'kept', 'second'))
  const rootfs = new Rootfs(image)
    .defaults()
    .tmpfs('/kept/new/deep')
    .bind('/etc/passwd', '/kept/new-file')
    .tmpfs('/other')
    .mount({ destination: '/fails', type: 'nosuchfs', source: 'none' })
  await fails(t, image, { code: 'ERR_ROOTFS_UNSUPPORTED' }, () => rootfs.run('/bin/true'))
})

// ---------------------------------------------------------------- without privileges

const unprivileged = cells.find(({ name }) => name === 'unprivileged')!
const testUnprivileged = testNeeding([...unprivileged.needs, 'busybox'])

async function failsUnprivileged(
  t: ExecutionContext,
  calls: Array<[string, ...unknown[]]>,
  wanted: Wanted,
  setup?: string,
) {
  const image = join(host.scratch('unprivileged'), 'image')
  await busyboxImage(image, { mountpoints: false, owner: unprivileged.owner })
  const tree = snapshotTree(image)
  const job = { root: image, calls, mode: 'run' as const, commands: [{ command: '/bin/true' }] }
  const { error, left } = await runInCell(unprivileged, job, host, setup === undefined ? {} : { setup })
  t.log(error?.message)
  t.like(error, { isRootfsError: true, name: 'RootfsError', ...wanted })
  t.deepEqual(left, [])
  t.deepEqual(snapshotTree(image), tree)
  return error!
}

testUnprivileged('unprivileged: errors are the same', async (t) => {
  await failsUnprivileged(t, [['defaults'], ['bind', '/no/such/source', '/data']], {
    code: 'ERR_ROOTFS_SOURCE',
    errnoName: 'ENOENT',
  })
  await failsUnprivileged(t, [['defaults'], ['tmpfs', '/proc/self']], { code: 'ERR_ROOTFS_PROC' })
})

testUnprivileged('unprivileged: a locked flag cannot be cleared', async (t) => {
  const source = openDirectory(host, 'locked')
  const setup = `mount -t tmpfs -o nodev,nosuid,noexec,mode=755 locked '${source}'`
  const calls: Array<[string, ...unknown[]]> = [
    ['defaults'],
    ['mount', { destination: '/data', source, options: ['rbind', 'dev'] }],
  ]
  await failsUnprivileged(t, calls, { code: 'ERR_ROOTFS_LOCKED', destination: '/data' }, setup)
})

testUnprivileged('unprivileged: ids nobody granted are an error that says what to do', async (t) => {
  const ids = [
    { containerId: 0, hostId: unprivileged.uid, size: 1 },
    { containerId: 1, hostId: 700_000, size: 1000 },
  ]
  const calls: Array<[string, ...unknown[]]> = [
    ['defaults'],
    ['namespaces', { user: { uids: ids, gids: ids } }],
  ]
  const error = await failsUnprivileged(t, calls, { code: 'ERR_ROOTFS_DENIED' })
  t.regex(`${error.hint} ${error.message}`, /subuid|subgid|newuidmap|newgidmap/)
})

testUnprivileged('unprivileged: a resource limit above the own hard limit', async (t) => {
  const image = join(host.scratch('unprivileged'), 'image')
  await busyboxImage(image, { mountpoints: false, owner: unprivileged.owner })
  const rlimits = [{ type: 'RLIMIT_CORE', soft: 0, hard: 2 ** 40 }]
  const job = {
    root: image,
    calls: [['defaults']] as Array<[string, ...unknown[]]>,
    mode: 'run' as const,
    commands: [{ command: '/bin/true', options: { rlimits } }],
  }
  const { error } = await runInCell(unprivileged, job, host, { setup: 'ulimit -H -c 1024' })
  t.like(error, { code: 'ERR_ROOTFS_EXEC', errnoName: 'EPERM' })
  t.regex(error?.message ?? '', /the resource limit RLIMIT_CORE can't be set/)
  t.regex(error?.hint ?? '', /ulimit -H/)
})

testUnprivileged("unprivileged: a mountpoint is missing in somebody else's root", async (t) => {
  const image = join(host.scratch('foreign'), 'image')
  await busyboxImage(image, { mountpoints: false })
  const job = (root: string | { overlay: Record<string, unknown> }) => ({
    root,
    calls: [['defaults']] as Array<[string, ...unknown[]]>,
    mode: 'run' as const,
    commands: [{ command: '/bin/true' }],
  })
  const tree = snapshotTree(image)
  const { error } = await runInCell(unprivileged, job(image), host)
  t.like(error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'EACCES' })
  t.regex(error?.hint ?? '', /Rootfs\.overlay/)
  t.deepEqual(snapshotTree(image), tree)
  // The advice is good.
  const followed = await runInCell(unprivileged, job({ overlay: { lower: [image] } }), host)
  t.is(followed.error, undefined)
})

testHere('a mountpoint is missing in a root that is read-only', async (t) => {
  const image = await bareImage()
  const source = host.scratch('readonly')
  const script = `mount --bind '${image}' '${source}' && mount -o remount,bind,ro '${source}'`
  const cell = cells.find(({ name }) => name === 'root')!
  const job = {
    root: source,
    calls: [['defaults']] as Array<[string, ...unknown[]]>,
    mode: 'run' as const,
    commands: [{ command: '/bin/true' }],
  }
  const { error } = await runInCell(cell, job, host, { setup: script })
  t.like(error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'EROFS' })
  t.regex(error?.hint ?? '', /Rootfs\.overlay/)
})

testUnprivileged('unprivileged: proc without a pid namespace of its own', async (t) => {
  const error = await failsUnprivileged(t, [['namespaces', { pid: false }], ['proc']], {
    code: 'ERR_ROOTFS_DENIED',
    errnoName: 'EPERM',
  })
  t.regex(error.hint ?? '', /leave out pid: false/)
  t.notRegex(error.hint ?? '', /docker|looks like/)
})
