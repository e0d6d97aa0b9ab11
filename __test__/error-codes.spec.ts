// Each error code is provoked for real, and so are the causes that hints are for.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { openInRoot, Rootfs, RootfsError, type RootfsErrorCode } from 'rootfs'
import { type Cell, cells, openDirectory, runInCell } from './support/cells.ts'
import { guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import type { ErrorData } from './support/job.ts'
import { containers, descendants, eventually } from './support/processes.ts'
import { mustRun } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox', 'unshare', 'setpriv', 'python3'])

const cell = (name: string): Cell => cells.find((one) => one.name === name)!
const root = cell('root')
const rootInNamespace = cell('root with its own id in a user namespace')
const unprivileged = cell('unprivileged')

type Call = [method: string, ...args: unknown[]]

/** How a container of a cell fails. */
async function failure(
  where: Cell,
  calls: Call[],
  options: { setup?: string; env?: Record<string, string>; defaults?: boolean } = {},
): Promise<ErrorData> {
  const image = join(host.scratch('image'), 'image')
  await busyboxImage(image, { owner: where.owner })
  const before = snapshotTree(image)
  const all: Call[] = options.defaults === false ? calls : [['defaults'], ...calls]
  const job = { root: image, calls: all, mode: 'run' as const, commands: [{ command: '/bin/true' }] }
  const { error, left } = await runInCell(where, job, host, options)
  if (error === undefined) throw new Error('it does not fail')
  if (left.length > 0) throw new Error(`left: ${left.join(', ')}`)
  const after = await eventually(
    () => snapshotTree(image),
    (now) => now.length === before.length,
    1000,
  )
  if (`${after}` !== `${before}`) throw new Error('the image is changed')
  return error
}

/** The same in this process. */
async function caught(call: () => Promise<unknown>): Promise<RootfsError> {
  try {
    await call()
  } catch (error) {
    if (error instanceof RootfsError) return error
    throw error
  }
  throw new Error('it does not fail')
}

async function builder(): Promise<{ image: string; rootfs: Rootfs }> {
  const image = await busyboxImage(join(host.scratch('image'), 'image'))
  return { image, rootfs: new Rootfs(image).defaults() }
}

/** A file that somebody has leased: to open it without waiting is refused as long as that lasts; fcntl(2), Leases. */
async function leasedFile(t: ExecutionContext): Promise<{ root: string; name: string }> {
  const directory = host.scratch('leased')
  writeFileSync(join(directory, 'file'), '')
  const program = `
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
time.sleep(60)
`
  const holder = spawn('python3', ['-c', program, join(directory, 'file')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => holder.kill('SIGKILL'))
  await once(holder.stdout, 'data')
  return { root: directory, name: 'file' }
}

const provoked: Record<RootfsErrorCode, (t: ExecutionContext) => Promise<RootfsError | ErrorData>> = {
  // Of OCI configs only: wrong calls of the builder are Node's own errors.
  ERR_ROOTFS_SPEC: () => caught(async () => Rootfs.fromSpec({ ociVersion: '1.0.0', root: 1 } as never)),
  ERR_ROOTFS_ROOT: () => caught(() => new Rootfs('/no/such/root').run('/bin/true')),
  ERR_ROOTFS_SOURCE: async () => {
    const { rootfs } = await builder()
    return caught(() => rootfs.bind('/no/such/source', '/data').run('/bin/true'))
  },
  ERR_ROOTFS_ESCAPE: () => caught(() => openInRoot('/', '/proc/self/root/etc/passwd')),
  ERR_ROOTFS_PROC: async () => {
    const { rootfs } = await builder()
    return caught(() => rootfs.tmpfs('/proc/self').run('/bin/true'))
  },
  ERR_ROOTFS_MOUNT: async () => {
    const { rootfs } = await builder()
    return caught(() => rootfs.tmpfs('/etc/passwd').run('/bin/true'))
  },
  ERR_ROOTFS_LOCKED: () => {
    const source = openDirectory(host, 'locked')
    const setup = `mount -t tmpfs -o nodev,nosuid,noexec,mode=755 locked '${source}'`
    const mount = { destination: '/data', source, options: ['rbind', 'dev'] }
    return failure(unprivileged, [['mount', mount]], { setup })
  },
  ERR_ROOTFS_DEVICE: async () => {
    const { rootfs } = await builder()
    const fake = host.scratch('dev')
    writeFileSync(join(fake, 'null'), 'not the null device')
    return caught(() => rootfs.bind(fake, '/dev').run('/bin/true'))
  },
  ERR_ROOTFS_RACE: async (t) => {
    const { root: directory, name } = await leasedFile(t)
    return caught(() => openInRoot(directory, name))
  },
  ERR_ROOTFS_VERIFY: async () => {
    const { image, rootfs } = await builder()
    // A hook in the container's mount namespace takes a flag away behind our back.
    const args = ['mount', '-o', 'remount,bind,suid,nodev', `${image}/scratch`]
    const path = execFileSync('which', ['mount'], { encoding: 'utf8' }).trim()
    mkdirSync(join(image, 'scratch'))
    return caught(() => rootfs.tmpfs('/scratch').hook('createRuntime', enter(path, args)).run('/bin/true'))
  },
  ERR_ROOTFS_HOOK: async () => {
    const { rootfs } = await builder()
    return caught(() => rootfs.hook('createRuntime', { path: '/bin/false' }).run('/bin/true'))
  },
  ERR_ROOTFS_EXEC: async () => caught(async () => (await builder()).rootfs.run('/no/such/command')),
  ERR_ROOTFS_DENIED: () => failure(rootInNamespace, [['namespaces', { ipc: { path: '/proc/1/ns/ipc' } }]]),
  ERR_ROOTFS_UNSUPPORTED: async () => {
    const { rootfs } = await builder()
    return caught(() => rootfs.mount({ destination: '/x', type: 'nosuchfs' }).run('/bin/true'))
  },
  ERR_ROOTFS_SUPERVISOR: () => failure(root, [], { env: { ROOTFS_SUPERVISOR_EXEC: '/bin/true' } }),
  ERR_ROOTFS_CLOSED: async () => {
    const box = await (await builder()).rootfs.prepare()
    await box.close()
    return caught(() => box.run('/bin/true'))
  },
}

/** A hook that runs a command in the container's mount namespace, whose pid its state has. */
function enter(path: string, args: string[]) {
  const script = `pid=$(sed 's/.*"pid":\\([0-9]*\\).*/\\1/'); exec nsenter --mount=/proc/$pid/ns/mnt ${path} ${args.slice(1).join(' ')}`
  return { path: '/bin/sh', args: ['sh', '-c', script], env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'] }
}

for (const [code, provoke] of Object.entries(provoked)) {
  testHere(code, async (t) => {
    const mounts = hostMounts()
    const error = await provoke(t)
    t.log(error.message)
    t.is(error.code, code)
    t.is(hostMounts(), mounts)
    // What a call said is in the message, and in fields of its own.
    if (error.syscall !== undefined) {
      t.true(error.message.includes(`${error.syscall}(`), 'the call, with its arguments')
      t.true(error.message.includes(`(${error.errnoName})`))
    }
    t.deepEqual(
      await eventually(
        () => containers(),
        (left) => left.length === 0,
        1000,
      ),
      [],
    )
  })
}

// ---------------------------------------------------------------- hints

testHere('hint: a namespace of the host, from a user namespace', async (t) => {
  const error = await failure(rootInNamespace, [['namespaces', { ipc: { path: '/proc/1/ns/ipc' } }]])
  // Already its file is out of reach.
  t.like(error, { code: 'ERR_ROOTFS_DENIED', errnoName: 'EACCES', step: { type: 'namespaces' } })
  t.regex(error.message, /^step 0 \(namespaces\): .*open\("\/proc\/1\/ns\/ipc"/)
  t.regex(error.hint!, /whoever may trace it/)
})

testHere('hint: user namespaces that are switched off', async (t) => {
  // The limit is that of a user namespace around the driver.
  const wrapped = [
    '--user',
    '--map-root-user',
    'sh',
    '-ec',
    'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"',
    'sh',
  ]
  const image = await busyboxImage(join(host.scratch('image'), 'image'))
  const program = `
    import { Rootfs } from 'rootfs'
    await new Rootfs(${JSON.stringify(image)}).defaults().namespaces({ user: true }).run('/bin/true').catch((error) => {
      console.log(JSON.stringify({ ...error, message: error.message }))
    })`
  const node = [process.execPath, '--input-type=module', '--eval', program]
  const error = JSON.parse(await mustRun('unshare', [...wrapped, ...node], { cwd: checkout })) as ErrorData
  t.like(error, {
    code: 'ERR_ROOTFS_DENIED',
    syscall: 'clone3',
    errnoName: 'ENOSPC',
    step: { type: 'namespaces' },
  })
  t.regex(error.message, /CLONE_NEWUSER/)
  t.regex(error.hint!, /user\.max_user_namespaces is 0/)
})

testHere('hint: no CAP_SYS_ADMIN, and no user namespace wanted', async (t) => {
  const error = await failure(unprivileged, [['namespaces', { user: false }]])
  t.like(error, { code: 'ERR_ROOTFS_DENIED', syscall: 'clone3', errnoName: 'EPERM' })
  t.regex(error.hint!, /CAP_SYS_ADMIN/)
})

testHere('hint: a /proc that is partly hidden, as in a container', async (t) => {
  const error = await failure(unprivileged, [], { setup: 'mount -t tmpfs -o ro hidden /proc/sys' })
  t.like(error, { code: 'ERR_ROOTFS_DENIED', destination: '/proc', errnoName: 'EPERM' })
  t.regex(error.hint!, /unmasked/)
})

testHere('hint: newuidmap is missing', async (t) => {
  const ids = [
    { containerId: 0, hostId: unprivileged.uid, size: 1 },
    { containerId: 1, hostId: 700_000, size: 1000 },
  ]
  const setup = 'for name in newuidmap newgidmap; do mount --bind /dev/null "$(command -v $name)"; done'
  const error = await failure(unprivileged, [['namespaces', { user: { uids: ids, gids: ids } }]], { setup })
  t.like(error, { code: 'ERR_ROOTFS_DENIED' })
  t.regex(error.message, /newuidmap.*not installed/)
  t.regex(error.hint!, /package uidmap/)
})

testHere('hint: mounts below a source are locked in place', async (t) => {
  const source = openDirectory(host, 'submounts')
  mkdirSync(join(source, 'below'))
  const setup = `mount -t tmpfs below '${source}/below'`
  const error = await failure(unprivileged, [['bind', source, '/data', { recursive: false }]], { setup })
  t.like(error, { code: 'ERR_ROOTFS_MOUNT', syscall: 'open_tree', errnoName: 'EINVAL', destination: '/data' })
  t.regex(error.hint!, /recursively/)
})

testHere('hint: a flag that is locked', async (t) => {
  const error = (await provoked.ERR_ROOTFS_LOCKED(t)) as ErrorData
  t.regex(error.message, /mount_setattr\(.*attr_clr=MOUNT_ATTR_NODEV/)
  t.regex(error.hint!, /without the user namespace/)
})

testHere('hint: more mounts than a mount namespace may have', async (t) => {
  const source = openDirectory(host, 'many')
  // Each turn doubles them: 2^15 in the source, which is bound three times, are more than the default of 100000.
  const setup = `
    mount -t tmpfs many '${source}'
    mkdir '${source}/x'
    mount -t tmpfs x '${source}/x'
    for turn in $(seq 15); do mkdir '${source}/x/'$turn; mount --rbind '${source}/x' '${source}/x/'$turn; done`
  const calls = ['/one', '/two', '/three'].map(
    (destination): Call => ['bind', join(source, 'x'), destination],
  )
  const error = await failure(root, calls, { setup })
  t.like(error, { code: 'ERR_ROOTFS_MOUNT', syscall: 'move_mount', errnoName: 'ENOSPC' })
  t.regex(error.hint!, /fs\.mount-max/)
})

/** Runs a program with the library in it, and gives what it prints. */
async function outcome(
  program: string,
  wrapper: string[] = [],
  env: Record<string, string> = {},
): Promise<ErrorData> {
  const node = [process.execPath, '--input-type=module', '--eval', program]
  const [command, ...args] = [...wrapper, ...node]
  const options = { cwd: checkout, env: { PATH: process.env.PATH ?? '', ...env } }
  return JSON.parse(await mustRun(command!, args, options)) as ErrorData
}

const printing = (image: string, before = ''): string => `
  import { execFileSync } from 'node:child_process'
  import { readdirSync, readFileSync } from 'node:fs'
  import { Rootfs } from 'rootfs'
  const rootfs = new Rootfs(${JSON.stringify(image)}).defaults()
  ${before}
  try {
    await rootfs.run('/bin/true')
    console.log(JSON.stringify({ code: 'none' }))
  } catch (error) {
    console.log(JSON.stringify({ ...error, message: error.message }))
  }
  process.exit()`

testHere('hint: executing memory files is forbidden', async (t) => {
  const { image } = await builder()
  // The sysctl is that of a pid namespace.
  const wrapper = ['unshare', '--pid', '--fork', '--mount-proc', '--mount', '--propagation', 'private']
  const script = ['sh', '-ec', 'echo 2 > /proc/sys/vm/memfd_noexec; exec "$@"', 'sh']
  const error = await outcome(printing(image), [...wrapper, ...script])
  t.like(error, { code: 'ERR_ROOTFS_SUPERVISOR', errnoName: 'EACCES' })
  t.regex(error.hint!, /vm\.memfd_noexec.*ROOTFS_SUPERVISOR_EXEC/)
  const supervisor = join(checkout, 'packages', `linux-${process.arch}-gnu`, 'rootfs-supervisor')
  const fixed = await outcome(printing(image), [...wrapper, ...script], {
    ROOTFS_SUPERVISOR_EXEC: supervisor,
  })
  t.is(fixed.code, 'none', `what the hint says helps: ${fixed.message}`)
})

testHere('hint: no more files can be opened', async (t) => {
  const { image } = await builder()
  const before = `
    await rootfs.run('/bin/true')
    const limit = readdirSync('/proc/self/fd').length - 1
    execFileSync('prlimit', ['--pid', String(process.pid), '--nofile=' + limit + ':4096'])`
  const error = await outcome(printing(image, before))
  t.is(error.errnoName, 'EMFILE', error.message)
  t.truthy(error.syscall)
  t.regex(error.hint!, /RLIMIT_NOFILE/)
})

testHere('hint: no more processes can be made', async (t) => {
  const image = join(host.scratch('image'), 'image')
  const uid = 61_234
  await busyboxImage(image, { owner: { uid } })
  // The supervisor is there after the first, and waits until this test has lowered its limit below what the user has. The first
  // process that it makes ahead is for a command with other rights.
  const before = `
    await rootfs.run('/bin/true', [], { capabilities: [] })
    console.error('ready')
    await new Promise((resolve) => process.stdin.once('data', resolve))`
  const args = [
    '--reuid',
    `${uid}`,
    '--regid',
    `${uid}`,
    '--clear-groups',
    process.execPath,
    '--input-type=module',
    '--eval',
  ]
  const child = spawn('setpriv', [...args, printing(image, before)], { cwd: checkout, stdio: 'pipe' })
  t.teardown(() => child.kill('SIGKILL'))
  let printed = ''
  child.stdout.on('data', (data: Buffer) => (printed += data))
  const closed = once(child, 'close')
  await Promise.race([once(child.stderr, 'data'), closed])
  const supervisors = descendants(child.pid).filter(({ parentPid }) => parentPid === child.pid)
  t.deepEqual(
    supervisors.map(({ command }) => command),
    ['rootfs-super'],
  )
  const lower = ['prlimit', '--pid', `${supervisors[0]?.pid}`, '--nproc=1:1']
  await mustRun('setpriv', [...args.slice(0, 5), ...lower])
  child.stdin.end('go\n')
  await closed
  const error = JSON.parse(printed) as ErrorData
  t.like(error, { code: 'ERR_ROOTFS_DENIED', syscall: 'clone3', errnoName: 'EAGAIN' })
  t.regex(error.hint!, /RLIMIT_NPROC/)
})
