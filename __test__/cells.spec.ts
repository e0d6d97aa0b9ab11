// Every cell of "who does what in which namespace": what a container finds inside is what was asked for.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Cell, cells, openDirectory, runAllInCell, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { type ImageKind, makeImage } from './support/images.ts'
import {
  defaultMasks,
  defaultReadonlyPaths,
  type Found,
  inspectScript,
  parseFound,
} from './support/inspect.ts'
import type { Job, Outcome } from './support/job.ts'
import { isWithin, type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { type Level, levels, type Need, testNeeding } from './support/requirements.ts'
import { type Refused, sinceClassic, withoutClone3 } from './support/without.ts'

const host = guardHost(test)

const images = new Map<string, Promise<string>>()

/** One image for each kind and owner: containers leave it as it was, which every test checks. */
function imageFor(cell: Cell, kind: ImageKind): Promise<string> {
  const key = JSON.stringify([kind, cell.owner])
  const image = images.get(key) ?? makeImage(kind, join(host.scratch(kind), 'image'), cell.owner)
  images.set(key, image)
  return image
}

/** What the host gives a container in these tests. */
interface Given {
  image: string
  /** Bound read-only on /data, with a mount below it. */
  data: string
  /** Bound on /own. */
  work: string
  /** Where hooks write what they see. */
  evidence: string
}

async function give(cell: Cell, kind: ImageKind): Promise<Given> {
  const data = host.scratch('data')
  writeFileSync(join(data, 'hello'), 'hello from the host\n')
  mkdirSync(join(data, 'below'))
  const work = openDirectory(host, 'work')
  mkdirSync(join(work, 'frozen'), { mode: 0o777 })
  return { image: await imageFor(cell, kind), data, work, evidence: openDirectory(host, 'evidence') }
}

/** Made in the driver's private mount namespace: nothing of it is on the host. */
const mountBelowData = (given: Given): string => `
  mount -t tmpfs -o mode=755 below '${given.data}/below'
  echo deep > '${given.data}/below/deep'
`

/** The hooks write down where and as what they run. `tree` is the container's root as the hook gets at it. */
const hookScript = (given: Given, name: string, tree: string): string => `
  state=$(cat)
  printf '%s' "$state" > '${given.evidence}/${name}.state'
  pwd -P > '${given.evidence}/${name}.cwd'
  readlink /proc/self/ns/mnt > '${given.evidence}/${name}.mnt'
  pid=$(printf '%s' "$state" | tr -d ' \\n' | sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
  echo "$pid" > '${given.evidence}/${name}.pid'
  cat ${tree} > '${given.evidence}/${name}.mounts'
`

function hookCalls(given: Given): Job['calls'] {
  const program = (script: string) => ({
    path: '/bin/sh',
    args: ['sh', '-ec', script],
    env: ['PATH=/usr/bin:/bin'],
  })
  return [
    ['hook', 'createRuntime', program(hookScript(given, 'createRuntime', '/proc/$pid/mountinfo'))],
    // Its cwd is the container's root: the tree has to be there, with its own /proc.
    [
      'hook',
      'createContainer',
      program(`test -d proc/self; ${hookScript(given, 'createContainer', '/proc/self/mountinfo')}`),
    ],
  ]
}

const openFiles = 321

const tries: Record<string, string> = {
  'write to /dev/null': 'echo gone > /dev/null && [ -z "$(cat /dev/null)" ]',
  'read zeros': '[ "$(head -c 4 /dev/zero | od -An -tx1 | tr -d " \\n")" = 00000000 ]',
  'read random bytes': '[ "$(head -c 16 /dev/urandom | wc -c)" -eq 16 ]',
  'write to /dev/full': 'echo x > /dev/full',
  'open a terminal': ': <> /dev/ptmx',
  'open a controlling terminal': ': <> /dev/tty',
  'write to the root': 'echo x > /written',
  'make a directory in the root': 'mkdir /made',
  'remove from the root': 'rm /etc/secret-file',
  'write to /data': 'echo x > /data/written',
  'write below /data': 'echo x > /data/below/written',
  'write to /own': 'echo written inside > /own/out',
  'write to the read-only path': 'echo x > /own/frozen/written',
  'write to /proc/sys': 'echo x > /proc/sys/kernel/domainname',
  'write to /proc/sysrq-trigger': ': > /proc/sysrq-trigger',
  'write to /tmp': 'echo x > /tmp/written && cat /tmp/written',
  'write to /dev/shm': 'echo x > /dev/shm/written',
  'make a cgroup':
    'cd /sys/fs/cgroup; for c in . */; do [ ! -e $c/cgroup.procs ] || ! mkdir $c/made || exit 0; done; exit 1',
  'write in a masked directory': 'echo x > /etc/secret-directory/written',
  'unmount a mask': 'umount /etc/secret-file',
  'unmount a masked directory': 'umount /etc/secret-directory',
  'remount the root writable': 'mount -o remount,rw /',
  'mount something': 'mount -t tmpfs none /tmp',
  'change the hostname': 'hostname other',
}

const allowed = new Set([
  'write to /dev/null',
  'read zeros',
  'read random bytes',
  'open a terminal',
  'write to /own',
  'write to /tmp',
  'write to /dev/shm',
])

const ownMasks = ['/etc/secret-file', '/etc/secret-directory']

function describe(given: Given): Job {
  const script = inspectScript({
    masked: [...defaultMasks, ...ownMasks],
    tries,
    read: ['/data/hello', '/data/below/deep', '/etc/frozen/file'],
  })
  const options = {
    env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', MARK: 'asked for' },
    rlimits: [{ type: 'RLIMIT_NOFILE', soft: openFiles, hard: openFiles }],
  }
  return {
    root: given.image,
    calls: [
      ['defaults'],
      ['tmpfs', '/tmp', { mode: 0o1777, size: '8m' }],
      ['bind', given.data, '/data', { readonly: true }],
      ['bind', given.work, '/own'],
      ['mask', [...ownMasks, '/no/such/path']],
      ['readonlyPaths', ['/own/frozen', '/etc/frozen']],
      ['readonly'],
      ['hostname', 'testbox'],
    ],
    mode: 'run',
    commands: [{ command: '/bin/sh', args: ['-c', script], options }],
  }
}

function foundBy(t: ExecutionContext, outcome: Outcome): Found {
  if (outcome.error !== undefined) t.log(outcome.error)
  t.is(outcome.error, undefined)
  const [result] = outcome.results
  t.truthy(result)
  t.is(result!.stderr, '')
  t.is(result!.exitCode, 0)
  t.deepEqual(outcome.left, [])
  return parseFound(result!.stdout)
}

// ---------------------------------------------------------------- what was found against what was asked for

function only(t: ExecutionContext, mounts: MountLine[], destination: string): MountLine {
  const there = mounts.filter((mount) => mount.destination === destination)
  t.is(there.length, 1, `mounts on ${destination}`)
  return there[0]!
}

function checkMount(
  t: ExecutionContext,
  mounts: MountLine[],
  destination: string,
  type: string,
  flags: string[],
) {
  const mount = only(t, mounts, destination)
  t.is(mount.type, type, `type of ${destination}`)
  for (const flag of flags)
    t.true(mount.options.includes(flag), `${destination} is ${flag}: ${mount.options}`)
}

function checkMounts(t: ExecutionContext, found: Found): void {
  const { mounts } = found
  const kept = ['nosuid', 'nodev', 'noexec']
  t.true(only(t, mounts, '/').options.includes('ro'))
  checkMount(t, mounts, '/proc', 'proc', ['rw'])
  checkMount(t, mounts, '/dev', 'tmpfs', ['rw', 'nosuid'])
  checkMount(t, mounts, '/dev/pts', 'devpts', ['rw', 'nosuid', 'noexec'])
  checkMount(t, mounts, '/dev/shm', 'tmpfs', ['rw', ...kept])
  checkMount(t, mounts, '/dev/mqueue', 'mqueue', ['rw', ...kept])
  checkMount(t, mounts, '/sys', 'sysfs', ['ro', ...kept])
  checkMount(t, mounts, '/tmp', 'tmpfs', ['rw', 'nosuid', 'nodev'])
  t.true(only(t, mounts, '/tmp').superOptions.includes('size=8192k'))
  t.true(only(t, mounts, '/data').options.includes('ro'))
  t.true(only(t, mounts, '/data').options.includes('nodev'))
  t.true(only(t, mounts, '/data').options.includes('nosuid'))
  checkMount(t, mounts, '/data/below', 'tmpfs', ['ro'])
  t.true(only(t, mounts, '/own').options.includes('rw'))
  t.true(only(t, mounts, '/own/frozen').options.includes('ro'))
  t.true(only(t, mounts, '/etc/frozen').options.includes('ro'))

  // The tmpfs that holds a v1 host's controllers stays writable, as the runtimes have it; the controllers do not.
  const cgroups = mounts.filter(
    ({ destination, type }) => isWithin('/sys/fs/cgroup', destination) && type !== 'tmpfs',
  )
  t.true(cgroups.length > 0, 'there is something on /sys/fs/cgroup')
  for (const mount of cgroups) t.true(mount.options.includes('ro'), `${mount.destination} is ro`)

  for (const path of defaultReadonlyPaths) {
    const covering = mounts.filter((mount) => mount.destination === path)
    t.true(covering.length <= 1, path)
    for (const mount of covering) t.true(mount.options.includes('ro'), path)
  }

  const asked = ['/', '/proc', '/dev', '/dev/pts', '/dev/shm', '/dev/mqueue', '/tmp', '/data', '/data/below']
  asked.push('/own', '/own/frozen', '/etc/frozen', ...ownMasks, ...defaultMasks, ...defaultReadonlyPaths)
  const strange = mounts.filter(
    ({ destination }) =>
      !asked.includes(destination) &&
      !isWithin('/sys', destination) &&
      // In a user namespace a device is a bind of its own.
      !/^\/dev\/(null|zero|full|random|urandom|tty)$/.test(destination),
  )
  t.deepEqual(strange, [], 'nothing is mounted that was not asked for')
  t.deepEqual(
    mounts.filter((mount) => mount.propagation.some((word) => word.startsWith('shared:'))),
    [],
    'nothing is shared with the host',
  )
}

function checkDevices(t: ExecutionContext, found: Found, cell: Cell): void {
  const numbers = { null: '1:3', zero: '1:5', full: '1:7', random: '1:8', urandom: '1:9', tty: '5:0' }
  for (const [name, rdev] of Object.entries(numbers)) {
    const device = found.devices[name]
    t.is(device?.type, 'character special file', name)
    t.is(device?.rdev, rdev, name)
    t.is(device?.mode, '666', name)
    // An ordinary user can only bind the host's node, whose owner has no id inside.
    if (cell.uid === 0) t.is(device?.owner, '0:0', name)
  }
  t.is(found.deviceLinks.fd, '/proc/self/fd')
  t.is(found.deviceLinks.stdin, '/proc/self/fd/0')
  t.is(found.deviceLinks.stdout, '/proc/self/fd/1')
  t.is(found.deviceLinks.stderr, '/proc/self/fd/2')
  t.is(found.deviceLinks.ptmx, 'pts/ptmx')
  t.is(found.deviceLinks.core, existsSync('/proc/kcore') ? '/proc/kcore' : undefined)
}

/** AUDIT_WRITE, KILL and NET_BIND_SERVICE: the OCI default set. */
const defaultCapabilities = ((1n << 29n) | (1n << 5n) | (1n << 10n)).toString(16).padStart(16, '0')
const none = '0'.repeat(16)

function checkProcess(t: ExecutionContext, found: Found, cell: Cell): void {
  t.is(found.pid, 1)
  t.deepEqual(found.processes, [1])
  t.deepEqual(found.fds, [0, 1, 2])
  t.deepEqual(found.stat, { parentPid: 0, processGroup: 1, session: 1, terminal: 0 })
  t.is(found.ids, '0 0 0')
  t.deepEqual(found.uidMap, cell.map ?? hostMap('uid_map'))
  t.deepEqual(found.gidMap, cell.map ?? hostMap('gid_map'))
  t.is(found.status.CapInh, none)
  t.is(found.status.CapAmb, none)
  t.is(found.status.CapBnd, defaultCapabilities)
  t.is(found.status.CapPrm, defaultCapabilities)
  t.is(found.status.CapEff, defaultCapabilities)
  t.is(found.status.NoNewPrivs, '1')
  t.is(found.status.Umask, '0022')
  t.is(found.status.SigBlk, none)
  t.is(BigInt(`0x${found.status.SigIgn}`) & ~SIGQUIT, 0n)
  t.is(found.status.TracerPid, '0')
  t.deepEqual(found.limits, { openFilesSoft: `${openFiles}`, openFilesHard: `${openFiles}` })
  t.deepEqual(found.environment, ['MARK=asked for', 'PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin'])
  t.is(found.hostname, 'testbox')
  for (const line of found.cgroups)
    t.regex(line, /:\/$/, 'the own cgroup is the root of the cgroup namespace')
}

/** busybox's shell ignores it by itself. */
const SIGQUIT = 1n << 2n

function hostMap(name: string): string[] {
  return readFileSync(`/proc/self/${name}`, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.trim().split(/\s+/).join(' '))
}

function checkNamespaces(t: ExecutionContext, found: Found, cell: Cell): void {
  for (const name of ['mnt', 'pid', 'ipc', 'uts', 'cgroup']) {
    t.not(found.namespaces[name], readlinkSync(`/proc/self/ns/${name}`), name)
  }
  t.is(
    found.namespaces.net,
    readlinkSync('/proc/self/ns/net'),
    'the network is the host’s unless asked otherwise',
  )
  const hostUser = readlinkSync('/proc/self/ns/user')
  if (cell.map === undefined) t.is(found.namespaces.user, hostUser)
  else t.not(found.namespaces.user, hostUser)
}

function checkProtection(t: ExecutionContext, found: Found): void {
  for (const path of defaultMasks) {
    const there = found.masked[path]
    // The same kernel: what the host has in /proc, a fresh one has too.
    if (existsSync(path) && path.startsWith('/proc/')) t.not(there, 'absent', path)
    t.true(['absent', 'file 0', 'directory 0'].includes(there ?? ''), `${path}: ${there}`)
  }
  t.is(found.masked['/etc/secret-file'], 'file 0')
  t.is(found.masked['/etc/secret-directory'], 'directory 0')
  t.deepEqual(found.tries, Object.fromEntries(Object.keys(tries).map((name) => [name, allowed.has(name)])))
  t.deepEqual(found.files, {
    '/data/hello': 'hello from the host',
    '/data/below/deep': 'deep',
    '/etc/frozen/file': 'as delivered',
  })
}

function checkWork(t: ExecutionContext, given: Given, cell: Cell): void {
  t.is(readFileSync(join(given.work, 'out'), 'utf8'), 'written inside\n')
  t.is(statSync(join(given.work, 'out')).uid, cell.writesAs)
  t.deepEqual(readdirSync(given.data).sort(), ['below', 'hello'])
  t.deepEqual(readdirSync(join(given.work, 'frozen')), [])
}

function checkHooks(t: ExecutionContext, given: Given): void {
  const evidence = (name: string): string => readFileSync(join(given.evidence, name), 'utf8').trim()
  const states = ['createRuntime', 'createContainer'].map((name) => JSON.parse(evidence(`${name}.state`)))
  for (const state of states) {
    t.is(typeof state.ociVersion, 'string')
    t.is(typeof state.id, 'string')
    t.is(typeof state.bundle, 'string')
    t.is(state.status, 'creating')
    t.true(Number.isInteger(state.pid) && state.pid > 1)
  }
  t.is(states[0].pid, states[1].pid)
  t.not(evidence('createRuntime.mnt'), evidence('createContainer.mnt'))
  t.is(evidence('createContainer.cwd'), given.image)
  for (const name of ['createRuntime', 'createContainer']) {
    const below = parseMountinfo(evidence(`${name}.mounts`)).filter((mount) =>
      isWithin(given.image, mount.destination),
    )
    const destinations = below.map((mount) => mount.destination.slice(given.image.length) || '/')
    for (const wanted of ['/', '/proc', '/dev', '/dev/pts', '/sys', '/tmp', '/data', '/data/below', '/own']) {
      t.true(destinations.includes(wanted), `${name} sees the container's ${wanted}`)
    }
  }
}

/** Runs the inspection in a cell and checks all of it, and that the image and the host are as before. */
async function checkCell(
  t: ExecutionContext,
  cell: Cell,
  kind: ImageKind,
  how: { level: Level } | { without: Refused },
  hooks: boolean,
  template = false,
) {
  const given = await give(cell, kind)
  const before = snapshotTree(given.image, { content: kind === 'busybox' })
  const job = { ...describe(given), template }
  if (hooks) job.calls.push(...hookCalls(given))
  const outcome = await runInCell(cell, job, host, { ...how, setup: mountBelowData(given) })
  const found = foundBy(t, outcome)
  checkMounts(t, found)
  checkDevices(t, found, cell)
  checkProcess(t, found, cell)
  checkNamespaces(t, found, cell)
  checkProtection(t, found)
  checkWork(t, given, cell)
  if (hooks) checkHooks(t, given)
  t.deepEqual(snapshotTree(given.image, { content: kind === 'busybox' }), before, 'the image is as it was')
}

const needsOf = (kind: ImageKind): Need[] =>
  kind === 'debian' ? ['debootstrap', 'flock', 'unshare'] : ['busybox']

for (const level of levels) {
  for (const cell of cells) {
    for (const kind of ['busybox', 'debian'] as const) {
      for (const hooks of [false, true]) {
        const title = `${cell.name}, ${kind}, ${hooks ? 'with hooks' : 'no hooks'}, ${level}: finds what was asked for`
        testNeeding([...cell.needs, ...needsOf(kind)], level)(title, (t) =>
          checkCell(t, cell, kind, { level }, hooks),
        )
      }
    }
  }
}

// ---------------------------------------------------------------- templates

for (const level of levels) {
  for (const cell of cells) {
    for (const hooks of [false, true]) {
      const title = `${cell.name}, ${hooks ? 'with hooks' : 'no hooks'}, ${level}: a template's second container finds what was asked for`
      testNeeding([...cell.needs, 'busybox'], level)(title, (t) =>
        checkCell(t, cell, 'busybox', { level }, hooks, true),
      )
    }

    testNeeding([...cell.needs, 'busybox'], level)(
      `${cell.name}, ${level}: what the containers of a template share`,
      async (t) => {
        const given = await give(cell, 'busybox')
        const job: Job = { ...describe(given), mode: 'prepare', commands: [] }
        const jobs = [job, { ...job, template: true }]
        const setup = mountBelowData(given)
        const [plain, made] = await runAllInCell(cell, jobs, host, { level, setup })
        t.is(plain?.error, undefined)
        t.is(made?.error, undefined)
        const ofTemplate = (outcome?: Outcome) =>
          outcome?.steps?.filter(({ strategy }) => strategy === 'template').map((step) => step.destination)
        t.deepEqual(ofTemplate(plain), [])
        // Who has the rights can copy a tree that is attached nowhere.
        t.deepEqual(ofTemplate(made), cell.uid === 0 && level === 'detached' ? ['/data', '/own'] : [])
        t.deepEqual(made?.warnings, plain?.warnings)
        const facts = (outcome?: Outcome) =>
          outcome?.mounts?.map(({ id, parentId, ...mount }) => JSON.stringify(mount)).sort()
        t.deepEqual(facts(made), facts(plain), 'the mount tables are the same')
      },
    )
  }
}

// ---------------------------------------------------------------- the levels

// Without this, a level that nobody reads would pass everything above.
for (const level of levels) {
  for (const cell of cells) {
    const title = `${cell.name}: the steps say that level ${level} was used`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const image = await imageFor(cell, 'busybox')
      const job: Job = { root: image, calls: [['defaults']], mode: 'prepare', commands: [] }
      const { error, steps = [] } = await runInCell(cell, job, host, { level })
      t.is(error, undefined)
      const root = steps.find(({ type }) => type === 'root')
      // Mounts that a process with more rights has made can only be attached one by one, whatever was asked for.
      const hostMade = cell.uid === 0 && cell.map !== undefined && level !== 'classic'
      t.is(root?.strategy, hostMade ? 'attached' : level)
    })
  }
}

// Where the calls of newer kernels are missing, or refused, the level is found by itself. A C library whose clone3 is
// refused can make no thread, so there the filters of container runtimes say that it is missing, or let it pass.
for (const without of [
  { errno: 'ENOSYS', calls: sinceClassic },
  { errno: 'EPERM', calls: withoutClone3 },
] as const) {
  for (const cell of cells) {
    for (const hooks of [false, true]) {
      const title = `${cell.name}, ${hooks ? 'with hooks' : 'no hooks'}, newer calls answer ${without.errno}: finds what was asked for`
      testNeeding([...cell.needs, 'busybox'])(title, (t) => checkCell(t, cell, 'busybox', { without }, hooks))
    }

    testNeeding([...cell.needs, 'busybox'])(
      `${cell.name}: where newer calls answer ${without.errno}, the steps say that level classic was used`,
      async (t) => {
        const image = await imageFor(cell, 'busybox')
        const job: Job = { root: image, calls: [['defaults']], mode: 'prepare', commands: [] }
        const { error, steps = [] } = await runInCell(cell, job, host, { without })
        t.is(error, undefined)
        t.is(steps.find(({ type }) => type === 'root')?.strategy, 'classic')
      },
    )
  }
}

// ---------------------------------------------------------------- the other ways to run, in each cell

for (const cell of cells) {
  const testHere = testNeeding([...cell.needs, 'busybox'])

  testHere(`${cell.name}: spawn gives what run gives`, async (t) => {
    const given = await give(cell, 'busybox')
    const outcome = await runInCell(cell, { ...describe(given), mode: 'spawn' }, host, {
      setup: mountBelowData(given),
    })
    const found = foundBy(t, outcome)
    checkMounts(t, found)
    checkProcess(t, found, cell)
    checkProtection(t, found)
  })

  testHere(`${cell.name}: commands of a prepared root run beside its first process`, async (t) => {
    const given = await give(cell, 'busybox')
    const job: Job = { ...describe(given), mode: 'prepare' }
    const outcome = await runInCell(cell, job, host, { setup: mountBelowData(given) })
    const found = foundBy(t, outcome)
    checkMounts(t, found)
    checkDevices(t, found, cell)
    checkNamespaces(t, found, cell)
    checkProtection(t, found)
    t.not(found.pid, 1)
    t.deepEqual(found.processes, [1, found.pid])
    t.deepEqual(found.fds, [0, 1, 2])
    t.is(found.stat.session, found.pid)
    t.is(found.status.CapInh, none)
    t.is(found.status.CapBnd, defaultCapabilities)
    t.is(found.status.NoNewPrivs, '1')
    t.deepEqual(
      outcome.mounts?.map((mount) => [mount.destination, mount.type]),
      found.mounts.map((mount) => [mount.destination, mount.type]),
      'mounts() is the table that the commands see',
    )
    const steps = outcome.steps ?? []
    t.true(steps.length > 0)
    for (const step of steps) t.is(typeof step.durationUs, 'number', step.type)
  })

  testHere(`${cell.name}: a network namespace of its own has only a loopback, and it is up`, async (t) => {
    const given = await give(cell, 'busybox')
    const script = 'readlink /proc/self/ns/net; ls /sys/class/net; cat /sys/class/net/lo/flags'
    const job: Job = {
      root: given.image,
      calls: [['defaults'], ['namespaces', { network: true }]],
      mode: 'run',
      commands: [{ command: '/bin/sh', args: ['-c', script] }],
    }
    const outcome = await runInCell(cell, job, host)
    t.is(outcome.error, undefined)
    const [namespace, ...rest] = outcome.results[0]!.stdout.trim().split('\n')
    t.not(namespace, readlinkSync('/proc/self/ns/net'))
    t.is(rest[0], 'lo')
    // IFF_UP and IFF_LOOPBACK.
    t.is(Number(rest[1]) & 0x9, 0x9)
  })
}

for (const cell of cells.filter(
  ({ map }) => map === undefined || map.some((line) => Number(line.split(' ')[2]) > 1000),
)) {
  testNeeding([...cell.needs, 'busybox'])(
    `${cell.name}: a command can be another user, without capabilities`,
    async (t) => {
      const given = await give(cell, 'busybox')
      const user = { uid: 1000, gid: 1000, additionalGids: [1001, 1002], umask: 0o27 }
      const job: Job = {
        root: given.image,
        calls: [['defaults']],
        mode: 'run',
        commands: [{ command: '/bin/sh', args: ['-c', 'cat /proc/self/status'], options: { user } }],
      }
      const outcome = await runInCell(cell, job, host)
      t.is(outcome.error, undefined)
      const status = new Map(
        outcome.results[0]!.stdout.split('\n').map((line) => line.split(/:\s+/, 2) as [string, string]),
      )
      t.is(status.get('Uid'), '1000\t1000\t1000\t1000')
      t.is(status.get('Gid'), '1000\t1000\t1000\t1000')
      t.deepEqual(status.get('Groups')?.trim().split(' '), ['1001', '1002'])
      t.is(status.get('Umask'), '0027')
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) t.is(status.get(set), none, set)
      t.is(status.get('NoNewPrivs'), '1')
    },
  )
}
