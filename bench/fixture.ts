// What the contenders run on: a busybox root, OCI bundles and the compiled floor, in a temporary directory.

import { execFileSync } from 'node:child_process'
import {
  accessSync,
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

export const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
]
export const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']
export const CAPABILITIES = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE']
export const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export const TRUE = ['/bin/true']
/** Prints the container's mount table, so that contenders can be compared in what they made. */
export const MOUNT_TABLE = ['/bin/busybox', 'cat', '/proc/self/mountinfo']

/** Which program `/bin/true` is; see tiny.c. */
export type Target = 'busybox' | 'tiny'

/** So many read-only binds one container has where they are what is measured. */
export const BINDS = 1000

/** Paths only: it goes to the worker as JSON. */
export interface Fixture {
  readonly directory: string
  /** With a directory `data/0` and so on for each bind. */
  readonly root: string
  /** A directory for each bind. */
  readonly sources: string
  readonly floor: string
  /** Makes the mount table long; see scale.c. */
  readonly crowd: string
}

export function findProgram(name: string): string | undefined {
  // A login shell's PATH often lacks sbin, where Debian has runc.
  for (const directory of [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(directory, name)
    try {
      accessSync(path, constants.X_OK)
      if (statSync(path).isFile()) return path
    } catch {
      // Not in this one.
    }
  }
  return undefined
}

function compile(source: string, output: string, flags: readonly string[]): void {
  execFileSync('cc', ['-O2', ...flags, '-o', output, join(import.meta.dirname, source)], { stdio: 'inherit' })
}

export function makeFixture(target: Target): Fixture {
  const busybox = findProgram('busybox')
  if (busybox === undefined) throw new Error('busybox is missing: install busybox-static')
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'rootfs-bench-')))
  const at = (name: string): string => join(directory, name)
  const fixture = {
    directory,
    root: at('root'),
    sources: at('sources'),
    floor: at('floor'),
    crowd: at('crowd'),
  }
  try {
    // Other users measure here too.
    chmodSync(directory, 0o755)
    for (let number = 0; number < BINDS; number++) {
      mkdirSync(join(fixture.root, 'data', `${number}`), { recursive: true })
      mkdirSync(join(fixture.sources, `${number}`), { recursive: true })
    }
    for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp']) {
      mkdirSync(join(fixture.root, name), { recursive: true })
    }
    copyFileSync(busybox, join(fixture.root, 'bin/busybox'))
    if (target === 'tiny') compile('tiny.c', join(fixture.root, 'bin/true'), ['-static', '-nostdlib'])
    else symlinkSync('busybox', join(fixture.root, 'bin/true'))
    compile('floor.c', fixture.floor, [])
    compile('scale.c', fixture.crowd, ['-pthread'])
    execFileSync(join(fixture.root, 'bin/true'))
  } catch (error) {
    removeFixture(fixture)
    throw new Error('the benchmark needs a C compiler (cc) and a static busybox', { cause: error })
  }
  return fixture
}

/** Deletes the directory unless something is mounted in it: then deleting would reach what is mounted. */
export function removeFixture(fixture: Fixture): void {
  const mounted = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .map((path) =>
      path.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8))),
    )
    .filter((path) => path === fixture.directory || path.startsWith(`${fixture.directory}/`))
  if (mounted.length > 0) {
    console.error(`bench: ${fixture.directory} is left in place, these are mounted: ${mounted.join(' ')}`)
    return
  }
  rmSync(fixture.directory, { recursive: true })
}

/** A bundle as `runc spec` writes it, less what the others don't do: device rules, rlimits. */
export function makeBundle(
  fixture: Fixture,
  args: readonly string[],
  network: boolean,
  binds = false,
): string {
  const bundle = mkdtempSync(join(fixture.directory, 'bundle-'))
  const namespaces = ['pid', 'ipc', 'uts', 'mount', 'cgroup', ...(network ? ['network'] : [])]
  const capabilities = { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES }
  const mounts = [
    ['/proc', 'proc', 'proc', []],
    ['/dev', 'tmpfs', 'tmpfs', ['nosuid', 'strictatime', 'mode=755', 'size=65536k']],
    [
      '/dev/pts',
      'devpts',
      'devpts',
      ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    ],
    ['/dev/shm', 'tmpfs', 'shm', ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']],
    ['/dev/mqueue', 'mqueue', 'mqueue', ['nosuid', 'noexec', 'nodev']],
    ['/sys', 'sysfs', 'sysfs', ['nosuid', 'noexec', 'nodev', 'ro']],
    ['/sys/fs/cgroup', 'cgroup', 'cgroup', ['nosuid', 'noexec', 'nodev', 'relatime', 'ro']],
  ] as const
  const config = {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args,
      env: [`PATH=${PATH}`],
      cwd: '/',
      capabilities,
      noNewPrivileges: true,
    },
    root: { path: fixture.root, readonly: true },
    hostname: 'runc',
    mounts: [
      ...mounts.map(([destination, type, source, options]) => ({ destination, type, source, options })),
      ...(binds ? bindPairs(fixture) : []).map(([source, destination]) => ({
        destination,
        type: 'bind',
        source,
        options: ['rbind', 'ro'],
      })),
    ],
    linux: {
      resources: {},
      namespaces: namespaces.map((type) => ({ type })),
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
    },
  }
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(config))
  return bundle
}

/** Source and destination of each bind. */
export function bindPairs(fixture: Fixture): [source: string, destination: string][] {
  return Array.from({ length: BINDS }, (_, number) => [join(fixture.sources, `${number}`), `/data/${number}`])
}

/** bubblewrap's way to the same tree. What it can't mount (/sys, parts of /proc) it binds from the host. */
export function bubblewrapArguments(
  fixture: Fixture,
  args: readonly string[],
  network: boolean,
  { binds = false, rootless = false } = {},
): string[] {
  const cover = (path: string): string[] =>
    statSync(path).isDirectory() ? ['--tmpfs', path, '--remount-ro', path] : ['--ro-bind', '/dev/null', path]
  return [
    ...['--unshare-pid', '--unshare-ipc', '--unshare-uts', '--unshare-cgroup', '--as-pid-1', '--new-session'],
    ...(network ? ['--unshare-net'] : []),
    ...(rootless ? ['--unshare-user', '--uid', '0', '--gid', '0'] : []),
    ...['--clearenv', '--setenv', 'PATH', PATH, '--hostname', 'runc', '--chdir', '/'],
    ...['--cap-drop', 'ALL', ...CAPABILITIES.flatMap((name) => ['--cap-add', name])],
    ...['--ro-bind', fixture.root, '/', '--proc', '/proc', '--dev', '/dev'],
    ...['--perms', '1777', '--size', '67108864', '--tmpfs', '/dev/shm', '--mqueue', '/dev/mqueue'],
    ...['--ro-bind', '/sys', '/sys'],
    ...(binds ? bindPairs(fixture) : []).flatMap((pair) => ['--ro-bind', ...pair]),
    ...READONLY_PATHS.filter((path) => existsSync(path)).flatMap((path) => ['--ro-bind', path, path]),
    ...MASKED_PATHS.filter((path) => existsSync(path)).flatMap(cover),
    '--',
    ...args,
  ]
}
