// OCI configurations, generated from the tables of the documentation, for comparing what different runtimes make of them.
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, linkSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkout } from './images.ts'

export interface Mount {
  destination: string
  type?: string
  source?: string
  options?: string[]
  uidMappings?: Mapping[]
  gidMappings?: Mapping[]
}

interface Mapping {
  containerID: number
  hostID: number
  size: number
}

/** What of a config.json is used here. */
export interface Config {
  ociVersion: string
  process: Record<string, unknown> & { args: string[] }
  root: { path: string; readonly?: boolean }
  hostname?: string
  mounts: Mount[]
  linux: {
    namespaces: Array<{ type: string; path?: string }>
    uidMappings?: Mapping[]
    gidMappings?: Mapping[]
    devices?: Array<Record<string, unknown>>
    maskedPaths?: string[]
    readonlyPaths?: string[]
    rootfsPropagation?: string
  }
}

/** Where a configuration may put what it needs, each runtime in a bundle of its own. */
export interface Place {
  bundle: string
  root: string
  /** Sources that all have in common: see `sharedSources`. */
  shared: string
}

export interface Configuration {
  name: string
  change: (config: Config, place: Place) => void
}

// ---------------------------------------------------------------- what every container has

const shift = 100_000
const ranges = [{ containerID: 0, hostID: shift, size: 65_536 }]

const base = (): Config => ({
  ociVersion: '1.0.2',
  process: {
    terminal: false,
    user: { uid: 0, gid: 0 },
    args: ['/bin/cat', '/proc/self/mountinfo'],
    env: ['PATH=/bin'],
    cwd: '/',
    noNewPrivileges: true,
  },
  root: { path: 'rootfs' },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    {
      destination: '/dev',
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
    },
  ],
  linux: { namespaces: ['pid', 'mount', 'ipc', 'uts', 'cgroup'].map((type) => ({ type })) },
})

/** A root with a program that shows the mount table. */
function makeRoot(root: string, busybox: string): void {
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'run', 'etc/directory', 'm', 'other']) {
    mkdirSync(join(root, name), { recursive: true })
  }
  linkSync(busybox, join(root, 'bin', 'busybox'))
  for (const name of ['cat', 'sh']) symlinkSync('busybox', join(root, 'bin', name))
  for (const name of ['f', 'etc/file', 'etc/directory/inner']) writeFileSync(join(root, name), 'content\n')
}

/** Makes the bundle of a configuration. `busybox` has to be on the same filesystem. */
export function makeBundle({ change }: Configuration, place: Place, busybox: string): void {
  makeRoot(place.root, busybox)
  for (const name of ['data/inner', 'lower', 'upper', 'work'])
    mkdirSync(join(place.bundle, name), { recursive: true })
  writeFileSync(join(place.bundle, 'file'), 'content\n')
  writeFileSync(join(place.bundle, 'data', 'file'), 'content\n')
  const config = base()
  change(config, place)
  writeFileSync(join(place.bundle, 'config.json'), JSON.stringify(config))
}

/**
 * Shell commands that make what the configurations share: trees with mounts in them, and namespaces to join. They run
 * in a private mount namespace.
 */
export const sharedSources = (shared: string): string => `
  mkdir -p '${shared}'
  here=$PWD
  cd '${shared}'
  mkdir tree flagged peers ns
  mount -t tmpfs -o mode=755 tree tree
  mkdir tree/sub tree/plain
  mount -t tmpfs -o mode=755,nosuid sub tree/sub
  mkdir tree/sub/deep
  mount -t tmpfs -o mode=755,noatime deep tree/sub/deep
  mount -t tmpfs -o mode=755 flagged flagged
  mkdir flagged/inner
  echo content > flagged/file
  mount -o remount,bind,ro,nosuid,nodev,noexec,noatime flagged
  mount -t tmpfs -o mode=755 peers peers
  mount --make-shared peers
  mkdir peers/sub
  mount -t tmpfs -o mode=755 sub peers/sub
  for kind in net ipc uts cgroup user; do : > ns/$kind; done
  unshare --net=ns/net --ipc=ns/ipc --uts=ns/uts --cgroup=ns/cgroup true
  cd "$here"
`

// ---------------------------------------------------------------- words

/** The words of docs/options.md, which a test of the library compares with what it reads. */
export function documentedWords(): string[] {
  const rows = readFileSync(join(checkout, 'docs', 'options.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
  return rows.flatMap((row) => [...row.split('|')[1]!.matchAll(/`([^`]+)`/g)].map(([, word]) => word!))
}

/** Words that say which kind of mount it is, or want more than a word. They have configurations of their own. */
const kinds = ['bind', 'rbind', 'remount', 'idmap', 'ridmap', 'tmpcopyup']

/** One mount of each kind, with more words in its options. */
const targets: Record<string, (place: Place) => Mount> = {
  tmpfs: () => ({ destination: '/m', type: 'tmpfs', source: 'tmpfs', options: [] }),
  directory: () => ({ destination: '/m', type: 'bind', source: 'data', options: ['bind'] }),
  file: () => ({ destination: '/f', type: 'bind', source: 'file', options: ['bind'] }),
  flagged: ({ shared }) => ({
    destination: '/m',
    type: 'none',
    source: `${shared}/flagged`,
    options: ['bind'],
  }),
  tree: ({ shared }) => ({ destination: '/m', type: 'none', source: `${shared}/tree`, options: ['rbind'] }),
  proc: () => ({ destination: '/m', type: 'proc', source: 'proc', options: [] }),
  sysfs: () => ({ destination: '/m', type: 'sysfs', source: 'sysfs', options: [] }),
  mqueue: () => ({ destination: '/m', type: 'mqueue', source: 'mqueue', options: [] }),
  devpts: () => ({ destination: '/m', type: 'devpts', source: 'devpts', options: [] }),
  cgroup: () => ({ destination: '/m', type: 'cgroup', source: 'cgroup', options: [] }),
  overlay: ({ bundle }) => ({
    destination: '/m',
    type: 'overlay',
    source: 'overlay',
    options: [`lowerdir=${bundle}/lower`, `upperdir=${bundle}/upper`, `workdir=${bundle}/work`],
  }),
}

const withWords = (name: string, target: string, words: string[]): Configuration => ({
  name,
  change: (config, place) => {
    const mount = targets[target]!(place)
    mount.options = [...mount.options!, ...words]
    config.mounts.push(mount)
  },
})

const alone = (): Configuration[] =>
  Object.keys(targets).flatMap((target) => [
    withWords(`${target}`, target, []),
    ...documentedWords()
      .filter((word) => !kinds.includes(word))
      .map((word) => withWords(`${target} ${word}`, target, [word])),
  ])

const pairs: Array<[string, string]> = [
  ['ro', 'rw'],
  ['nosuid', 'suid'],
  ['nodev', 'dev'],
  ['noexec', 'exec'],
  ['nosymfollow', 'symfollow'],
  ['noatime', 'atime'],
  ['noatime', 'relatime'],
  ['noatime', 'strictatime'],
  ['nodiratime', 'diratime'],
  ['sync', 'async'],
  ['rro', 'rrw'],
  ['rro', 'rw'],
  ['rnosuid', 'suid'],
  ['private', 'shared'],
  ['shared', 'slave'],
  ['private', 'unbindable'],
  ['rprivate', 'shared'],
]

const lastWins = (): Configuration[] =>
  ['tmpfs', 'directory', 'flagged', 'tree'].flatMap((target) =>
    pairs.flatMap(([one, other]) =>
      [
        [one, other],
        [other, one],
      ].map((words) => withWords(`${target} ${words.join(',')}`, target, words)),
    ),
  )

const combinations: Array<[target: string, words: string[]]> = [
  ['tmpfs', ['nosuid', 'nodev', 'noexec', 'ro', 'size=8m', 'mode=1777']],
  ['tmpfs', ['mode=0700', 'uid=5', 'gid=6']],
  ['tmpfs', ['tmpcopyup']],
  ['tmpfs', ['no-such-option']],
  ['directory', ['ro', 'nosuid', 'nodev', 'noexec']],
  ['directory', ['ro', 'private', 'noatime']],
  ['directory', ['mode=755', 'size=8m']],
  ['directory', ['remount']],
  ['directory', ['remount', 'ro']],
  ['directory', ['tmpcopyup']],
  ['flagged', ['remount', 'rw']],
  ['flagged', ['ro', 'nosuid']],
  ['tree', ['rro', 'rnosuid', 'rnodev', 'rnoexec']],
  ['tree', ['rro', 'exec']],
  ['tree', ['ro', 'rprivate', 'nosuid']],
  ['tree', ['rro', 'rslave']],
  ['tree', ['bind', 'ro']],
  ['proc', ['nosuid', 'nodev', 'noexec']],
  ['proc', ['hidepid=2']],
  ['sysfs', ['nosuid', 'noexec', 'nodev', 'ro']],
  ['mqueue', ['nosuid', 'noexec', 'nodev']],
  ['devpts', ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']],
  ['cgroup', ['nosuid', 'noexec', 'nodev', 'relatime', 'ro']],
  ['overlay', ['ro', 'nosuid']],
]

const combined = (): Configuration[] =>
  combinations.map(([target, words]) => withWords(`${target} ${words.join(',')}`, target, words))

// ---------------------------------------------------------------- propagation

const propagations = [
  'private',
  'rprivate',
  'shared',
  'rshared',
  'slave',
  'rslave',
  'unbindable',
  'runbindable',
]

const propagation = (): Configuration[] => [
  ...propagations.map((word) => ({
    name: `root ${word}`,
    change: (config: Config) => {
      config.linux.rootfsPropagation = word
    },
  })),
  ...['rprivate', 'rshared', 'rslave'].map((word) => ({
    name: `root ${word} with a tree`,
    change: (config: Config, place: Place) => {
      config.linux.rootfsPropagation = word
      config.mounts.push(targets.tree!(place))
    },
  })),
  ...['', ...propagations].map((word) => ({
    name: `peers ${word}`.trim(),
    change: (config: Config, { shared }: Place) => {
      const options = ['rbind', ...(word === '' ? [] : [word])]
      config.mounts.push({ destination: '/m', type: 'none', source: `${shared}/peers`, options })
    },
  })),
  ...['rshared', 'rslave', 'rprivate'].map((word) => ({
    name: `peers in root ${word}`,
    change: (config: Config, { shared }: Place) => {
      config.linux.rootfsPropagation = word
      config.mounts.push({ destination: '/m', type: 'none', source: `${shared}/peers`, options: ['rbind'] })
    },
  })),
]

// ---------------------------------------------------------------- masks, read-only paths, the root

const mask = (name: string, paths: string[], change: Configuration['change'] = () => {}): Configuration[] => [
  {
    name: `masked ${name}`,
    change: (config, place) => {
      config.linux.maskedPaths = paths
      change(config, place)
    },
  },
  {
    name: `read-only ${name}`,
    change: (config, place) => {
      config.linux.readonlyPaths = paths
      change(config, place)
    },
  },
]

const paths = (): Configuration[] => [
  ...mask('directory', ['/etc/directory']),
  ...mask('file', ['/etc/file']),
  ...mask('missing', ['/etc/missing']),
  ...mask('twice', ['/etc/file', '/etc/file', '/etc/directory', '/etc/directory']),
  ...mask('link to a file', ['/etc/link'], (_, { root }) => symlinkSync('file', join(root, 'etc', 'link'))),
  ...mask('link to a directory', ['/etc/link'], (_, { root }) =>
    symlinkSync('directory', join(root, 'etc', 'link')),
  ),
  ...mask('dangling link', ['/etc/link'], (_, { root }) =>
    symlinkSync('/nowhere', join(root, 'etc', 'link')),
  ),
  ...mask('mount', ['/m'], (config) => config.mounts.push(targets.tmpfs!({} as Place))),
  ...mask('tree', ['/m'], (config, place) => config.mounts.push(targets.tree!(place))),
  ...mask('below a tree', ['/m/sub/deep'], (config, place) => config.mounts.push(targets.tree!(place))),
  ...mask('flagged', ['/m/inner', '/m/file'], (config, place) => config.mounts.push(targets.flagged!(place))),
  ...mask('of proc', ['/proc/kcore', '/proc/sys', '/proc/nosuch']),
  ...mask('inside another', ['/etc/directory', '/etc/directory/inner']),
  {
    name: 'masked and read-only',
    change: ({ linux }) => {
      linux.maskedPaths = ['/etc/file']
      linux.readonlyPaths = ['/etc', '/etc/file']
    },
  },
]

const root = (): Configuration[] => [
  {
    name: 'root read-only',
    change: (config) => {
      config.root.readonly = true
    },
  },
  {
    name: 'root read-only with mounts',
    change: (config, place) => {
      config.root.readonly = true
      config.mounts.push(targets.tmpfs!(place), targets.file!(place))
    },
  },
  {
    name: 'root read-only and shared',
    change: (config) => {
      config.root.readonly = true
      config.linux.rootfsPropagation = 'shared'
    },
  },
  {
    name: 'root absolute',
    change: (config, place) => {
      config.root.path = place.root
    },
  },
]

// ---------------------------------------------------------------- destinations

const at = (
  name: string,
  destination: string,
  change: Configuration['change'] = () => {},
): Configuration => ({
  name: `destination ${name}`,
  change: (config, place) => {
    change(config, place)
    config.mounts.push({ destination, type: 'tmpfs', source: 'tmpfs' })
  },
})

const fileAt = (
  name: string,
  destination: string,
  change: Configuration['change'] = () => {},
): Configuration => ({
  name: `destination ${name}`,
  change: (config, place) => {
    change(config, place)
    config.mounts.push({ destination, type: 'bind', source: 'file', options: ['bind'] })
  },
})

const link =
  (target: string, path: string): Configuration['change'] =>
  (_, { root }) =>
    symlinkSync(target, join(root, path))

const onTop = (name: string, mount: (place: Place) => Mount): Configuration => ({
  name: `destination / ${name}`,
  change: (config, place) => config.mounts.unshift(mount(place)),
})

const destinations = (): Configuration[] => [
  at('missing', '/made/for/this'),
  fileAt('missing, of a file', '/made/for/this'),
  at('relative', 'm'),
  at('with ..', '/m/../other'),
  at('with .. above the root', '/../../m'),
  at('with a slash at the end', '/m/'),
  at('with many slashes', '//m//'),
  at('link', '/l', link('/m', 'l')),
  at('relative link', '/etc/l', link('../m', 'etc/l')),
  at('link above the root', '/l', link('../../../m', 'l')),
  at('through a link', '/l/inner', link('/m', 'l')),
  at('dangling link', '/l', link('/nowhere/there', 'l')),
  at('through a dangling link', '/l/inner', link('/nowhere/there', 'l')),
  fileAt('dangling link, of a file', '/etc/localtime', link('/usr/share/zoneinfo/UTC', 'etc/localtime')),
  at('chain of links', '/l', (_, { root }) => {
    symlinkSync('/k', join(root, 'l'))
    symlinkSync('m', join(root, 'k'))
  }),
  at('loop of links', '/l', link('/l', 'l')),
  at('twice', '/m', (config, place) => config.mounts.push(targets.directory!(place))),
  at('in an earlier mount', '/m/inner', (config, place) => config.mounts.push(targets.directory!(place))),
  at('in an earlier read-only mount', '/m/inner', (config, place) =>
    config.mounts.push({ ...targets.directory!(place), options: ['bind', 'ro'] }),
  ),
  at('missing in an earlier read-only mount', '/m/made', (config, place) =>
    config.mounts.push({ ...targets.tmpfs!(place), options: ['ro'] }),
  ),
  at('over an earlier mount', '/m', (config, place) =>
    config.mounts.push({ ...targets.tmpfs!(place), destination: '/m/inner' }),
  ),
  at('in /run through /var/run', '/var/run/inner', (_, { root }) => {
    mkdirSync(join(root, 'var'))
    symlinkSync('/run', join(root, 'var', 'run'))
  }),
  at('file', '/etc/file'),
  fileAt('directory, of a file', '/etc/directory'),
  at('name with a space', '/a b'),
  at('name with a colon', '/a:b,c'),
  at('in proc', '/proc/sys'),
  fileAt('proc/uptime, of a file', '/proc/uptime'),
  fileAt('proc/version, of a file', '/proc/version'),
  at('with the root in front', 'ROOT', (config, place) =>
    config.mounts.push({ destination: `${place.root}/m`, type: 'tmpfs', source: 'tmpfs' }),
  ),
  onTop('of a bind', () => ({ destination: '/', type: 'bind', source: 'rootfs', options: ['bind'] })),
  onTop('of an overlay', ({ bundle, root: lower }) => ({
    destination: '/',
    type: 'overlay',
    source: 'overlay',
    options: [`lowerdir=${lower}`, `upperdir=${bundle}/upper`, `workdir=${bundle}/work`],
  })),
  onTop('of a read-only bind', () => ({
    destination: '/',
    type: 'bind',
    source: 'rootfs',
    options: ['bind', 'ro'],
  })),
  ...['proc', 'sysfs'].map(
    (type): Configuration => ({
      name: `destination link, of ${type}`,
      change: (config, { root }) => {
        symlinkSync('/m', join(root, 'l'))
        config.mounts.push({ destination: '/l', type, source: type })
      },
    }),
  ),
]

// ---------------------------------------------------------------- sources and devices

const sources = (): Configuration[] => [
  {
    name: 'source missing',
    change: (config) => config.mounts.push({ destination: '/m', source: 'missing', options: ['bind'] }),
  },
  {
    name: 'source missing, of a type',
    change: (config) => config.mounts.push({ destination: '/m', type: 'tmpfs' }),
  },
  {
    name: 'source without a bind word',
    change: (config) => config.mounts.push({ destination: '/m', type: 'bind', source: 'data' }),
  },
  {
    name: 'source link',
    change: (config, { bundle }) => {
      symlinkSync('data', join(bundle, 'link'))
      config.mounts.push({ destination: '/m', source: 'link', options: ['bind'] })
    },
  },
  {
    name: 'source fifo',
    change: (config, { bundle }) => {
      execFileSync('mkfifo', [join(bundle, 'fifo')])
      config.mounts.push({ destination: '/pipe', source: 'fifo', options: ['bind'] })
    },
  },
  {
    name: 'source device',
    change: (config) => config.mounts.push({ destination: '/null', source: '/dev/null', options: ['bind'] }),
  },
  {
    name: 'source link, copied',
    change: (config, { bundle }) => {
      symlinkSync('data', join(bundle, 'link'))
      config.mounts.push({ destination: '/copied', source: 'link', options: ['bind', 'copy-symlink'] })
    },
  },
  {
    name: 'source named otherwise',
    change: (config) => config.mounts.push({ destination: '/m', type: 'tmpfs', source: 'other' }),
  },
  {
    name: 'unknown type',
    change: (config) => config.mounts.push({ destination: '/m', type: 'nosuchfs', source: 'x' }),
  },
  {
    name: 'ramfs',
    change: (config) => config.mounts.push({ destination: '/m', type: 'ramfs', source: 'ramfs' }),
  },
]

const devices = (): Configuration[] => [
  {
    name: 'devices in /dev',
    change: ({ linux }) => {
      linux.devices = [
        { path: '/dev/extra', type: 'c', major: 1, minor: 3, fileMode: 0o600, uid: 3, gid: 4 },
        { path: '/dev/sub/fifo', type: 'p' },
      ]
    },
  },
  {
    name: 'devices elsewhere',
    change: ({ linux }) => {
      linux.devices = [{ path: '/made/null', type: 'c', major: 1, minor: 3 }]
    },
  },
  {
    name: 'devices with /dev bound',
    change: (config, { bundle }) => {
      config.mounts[1] = {
        destination: '/dev',
        type: 'bind',
        source: join(bundle, 'data'),
        options: ['bind'],
      }
    },
  },
  {
    name: 'devices with /dev read-only',
    change: (config) => {
      config.mounts[1]!.options!.push('ro')
    },
  },
  {
    name: 'devices with shm, mqueue, pts',
    change: (config) =>
      config.mounts.push(
        {
          destination: '/dev/pts',
          type: 'devpts',
          source: 'devpts',
          options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
        },
        {
          destination: '/dev/shm',
          type: 'tmpfs',
          source: 'shm',
          options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'],
        },
        {
          destination: '/dev/mqueue',
          type: 'mqueue',
          source: 'mqueue',
          options: ['nosuid', 'noexec', 'nodev'],
        },
      ),
  },
]

// ---------------------------------------------------------------- namespaces

function inUserNamespace(config: Config, place: Place): void {
  config.linux.namespaces.push({ type: 'user' })
  config.linux.uidMappings = ranges
  config.linux.gidMappings = ranges
  execFileSync('chown', [
    '-hR',
    `${shift}:${shift}`,
    ...['rootfs', 'data', 'file', 'lower', 'upper', 'work'].map((name) => join(place.bundle, name)),
  ])
  chownSync(place.bundle, shift, shift)
  chmodSync(place.bundle, 0o755)
}

const mapped = (configuration: Configuration): Configuration => ({
  name: `user namespace: ${configuration.name}`,
  change: (config, place) => {
    configuration.change(config, place)
    inUserNamespace(config, place)
  },
})

const userNamespaces = (): Configuration[] =>
  [
    { name: 'nothing more', change: () => {} },
    ...Object.keys(targets).map((target) => withWords(target, target, [])),
    ...[
      ['directory', 'ro'],
      ['directory', 'nosuid'],
      ['file', 'ro'],
      ['flagged', 'rw'],
      ['flagged', 'ro'],
      ['flagged', 'exec'],
      ['flagged', 'relatime'],
      ['tree', 'ro'],
      ['tree', 'rro'],
      ['tmpfs', 'ro'],
      ['tmpfs', 'size=8m'],
      ['proc', 'ro'],
      ['cgroup', 'ro'],
      ['mqueue', 'nosuid'],
      ['devpts', 'newinstance'],
    ].map(([target, word]) => withWords(`${target} ${word}`, target!, [word!])),
    {
      name: 'sysfs with a network namespace',
      change: (config: Config, place: Place) => {
        config.linux.namespaces.push({ type: 'network' })
        config.mounts.push(targets.sysfs!(place))
      },
    },
    ...paths().filter(({ name }) => /^(masked|read-only) (directory|file|of proc|flagged)$/.test(name)),
    ...root().filter(({ name }) => name === 'root read-only'),
    ...devices(),
    ...destinations().filter(({ name }) => /missing$/.test(name)),
  ].map(mapped)

const joined = (): Configuration[] => [
  ...['network', 'ipc', 'uts', 'cgroup'].map(
    (type): Configuration => ({
      name: `joined ${type}`,
      change: (config, place) => {
        const file = type === 'network' ? 'net' : type
        config.linux.namespaces = [
          ...config.linux.namespaces.filter((namespace) => namespace.type !== type),
          { type, path: join(place.shared, 'ns', file) },
        ]
        config.mounts.push(
          { ...targets.sysfs!(place), destination: '/sys' },
          { ...targets.mqueue!(place), destination: '/dev/mqueue' },
          { ...targets.cgroup!(place), destination: '/m' },
        )
      },
    }),
  ),
  ...['pid', 'ipc', 'uts', 'cgroup', 'mount'].map(
    (type): Configuration => ({
      name: `without ${type}`,
      change: (config, place) => {
        config.linux.namespaces = config.linux.namespaces.filter((namespace) => namespace.type !== type)
        config.mounts.push(
          { ...targets.mqueue!(place), destination: '/dev/mqueue' },
          { ...targets.cgroup!(place), destination: '/m' },
        )
      },
    }),
  ),
]

// ---------------------------------------------------------------- what the runtimes write themselves

const written = (name: string, command: string, args: string[]): Configuration => ({
  name,
  change: (config, place) => {
    const directory = join(place.bundle, 'written')
    mkdirSync(directory)
    execFileSync(command, [...args], { cwd: directory })
    const text = readFileSync(join(directory, 'config.json'), 'utf8')
    const { process } = config
    Object.assign(config, JSON.parse(text))
    config.process.terminal = false
    config.process.args = process.args
    if (config.linux.uidMappings !== undefined) {
      config.linux.uidMappings = ranges
      config.linux.gidMappings = ranges
    }
  },
})

export const configurations = (): Configuration[] => [
  written('runc spec', 'runc', ['spec']),
  written('runc spec --rootless', 'runc', ['spec', '--rootless']),
  written('crun spec', 'crun', ['spec']),
  ...alone(),
  ...lastWins(),
  ...combined(),
  ...propagation(),
  ...paths(),
  ...root(),
  ...destinations(),
  ...sources(),
  ...devices(),
  ...userNamespaces(),
  ...joined(),
]
