// A real system: a debootstrapped Debian in the config that `runc spec` writes, with the mounts that an engine adds to it. Its own
// programs run, and a script writes where it may and fails where it may not.
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Cell, cells, openDirectory, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { makeImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { findProgram, mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

interface Mount {
  destination: string
  type?: string
  source: string
  options: string[]
}

interface Config {
  process: { terminal: boolean; args: string[] }
  mounts: Mount[]
  linux: { namespaces: Array<{ type: string }>; uidMappings?: unknown; gidMappings?: unknown }
}

interface IdMap {
  containerId: number
  hostId: number
  size: number
}

/** What an engine binds into /etc. */
const files: Record<string, string> = {
  hosts: '127.0.0.1 localhost runc\n',
  hostname: 'runc\n',
  'resolv.conf': 'nameserver 192.0.2.1\n',
}

/** The mounts that an engine adds: files of /etc, a volume to write to, one to read, and memory. */
function addMounts(config: Config, bundle: string, volume: string): void {
  const bind = (source: string, destination: string, ...options: string[]): Mount => ({
    destination,
    source,
    options: ['rbind', 'rprivate', ...options],
  })
  const tmpfs = (destination: string, ...options: string[]): Mount => ({
    destination,
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'nodev', ...options],
  })
  config.mounts.push(
    ...Object.keys(files).map((name) => bind(join('etc', name), `/etc/${name}`, 'ro')),
    bind(volume, '/srv/data', 'nosuid', 'nodev'),
    bind(join(bundle, 'settings'), '/srv/settings', 'ro', 'noexec'),
    tmpfs('/tmp', 'mode=1777', 'size=16m'),
    tmpfs('/run', 'noexec', 'mode=755', 'size=16m'),
    tmpfs('/var/tmp', 'mode=1777'),
  )
}

const oci = (maps: IdMap[]): unknown =>
  maps.map(({ containerId, hostId, size }) => ({ containerID: containerId, hostID: hostId, size }))

interface Bundle {
  directory: string
  volume: string
}

async function makeBundle(cell: Cell): Promise<Bundle> {
  const directory = openDirectory(host, 'debian')
  const volume = openDirectory(host, 'volume')
  await makeImage('debian', join(directory, 'rootfs'), cell.owner)
  for (const name of ['etc', 'settings']) mkdirSync(join(directory, name))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, 'etc', name), content)
  writeFileSync(join(directory, 'settings', 'setting'), 'as given\n')
  const spec = [findProgram('runc')!, 'spec', '--bundle', directory]
  const { uid } = cell
  const asUser = [
    'setpriv',
    '--reuid',
    `${uid}`,
    '--regid',
    `${uid}`,
    '--clear-groups',
    ...spec,
    '--rootless',
  ]
  const [program, ...args] = uid === 0 ? spec : asUser
  await mustRun(program!, args)
  const path = join(directory, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Config
  config.process.terminal = false
  addMounts(config, directory, volume)
  const user = cell.namespaces.user as { uids: IdMap[]; gids: IdMap[] } | undefined
  if (user !== undefined) {
    if (uid === 0) config.linux.namespaces.push({ type: 'user' })
    config.linux.uidMappings = oci(user.uids)
    config.linux.gidMappings = oci(user.gids)
  }
  rmSync(path)
  writeFileSync(path, JSON.stringify(config))
  return { directory, volume }
}

const may: Record<string, string> = {
  'write to /tmp': 'echo x > /tmp/file && [ "$(cat /tmp/file)" = x ]',
  'execute in /tmp': 'cp /bin/true /tmp/true && /tmp/true',
  'make links, pipes and archives in /var/tmp':
    'cd /var/tmp && ln -s x link && mkfifo pipe && tar -cf all.tar /etc/passwd 2>/dev/null && tar -tf all.tar',
  'write to /run': 'mkdir /run/lock && flock /run/lock/one true',
  'write to /dev/shm': 'echo x > /dev/shm/file',
  'write to /dev/null': 'echo x > /dev/null',
  'open a terminal': ': <> /dev/ptmx',
  'write to the volume': 'echo from the inside > /srv/data/written',
  'execute in the volume': 'cp /bin/true /srv/data/true && /srv/data/true && rm /srv/data/true',
  'read the settings': '[ "$(cat /srv/settings/setting)" = "as given" ]',
  'read /etc/hosts': 'getent hosts localhost && grep -q runc /etc/hosts',
  'list packages': 'dpkg --list bash coreutils && apt-config dump',
  'read its own status': 'grep -q Uid /proc/self/status',
}

const mayNot: Record<string, string> = {
  'write to /': 'echo x > /file',
  'write to /etc': 'echo x >> /etc/passwd',
  'remove from /usr': 'rm /usr/bin/env',
  'make a directory in /var/lib': 'mkdir /var/lib/made',
  'install a package': 'dpkg --remove --force-all hostname',
  'write to /etc/hosts': 'echo x >> /etc/hosts',
  'replace /etc/resolv.conf': 'rm -f /etc/resolv.conf; mv /tmp/file /etc/resolv.conf',
  'write to the settings': 'echo x > /srv/settings/setting',
  'execute in /run': 'cp /bin/true /run/true && /run/true',
  'execute in /dev/shm': 'cp /bin/true /dev/shm/true && /dev/shm/true',
  'fill /tmp': 'head -c 20000000 /dev/zero > /tmp/full',
  'write to /proc/sys': 'echo x > /proc/sys/kernel/domainname',
  'write to /proc/sysrq-trigger': ': >> /proc/sysrq-trigger',
  'write to /sys': ': >> "$(find /sys/kernel -maxdepth 2 -type f -perm -200 | head -n 1)"',
  'make a cgroup':
    'for c in /sys/fs/cgroup /sys/fs/cgroup/*; do [ ! -e $c/cgroup.procs ] || ! mkdir $c/made || exit 0; done; exit 1',
  'read a masked file': 'cat /proc/kcore /proc/keys /proc/timer_list | grep -q .',
  'list a masked directory': 'ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | grep .',
  'make a device': 'mknod /dev/made c 1 3',
  mount: 'mount -t tmpfs none /tmp',
  'make the root writable': 'mount -o remount,rw /',
  'uncover a masked file': 'umount /proc/kcore',
  'change the hostname': 'hostname other',
  'see processes of the host': '[ "$(ls -d /proc/[0-9]* | wc -l)" -gt 10 ]',
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
const script = `
try() { if ( eval "$2" ) </dev/null >/dev/null 2>&1; then echo "$1|yes"; else echo "$1|no"; fi; }
${Object.entries({ ...may, ...mayNot })
  .map(([name, command]) => `try ${quote(name)} ${quote(command)}`)
  .join('\n')}
`

function checkDevices(t: ExecutionContext, listing: string, cell: Cell): void {
  // An ordinary user can only bind the host's nodes, whose owner has no id inside.
  const owner = cell.uid === 0 ? 'root +root' : '\\S+ +\\S+'
  const numbers = {
    null: '1, +3',
    zero: '1, +5',
    full: '1, +7',
    random: '1, +8',
    urandom: '1, +9',
    tty: '5, +0',
  }
  for (const [name, rdev] of Object.entries(numbers))
    t.regex(listing, new RegExp(`^crw-rw-rw- +1 ${owner} +${rdev} .* ${name}$`, 'm'))
  for (const [name, target] of Object.entries({
    fd: '/proc/self/fd',
    stdin: '/proc/self/fd/0',
    ptmx: 'pts/ptmx',
  }))
    t.regex(listing, new RegExp(`^l.* ${name} -> ${target}$`, 'm'))
  t.regex(listing, /^drwxrwxrwt .* shm$/m)
  t.regex(listing, /^\/dev\/pts:\n.*\n.* ptmx$/m)
  t.regex(listing, /^\/dev\/mqueue:$/m)
}

const places = [
  '/',
  '/proc',
  '/dev',
  '/dev/pts',
  '/dev/shm',
  '/dev/mqueue',
  '/sys',
  '/tmp',
  '/run',
  '/var/tmp',
]
places.push('/srv/data', '/srv/settings', ...Object.keys(files).map((name) => `/etc/${name}`))

const cellOf = (name: string): Cell => cells.find((cell) => cell.name === name)!

for (const cell of [
  'root',
  'root with ranges in a user namespace',
  'unprivileged',
  'unprivileged with subordinate ids',
].map(cellOf)) {
  for (const level of levels) {
    const needs = [...cell.needs, 'debootstrap', 'flock', 'runc'] as const
    testNeeding(needs, level)(
      `Debian in the config of runc spec works, ${cell.name}, ${level}`,
      async (t) => {
        t.timeout(300_000)
        const { directory, volume } = await bundleFor(cell)
        const before = snapshotTree(join(directory, 'rootfs'), { content: false })
        const job: Job = {
          root: { bundle: directory },
          calls: [],
          mode: 'prepare',
          commands: [
            { command: 'apt-get', args: ['--version'] },
            { command: 'ls', args: ['-lR', '/dev'] },
            { command: 'findmnt', args: ['--list', '--noheadings', '--output', 'TARGET'] },
            { command: 'cat', args: ['/proc/self/mountinfo'] },
            { command: 'sh', args: ['-c', script] },
          ],
        }
        const outcome = await runInCell({ ...cell, namespaces: {} }, job, host, { level })
        t.is(outcome.error, undefined, JSON.stringify(outcome.error, undefined, 2))
        for (const [place, { exitCode, stderr }] of outcome.results.entries())
          t.deepEqual([exitCode, stderr], [0, ''], `command ${place}`)
        t.deepEqual(outcome.left, [])
        const [apt, dev, findmnt, mountinfo, tries] = outcome.results.map(({ stdout }) => stdout) as [
          string,
          string,
          string,
          string,
          string,
        ]

        t.regex(apt, /^apt \d+\.\d+\S* \(\w+\)$/m)
        checkDevices(t, dev, cell)
        const targets = findmnt.trim().split('\n')
        t.deepEqual(
          targets.toSorted(),
          parseMountinfo(mountinfo)
            .map(({ destination }) => destination)
            .toSorted(),
        )
        t.deepEqual(
          places.filter((place) => !targets.includes(place)),
          [],
          'what findmnt lacks',
        )
        t.deepEqual(
          Object.fromEntries(
            tries
              .trim()
              .split('\n')
              .map((line) => line.split('|')),
          ),
          {
            ...Object.fromEntries(Object.keys(may).map((name) => [name, 'yes'])),
            ...Object.fromEntries(Object.keys(mayNot).map((name) => [name, 'no'])),
          },
        )

        const written = join(volume, 'written')
        t.is(readFileSync(written, 'utf8'), 'from the inside\n')
        t.is(statSync(written).uid, cell.writesAs)
        rmSync(written)
        t.deepEqual(snapshotTree(join(directory, 'rootfs'), { content: false }), before)
      },
    )
  }
}

const bundles = new Map<Cell, Promise<Bundle>>()

/** One for each cell: containers leave it as it was, which every test checks. */
function bundleFor(cell: Cell): Promise<Bundle> {
  const bundle = bundles.get(cell) ?? makeBundle(cell)
  bundles.set(cell, bundle)
  return bundle
}
