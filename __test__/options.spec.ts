// Each option word on each kind of mount, against the mount table that the kernel shows inside. What a word does is said
// here once more, so that it isn't the library that is asked about itself.
import { chownSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, nobody, runAllInCell, runInCell } from './support/cells.ts'
import { guardHost } from './support/host.ts'
import { checkout } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { findProgram } from './support/program.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

// ---------------------------------------------------------------- what the words mean

type Atime = 'relatime' | 'noatime' | 'strictatime'

/** A flag as mountinfo shows it. */
type Flag = 'ro' | 'nosuid' | 'nodev' | 'noexec' | 'nosymfollow' | 'nodiratime'

interface Meaning {
  set?: Flag
  clear?: Flag
  atime?: Atime
  /** For all below too. */
  recursive?: true
  /** A flag of a new filesystem, as mountinfo shows it, and whether it is there. */
  superblock?: [word: string, there: boolean]
  propagation?: 'private' | 'shared' | 'slave' | 'unbindable'
}

const flags: Array<[set: string, clear: string, flag: Flag]> = [
  ['ro', 'rw', 'ro'],
  ['nosuid', 'suid', 'nosuid'],
  ['nodev', 'dev', 'nodev'],
  ['noexec', 'exec', 'noexec'],
  ['nosymfollow', 'symfollow', 'nosymfollow'],
  ['nodiratime', 'diratime', 'nodiratime'],
]
const modes: Record<string, Atime> = {
  relatime: 'relatime',
  norelatime: 'relatime',
  atime: 'relatime',
  nostrictatime: 'relatime',
  noatime: 'noatime',
  strictatime: 'strictatime',
}

const meanings: Record<string, Meaning> = {
  defaults: {},
  silent: {},
  loud: {},
  ...Object.fromEntries(
    flags.flatMap(([on, off, flag]) => [
      [on, { set: flag }],
      [off, { clear: flag }],
    ]),
  ),
  ...Object.fromEntries(
    flags.flatMap(([on, off, flag]) => [
      [`r${on}`, { set: flag, recursive: true }],
      [`r${off}`, { clear: flag, recursive: true }],
    ]),
  ),
  ...Object.fromEntries(Object.entries(modes).map(([word, atime]) => [word, { atime }])),
  ...Object.fromEntries(
    Object.entries(modes).map(([word, atime]) => [`r${word}`, { atime, recursive: true }]),
  ),
  sync: { superblock: ['sync', true] },
  async: { superblock: ['sync', false] },
  dirsync: { superblock: ['dirsync', true] },
  lazytime: { superblock: ['lazytime', true] },
  nolazytime: { superblock: ['lazytime', false] },
  mand: { superblock: ['mand', true] },
  nomand: { superblock: ['mand', false] },
  // No table shows it.
  iversion: {},
  noiversion: {},
  ...Object.fromEntries(
    (['private', 'shared', 'slave', 'unbindable'] as const).flatMap((propagation) => [
      [propagation, { propagation }],
      [`r${propagation}`, { propagation }],
    ]),
  ),
}

/** Words that say what kind of mount it is, or where: each has tests of its own. */
const kinds = [
  'bind',
  'rbind',
  'remount',
  'tmpcopyup',
  'idmap',
  'ridmap',
  'copy-symlink',
  'src-nofollow',
  'dest-nofollow',
]

test('every documented word is in the table of this test', (t) => {
  const rows = readFileSync(join(checkout, 'docs', 'options.md'), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
  const words = rows.flatMap((row) => [...row.split('|')[1]!.matchAll(/`([^`]+)`/g)].map(([, word]) => word!))
  t.deepEqual(words.toSorted(), [...Object.keys(meanings), ...kinds].toSorted())
})

// ---------------------------------------------------------------- what it is tried on

interface State {
  flags: Flag[]
  atime: Atime
}

const bare: State = { flags: [], atime: 'relatime' }
const strict: State = {
  flags: ['ro', 'nosuid', 'nodev', 'noexec', 'nosymfollow', 'nodiratime'],
  atime: 'noatime',
}

interface Target {
  name: string
  type?: string
  /** What of the sources is bound. */
  source?: string
  options: string[]
  /** Options that name something of the sources. */
  layers?: (directory: string, word: string) => string[]
  /** Its flags without a word. */
  before: State
  /** The same of what is mounted below it. */
  below?: State
  /** Whether the filesystem is the container's own, with a superblock of its own. */
  own?: true
  /** Whether that can't be written in any case. */
  readonly?: true
  /** Whether the source has peers. */
  shared?: true
  /** Where it is mounted on something that is shared, which makes it shared too. */
  on?: 'shared'
}

const targets: Target[] = [
  { name: 'tmpfs', type: 'tmpfs', options: [], before: bare, own: true },
  { name: 'proc', type: 'proc', options: [], before: bare },
  { name: 'dir', source: 'plain', options: ['bind'], before: bare },
  { name: 'strict-dir', source: 'hard', options: ['bind'], before: strict },
  { name: 'file', source: 'hard/file', options: ['bind'], before: strict },
  { name: 'tree', source: 'strict', options: ['rbind'], before: strict, below: strict },
  { name: 'mixed-tree', source: 'bare', options: ['rbind'], before: bare, below: strict },
  {
    name: 'overlay',
    type: 'overlay',
    options: [],
    layers: (directory) => [`lowerdir=${join(directory, 'lower')}`, `lowerdir+=${join(directory, 'plain')}`],
    before: bare,
    own: true,
    readonly: true,
  },
  {
    name: 'written-overlay',
    type: 'overlay',
    options: [],
    // Each has its own: two that write to the same directories are refused.
    layers: (directory, word) => [
      `lowerdir=${join(directory, 'lower')}`,
      `upperdir=${join(directory, 'upper', word)}`,
      `workdir=${join(directory, 'work', word)}`,
    ],
    before: bare,
    own: true,
  },
  { name: 'on-shared', type: 'tmpfs', options: [], before: bare, own: true, on: 'shared' },
  { name: 'peer', source: 'peer', options: ['bind'], before: bare, shared: true },
]

function changed({ flags: before, atime }: State, meaning: Meaning): State {
  const kept = before.filter((flag) => flag !== meaning.clear && flag !== meaning.set)
  return {
    flags: meaning.set === undefined ? kept : [...kept, meaning.set],
    atime: meaning.atime ?? atime,
  }
}

/** Flags that a user namespace may not clear of what is not its own. */
const lockable: Flag[] = ['ro', 'nosuid', 'nodev', 'noexec', 'nodiratime']

/**
 * A bind with a word for a flag of its own has exactly the flags asked for, but those that are locked; of access times it
 * keeps what it has.
 */
function expected(target: Target, meaning: Meaning, locked: boolean): State {
  const saysFlags = meaning.set ?? meaning.clear ?? meaning.atime
  const exact = target.source !== undefined && saysFlags !== undefined && !meaning.recursive
  const stay: Flag[] = locked ? lockable : ['nodiratime']
  const before = exact
    ? { ...target.before, flags: target.before.flags.filter((flag) => stay.includes(flag)) }
    : target.before
  return changed(before, meaning)
}

/** Whether a word asks for what is locked of a mount. */
function isForbidden({ flags: before, atime }: State, meaning: Meaning): boolean {
  const { set, clear, atime: mode } = meaning
  const cleared = clear !== undefined && lockable.includes(clear) && before.includes(clear)
  // Access times are locked as they are, without a flag too.
  const times = set === 'nodiratime' && !before.includes(set)
  return cleared || times || (mode !== undefined && mode !== atime)
}

const order: Flag[] = ['nosuid', 'nodev', 'noexec', 'nodiratime', 'nosymfollow']

function shown({ flags: set, atime }: State): string[] {
  const words: string[] = [set.includes('ro') ? 'ro' : 'rw', ...order.filter((flag) => set.includes(flag))]
  if (atime !== 'strictatime') words.push(atime)
  return words.toSorted()
}

function shownPropagation(target: Target, { propagation }: Meaning, locked: boolean): string[] {
  // Nothing said: what a bind receives comes from its source, as for the root.
  const asked = propagation ?? target.on ?? (target.source === undefined ? 'private' : 'slave')
  if (asked === 'unbindable') return ['unbindable']
  // In a mount namespace of fewer rights the source itself is a slave already.
  const received = target.shared && (asked === 'slave' || (asked === 'shared' && locked))
  return [...(received ? ['master'] : []), ...(asked === 'shared' ? ['shared'] : [])]
}

// ---------------------------------------------------------------- the containers

/** Makes the sources in the driver's own mount namespace. */
function sources(directory: string, owner = 0): string {
  for (const name of ['bare', 'strict', 'plain', 'hard', 'peer', 'lower', 'open'])
    mkdirSync(join(directory, name))
  for (const name of ['upper', 'work']) {
    for (const word of Object.keys(meanings)) {
      mkdirSync(join(directory, name, word), { recursive: true })
      chownSync(join(directory, name, word), owner, owner)
    }
  }
  const hard = 'ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow'
  return `(
    cd ${directory}
    for name in bare strict plain hard peer open; do mount -t tmpfs -o mode=755 $name $name; done
    mkdir bare/sub strict/sub
    touch hard/file
    for name in bare/sub strict/sub; do
      mount -t tmpfs -o mode=755 below $name
      mount -o remount,bind,${hard} $name
    done
    for name in strict hard; do mount -o remount,bind,${hard} $name; done
    mount --make-shared peer
    mkdir open/sub
    mount -t tmpfs -o mode=755 below open/sub
  )`
}

const program = '/busybox'
const calls = (mounts: Array<Record<string, unknown>>): Job['calls'] => [
  ['file', '/marker', ''],
  ['bind', findProgram('busybox'), program],
  ['proc'],
  ['mount', { destination: '/shared', type: 'tmpfs', options: ['shared'] }],
  ...mounts.map((mount): [string, unknown] => ['mount', mount]),
]

const describe = (mounts: Array<Record<string, unknown>>, more: Job['calls'] = []): Job => ({
  root: { empty: {} },
  calls: [...calls(mounts), ...more],
  mode: 'prepare',
  commands: [{ command: program, args: ['cat', '/proc/self/mountinfo'] }],
})

function tableOf(t: ExecutionContext, { error, results, left }: Outcome): MountLine[] {
  if (error !== undefined) t.log(error)
  t.is(error, undefined)
  t.deepEqual(left, [])
  return parseMountinfo(results[0]!.stdout)
}

function at(t: ExecutionContext, table: MountLine[], destination: string): MountLine {
  const there = table.filter((mount) => mount.destination === destination)
  t.is(there.length, 1, `mounts on ${destination}`)
  return there[0]!
}

const flagsOf = ({ options }: MountLine): string[] => options.toSorted()
const propagationOf = ({ propagation }: MountLine): string[] =>
  propagation.map((field) => field.split(':')[0]!).filter((field) => field !== 'propagate_from')

const [asRoot, inUserNamespace] = cells as [Cell, Cell]
const withoutPrivileges = cells.find((cell) => cell.uid === nobody)!

/** Whether the host's mounts are bound in a mount namespace of a user namespace, where they are locked. */
const locksSources = (cell: Cell, level: Level): boolean =>
  cell === withoutPrivileges || (cell === inUserNamespace && level === 'classic')

function isRefused(cell: Cell, level: Level, { target, meaning }: Try): boolean {
  // In a user namespace a new proc must have the access-time mode of one that is visible.
  if (target.type === 'proc') return cell !== asRoot && isForbidden({ ...bare, flags: [] }, meaning)
  if (target.source === undefined || !locksSources(cell, level)) return false
  const below = meaning.recursive ? target.below : undefined
  return isForbidden(target.before, meaning) || (below !== undefined && isForbidden(below, meaning))
}

interface Try {
  word: string
  meaning: Meaning
  target: Target
  destination: string
}

const tries: Try[] = Object.entries(meanings).flatMap(([word, meaning]) =>
  targets.map((target) => ({
    word,
    meaning,
    target,
    destination: `/${target.on ?? 'w'}/${word}/${target.name}`,
  })),
)

const mountOf = ({ word, target, destination }: Try, directory: string): Record<string, unknown> => ({
  destination,
  type: target.type,
  source: target.source === undefined ? undefined : join(directory, target.source),
  options: [...target.options, ...(target.layers?.(directory, word) ?? []), word],
})

function checkTry(
  t: ExecutionContext,
  table: MountLine[],
  { word, meaning, target, destination }: Try,
  locked: boolean,
): void {
  const what = `${word} on ${target.name}`
  const mount = at(t, table, destination)
  t.deepEqual(flagsOf(mount), shown(expected(target, meaning, locked)), what)
  t.deepEqual(propagationOf(mount).toSorted(), shownPropagation(target, meaning, locked), what)
  if (target.own) {
    const [flag, there] = meaning.superblock ?? ['ro', target.readonly === true || meaning.set === 'ro']
    t.is(mount.superOptions.includes(flag), there, `${what}: ${flag} of the superblock`)
  }
  if (target.below !== undefined) {
    const below = meaning.recursive ? changed(target.below, meaning) : target.below
    t.deepEqual(flagsOf(at(t, table, `${destination}/sub`)), shown(below), `${what}, below`)
  }
}

for (const cell of [asRoot, inUserNamespace, withoutPrivileges]) {
  for (const level of levels) {
    const title = `every word on every kind of mount, ${cell.name}, ${level}`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      t.timeout(120_000)
      const directory = host.scratch('sources')
      const setup = sources(directory, cell.writesAs)
      const allowed = tries.filter((one) => !isRefused(cell, level, one))
      const refused = tries.filter((one) => isRefused(cell, level, one))
      const jobs = [allowed, ...refused.map((one) => [one])]
      const outcomes = await runAllInCell(
        cell,
        jobs.map((some) => describe(some.map((one) => mountOf(one, directory)))),
        host,
        { level, setup },
      )
      const table = tableOf(t, outcomes.shift()!)
      for (const one of allowed) checkTry(t, table, one, locksSources(cell, level))
      t.is(refused.length > 0, cell !== asRoot)
      for (const [index, { word, target }] of refused.entries()) {
        const { error, left } = outcomes[index]!
        t.is(error?.code, 'ERR_ROOTFS_LOCKED', `${word} on ${target.name}: ${error?.message}`)
        t.deepEqual(left, [])
      }
    })
  }
}

// ---------------------------------------------------------------- several words

for (const level of levels) {
  testNeeding([...asRoot.needs, 'busybox'], level)(
    `several words: the last one wins, ${level}`,
    async (t) => {
      const directory = host.scratch('sources')
      const rows: Array<[name: string, options: string[], own: string[], below?: string[]]> = [
        ['ro-rw', ['bind', 'ro', 'rw'], ['relatime', 'rw']],
        ['rw-ro', ['bind', 'rw', 'ro'], ['relatime', 'ro']],
        ['atime', ['bind', 'noatime', 'strictatime', 'relatime'], ['relatime', 'rw']],
        ['rro-rw', ['rbind', 'rro', 'rw'], ['relatime', 'rw'], shown(strict)],
        ['rw-rro', ['rbind', 'rw', 'rro'], ['relatime', 'ro'], shown(strict)],
        [
          'rrw-ro',
          ['rbind', 'rrw', 'ro'],
          ['relatime', 'ro'],
          shown({ ...strict, flags: strict.flags.filter((flag) => flag !== 'ro') }),
        ],
        ['rnoatime-relatime', ['rbind', 'rnoatime', 'relatime'], ['relatime', 'rw'], shown(strict)],
        [
          'many',
          ['bind', 'nosuid', 'nodev', 'noexec', 'noatime'],
          ['noatime', 'nodev', 'noexec', 'nosuid', 'rw'],
        ],
      ]
      const mounts = rows.map(([name, options]) => ({
        destination: `/w/${name}`,
        source: join(directory, 'bare'),
        options,
      }))
      const propagation: Array<[name: string, options: string[], found: string[]]> = [
        ['private-shared', ['private', 'shared'], ['shared']],
        ['shared-private', ['shared', 'private'], []],
        ['slave-shared', ['slave', 'shared'], ['master', 'shared']],
        ['unbindable-shared', ['unbindable', 'shared'], ['shared']],
      ]
      const peers = propagation.map(([name, options]) => ({
        destination: `/w/${name}`,
        source: join(directory, 'peer'),
        options: ['bind', ...options],
      }))
      const job = describe([...mounts, ...peers])
      const table = tableOf(t, await runInCell(asRoot, job, host, { level, setup: sources(directory) }))
      for (const [name, , own, below] of rows) {
        t.deepEqual(flagsOf(at(t, table, `/w/${name}`)), own, name)
        if (below !== undefined) t.deepEqual(flagsOf(at(t, table, `/w/${name}/sub`)), below, `${name}, below`)
      }
      for (const [name, , found] of propagation)
        t.deepEqual(propagationOf(at(t, table, `/w/${name}`)).toSorted(), found, name)
    },
  )

  testNeeding([...asRoot.needs, 'busybox'], level)(`remount changes what is there, ${level}`, async (t) => {
    const directory = host.scratch('sources')
    const strictDirectory = join(directory, 'strict')
    const remounted = (name: string, mount: Record<string, unknown>, options: string[]) => [
      { destination: `/w/${name}`, ...mount },
      { destination: `/w/${name}`, options: ['remount', ...options] },
    ]
    const tmpfs = { type: 'tmpfs' }
    const bind = { source: strictDirectory, options: ['bind'] }
    const tree = { source: join(directory, 'bare'), options: ['rbind'] }
    const job = describe([
      ...remounted('new-ro', tmpfs, ['ro', 'nosuid', 'sync', 'size=64k']),
      ...remounted('new-bind-ro', tmpfs, ['bind', 'ro']),
      ...remounted('ro-rw', { ...tmpfs, options: ['ro'] }, ['rw']),
      // Its filesystem stays as it was.
      ...remounted('ro-bind-rw', { ...tmpfs, options: ['ro'] }, ['bind', 'rw']),
      { destination: '/w/linked', type: 'tmpfs', options: ['ro'] },
      { destination: '/led/linked', options: ['remount', 'rw'] },
      ...remounted('bind', bind, ['bind', 'rw', 'suid', 'relatime']),
      ...remounted('bind-alone', bind, ['dev']),
      ...remounted('iversion', { ...tmpfs, options: ['sync'] }, ['iversion', 'lazytime']),
      // What is made below comes before it is read-only.
      ...remounted('deep', tmpfs, ['ro']),
      { destination: '/w/deep/er', type: 'tmpfs' },
      // What was brought along.
      { destination: '/w/tree', ...tree },
      { destination: '/w/tree/sub', options: ['remount', 'bind', 'rw', 'shared'] },
      // What is said of all that a bind brings along stays, whatever is said of the bind itself.
      ...['closed-rw', 'closed-ro', 'opened'].flatMap((name) => [
        { destination: `/w/${name}`, source: join(directory, 'open'), options: ['rbind', 'rro'] },
        { destination: `/w/${name}/made`, type: 'tmpfs' },
      ]),
      { destination: '/w/closed-rw', options: ['remount', 'bind', 'rw'] },
      { destination: '/w/closed-ro', options: ['remount', 'ro'] },
      { destination: '/w/opened', options: ['remount', 'bind', 'rrw'] },
      // The second is remounted, and the first one under it stays what it was to be.
      { destination: '/w/twice', type: 'tmpfs', options: ['ro'] },
      { destination: '/w/twice', type: 'tmpfs' },
      { destination: '/w/twice', options: ['remount', 'rw', 'nosuid'] },
      { destination: '/', options: ['remount', 'nosuid'] },
    ])
    job.calls.unshift(['symlink', '/w', '/led'])
    const table = tableOf(t, await runInCell(asRoot, job, host, { level, setup: sources(directory) }))
    const found = (name: string): string[] => flagsOf(at(t, table, `/w/${name}`))
    const superblock = (name: string): string[] => at(t, table, `/w/${name}`).superOptions
    t.deepEqual(found('new-ro'), ['nosuid', 'relatime', 'ro'])
    for (const word of ['ro', 'sync', 'size=64k']) t.true(superblock('new-ro').includes(word), word)
    t.deepEqual(found('new-bind-ro'), ['relatime', 'ro'])
    t.true(superblock('new-bind-ro').includes('rw'))
    t.deepEqual(found('ro-rw'), ['relatime', 'rw'])
    t.true(superblock('ro-rw').includes('rw'))
    t.deepEqual(found('ro-bind-rw'), ['relatime', 'rw'])
    t.true(superblock('ro-bind-rw').includes('ro'))
    t.deepEqual(found('linked'), ['relatime', 'rw'])
    t.true(superblock('linked').includes('rw'))
    for (const [name, flags] of Object.entries({ 'closed-rw': 'rw', 'closed-ro': 'ro', opened: 'rw' })) {
      t.true(found(name).includes(flags), name)
      t.true(found(`${name}/sub`).includes(name === 'opened' ? 'rw' : 'ro'), `${name}/sub`)
      t.true(found(`${name}/made`).includes('rw'), `${name}/made`)
    }
    const twice = table.filter(({ destination }) => destination === '/w/twice').map(flagsOf)
    t.deepEqual(twice.toSorted(), [
      ['nosuid', 'relatime', 'rw'],
      ['relatime', 'ro'],
    ])
    const kept = (...gone: Flag[]): Flag[] => strict.flags.filter((flag) => !gone.includes(flag))
    t.deepEqual(found('bind'), shown({ flags: kept('ro', 'nosuid'), atime: 'relatime' }))
    t.deepEqual(found('bind-alone'), shown({ flags: kept('nodev'), atime: 'noatime' }))
    for (const word of ['lazytime', 'sync']) t.true(superblock('iversion').includes(word), word)
    t.deepEqual(found('deep'), ['relatime', 'ro'])
    t.true(superblock('deep').includes('ro'))
    t.deepEqual(found('deep/er'), ['relatime', 'rw'])
    t.deepEqual(found('tree/sub'), shown({ flags: kept('ro'), atime: 'noatime' }))
    t.deepEqual(propagationOf(at(t, table, '/w/tree/sub')), ['shared'])
    t.true(found('tree').includes('rw'))
    t.deepEqual(flagsOf(at(t, table, '/')), ['nosuid', 'relatime', 'rw'])
  })
}

for (const [cell, level] of [asRoot, inUserNamespace, withoutPrivileges].flatMap((one) =>
  levels.map((level) => [one, level] as const),
)) {
  testNeeding([...cell.needs, 'busybox'], level)(
    `what is said of a mount holds also where it is put on a shared one, ${cell.name}, ${level}`,
    async (t) => {
      const directory = host.scratch('sources')
      const peer = { source: join(directory, 'peer') }
      const tree = { source: join(directory, 'bare') }
      const tmpfs = { type: 'tmpfs' }
      const rows: Array<[name: string, mount: Record<string, unknown>, options: string[], found: string[]]> =
        [
          ['new', tmpfs, [], ['shared']],
          ['new-private', tmpfs, ['private'], []],
          ['new-slave', tmpfs, ['slave'], []],
          ['new-unbindable', tmpfs, ['unbindable'], ['unbindable']],
          ['new-shared', tmpfs, ['private', 'shared'], ['shared']],
          ['proc', { type: 'proc' }, ['private'], []],
          ['bind', peer, ['bind'], ['master', 'shared']],
          ['bind-private', peer, ['bind', 'private'], []],
          ['bind-slave', peer, ['bind', 'slave'], ['master']],
          ['bind-unbindable', peer, ['bind', 'unbindable'], ['unbindable']],
          ['tree-private', tree, ['rbind', 'rprivate'], []],
          ['tree-private/sub', {}, [], []],
          ['tree-unbindable', tree, ['rbind', 'runbindable'], ['unbindable']],
        ]
      const mounts = rows.filter(([, mount]) => mount.type !== undefined || mount.source !== undefined)
      const shared = { destination: '/w', type: 'tmpfs', options: ['shared'] }
      const job = describe([
        shared,
        ...mounts.map(([name, mount, options]) => ({ destination: `/w/${name}`, ...mount, options })),
      ])
      const table = tableOf(t, await runInCell(cell, job, host, { level, setup: sources(directory) }))
      for (const [name, , , found] of rows)
        t.deepEqual(propagationOf(at(t, table, `/w/${name}`)).toSorted(), found, name)
    },
  )
}

for (const [cell, level] of [inUserNamespace, withoutPrivileges].flatMap((one) =>
  levels.map((level) => [one, level] as const),
)) {
  testNeeding([...cell.needs, 'busybox'], level)(
    `remount changes what is the container's own, ${cell.name}, ${level}`,
    async (t) => {
      const directory = host.scratch('sources')
      const remounted = (destination: string, mount: Record<string, unknown>, options: string[]) => [
        { destination, ...mount },
        { destination, options: ['remount', ...options] },
      ]
      const tmpfs = { type: 'tmpfs' }
      const bind = { source: join(directory, 'plain'), options: ['bind'] }
      const job = describe([
        ...remounted('/w/ro', tmpfs, ['ro', 'nosuid', 'sync', 'size=64k']),
        ...remounted('/w/bind-ro', tmpfs, ['bind', 'ro', 'noatime']),
        ...remounted('/w/rw', { ...tmpfs, options: ['ro', 'nodev'] }, ['rw']),
        ...remounted('/w/iversion', { ...tmpfs, options: ['sync'] }, ['iversion', 'lazytime']),
        ...remounted('/w/plain', bind, ['bind', 'ro', 'nosuid', 'shared']),
      ])
      const setup = sources(directory)
      const table = tableOf(t, await runInCell(cell, job, host, { level, setup }))
      const rows: Array<[destination: string, flags: string[], superblock: string[]]> = [
        ['/w/ro', ['nosuid', 'relatime', 'ro'], ['ro', 'sync', 'size=64k']],
        ['/w/bind-ro', ['noatime', 'ro'], ['rw']],
        ['/w/rw', ['nodev', 'relatime', 'rw'], ['rw']],
        ['/w/iversion', ['relatime', 'rw'], ['lazytime', 'sync']],
        ['/w/plain', ['nosuid', 'relatime', 'ro'], ['rw']],
      ]
      for (const [destination, flags, superblock] of rows) {
        const mount = at(t, table, destination)
        t.deepEqual(flagsOf(mount), flags, destination)
        for (const option of superblock)
          t.true(mount.superOptions.includes(option), `${destination}: ${option}`)
      }
      t.true(propagationOf(at(t, table, '/w/plain')).includes('shared'))
    },
  )
}

testNeeding([...asRoot.needs, 'busybox'])('what remount and the words for links refuse', async (t) => {
  const directory = host.scratch('sources')
  const setup = sources(directory)
  const source = join(directory, 'bare')
  const rows: Array<[mounts: Array<Record<string, unknown>>, code: string, words: RegExp]> = [
    [
      [{ destination: '/w', type: 'tmpfs', options: ['nosuid', 'no-such=1'] }],
      'ERR_ROOTFS_MOUNT',
      /"no-such=1" is refused.*Unknown parameter/s,
    ],
    [[{ destination: '/no', options: ['remount', 'ro'] }], 'ERR_ROOTFS_MOUNT', /nothing is mounted there/],
    [
      [
        { destination: '/w', type: 'tmpfs' },
        { destination: '/marker', options: ['remount', 'ro'] },
      ],
      'none',
      /./,
    ],
    [
      [
        { destination: '/w', source, options: ['bind'] },
        { destination: '/w', options: ['remount', 'size=1m'] },
      ],
      'ERR_ROOTFS_SPEC',
      /"size" would change a filesystem of the host/,
    ],
    [
      [
        { destination: '/w', type: 'tmpfs' },
        { destination: '/w', options: ['remount', 'no-such-option=1'] },
      ],
      'ERR_ROOTFS_MOUNT',
      /"no-such-option" is refused.*Unknown parameter/s,
    ],
    [
      [
        { destination: '/w', type: 'tmpfs' },
        { destination: '/w', options: ['remount', 'dirsync'] },
      ],
      'ERR_ROOTFS_MOUNT',
      /only a new filesystem can be given dirsync/,
    ],
    [
      [{ destination: '/w', type: 'bind', source, options: ['ro'] }],
      'ERR_INVALID_ARG_VALUE',
      /"bind" or "rbind"/,
    ],
    ...['proc', 'sysfs', 'devpts'].map((type): [Array<Record<string, unknown>>, string, RegExp] => [
      [{ destination: '/w', type, options: ['dest-nofollow'] }],
      'ERR_INVALID_ARG_VALUE',
      new RegExp(`"dest-nofollow" can't be given to a ${type}`),
    ]),
    [
      [{ destination: '/w', type: 'tmpfs', options: ['src-nofollow'] }],
      'ERR_INVALID_ARG_VALUE',
      /"src-nofollow" can't/,
    ],
    [
      [{ destination: '/w', type: 'tmpfs', options: ['copy-symlink'] }],
      'ERR_INVALID_ARG_VALUE',
      /"copy-symlink" can't/,
    ],
  ]
  const jobs = rows.map(([mounts]) => describe(mounts))
  const outcomes = await runAllInCell(asRoot, jobs, host, { setup })
  for (const [index, [mounts, code, words]] of rows.entries()) {
    const { error } = outcomes[index]!
    t.is(error?.code ?? 'none', code, JSON.stringify(mounts))
    if (error !== undefined)
      t.regex(`${error.message} ${error.hint} ${JSON.stringify(error.kernelLog ?? '')}`, words)
  }
})

test('words that a bind has no use for are plan warnings, one for each', (t) => {
  const words = ['sync', 'lazytime', 'iversion', 'mode=755', 'no-such']
  for (const options of [
    ['bind', ...words],
    ['bind', 'remount', ...words],
  ]) {
    const { warnings } = new Rootfs('/srv').mount({ destination: '/w', source: '/srv', options }).plan()
    t.deepEqual(
      warnings.map(({ code, message }) => [code, message]),
      words.map((word) => ['unknown-bind-option', `"${word}" has no effect on the mount on /w`]),
    )
  }
})

// ---------------------------------------------------------------- symbolic links

for (const [cell, level] of [asRoot, inUserNamespace, withoutPrivileges].flatMap((one) =>
  levels.map((level) => [one, level] as const),
)) {
  testNeeding([...cell.needs, 'busybox'], level)(
    `words for symbolic links, ${cell.name}, ${level}`,
    async (t) => {
      const directory = host.scratch('links')
      writeFileSync(join(directory, 'target'), 'target\n')
      symlinkSync('target', join(directory, 'link'))
      symlinkSync('/nowhere', join(directory, 'dangling'))
      const bind = (destination: string, name: string, ...words: string[]) => ({
        destination,
        source: join(directory, name),
        options: ['bind', ...words],
      })
      const job = describe(
        [],
        [
          ['symlink', '/led/to', '/w/link'],
          ['mount', bind('/w/followed', 'link')],
          ['mount', bind('/w/copied', 'link', 'copy-symlink')],
          ['mount', bind('/w/no-link', 'target', 'copy-symlink')],
          ['mount', bind('/w/itself', 'dangling', 'src-nofollow')],
          ['mount', bind('/w/link', 'target', 'dest-nofollow')],
          ['mount', { ...bind('/w/own', '', 'copy-symlink'), source: join(directory, 'dangling') }],
        ],
      )
      job.commands.push(
        { command: program, args: ['readlink', '/w/copied'] },
        { command: program, args: ['readlink', '/w/itself'] },
        { command: program, args: ['readlink', '/w/own'] },
        { command: program, args: ['cat', '/w/followed', '/w/no-link', '/w/link'] },
        { command: program, args: ['ls', '/led'] },
      )
      const outcome = await runInCell(cell, job, host, { level })
      const table = tableOf(t, outcome)
      const [, copied, itself, own, contents, led] = outcome.results
      t.is(copied!.stdout, 'target\n')
      t.is(itself!.stdout, '/nowhere\n')
      t.is(own!.stdout, '/nowhere\n')
      t.is(contents!.stdout, 'target\n'.repeat(3))
      t.not(led!.exitCode, 0, 'the link that was mounted on was not followed')
      t.false(table.some((mount) => mount.destination === '/w/copied'))
      t.true(at(t, table, '/w/itself').root.endsWith('/dangling'))
      t.true(at(t, table, '/w/link').root.endsWith('/target'))
    },
  )
}

// ---------------------------------------------------------------- locked flags

testNeeding([...withoutPrivileges.needs, 'busybox'])(
  'flags of the host are locked in a user namespace',
  async (t) => {
    const directory = host.scratch('sources')
    const setup = sources(directory)
    const followed = { ...strict, flags: strict.flags.filter((flag) => flag !== 'nosymfollow') }
    const rows: Array<[source: string, words: string[], found: string[] | 'locked']> = [
      ['strict', [], shown(strict)],
      // What is not asked to go stays, but for the one flag that is never locked.
      ['strict', ['nosuid'], shown(followed)],
      ['strict', ['noatime'], shown(followed)],
      ['bare', ['ro', 'nosuid'], ['nosuid', 'relatime', 'ro']],
      ['bare', ['relatime'], ['relatime', 'rw']],
      ['strict', ['symfollow'], shown(followed)],
      ...[
        'rw',
        'suid',
        'dev',
        'exec',
        'relatime',
        'strictatime',
        'diratime',
        'rrw',
        'rsuid',
        'rrelatime',
      ].map((word): [string, string[], 'locked'] => ['strict', [word], 'locked']),
      ['bare', ['noatime'], 'locked'],
      ['bare', ['nodiratime'], 'locked'],
    ]
    const mountFor = ([source, words]: (typeof rows)[number], index: number) => ({
      destination: `/w/${index}`,
      source: join(directory, source),
      options: ['rbind', ...words],
    })
    const fine = rows.filter(([, , found]) => found !== 'locked')
    const table = tableOf(
      t,
      await runInCell(withoutPrivileges, describe(fine.map(mountFor)), host, { setup }),
    )
    for (const [index, row] of fine.entries())
      t.deepEqual(flagsOf(at(t, table, `/w/${index}`)), row[2] as string[], row.flat().join(' '))
    const locked = rows.filter(([, , found]) => found === 'locked')
    const jobs = locked.map((row) => describe([mountFor(row, 0)]))
    const outcomes = await runAllInCell(withoutPrivileges, jobs, host, { setup })
    for (const [index, row] of locked.entries()) {
      const { error } = outcomes[index]!
      t.is(error?.code, 'ERR_ROOTFS_LOCKED', `${row.flat().join(' ')}: ${error?.message}`)
    }
  },
)

// ---------------------------------------------------------------- what is below, and whose filesystem it is

for (const level of levels) {
  const title = `a word for the mount alone leaves no peers of the host below it, ${level}`
  testNeeding([...asRoot.needs, 'busybox'], level)(title, async (t) => {
    const directory = host.scratch('sources')
    const setup = `
      ${sources(directory)}
      mkdir ${directory}/peer/sub
      mount -t tmpfs -o mode=755 below ${directory}/peer/sub
    `
    const rows: Array<[options: string[], own: string[], below: string[]]> = [
      [[], ['master'], ['master']],
      [['private'], [], ['master']],
      [['slave'], ['master'], ['master']],
      [['unbindable'], ['unbindable'], ['master']],
      [['private', 'shared'], ['shared'], ['master']],
      [['private', 'rslave'], [], ['master']],
      [['rprivate'], [], []],
      // Asked for: with the source itself, and all of it.
      [['shared'], ['shared'], ['shared']],
      [['rshared'], ['shared'], ['shared']],
    ]
    const mounts = rows.map(([options], place) => ({
      destination: `/w/${place}`,
      source: join(directory, 'peer'),
      options: ['rbind', ...options],
    }))
    const table = tableOf(t, await runInCell(asRoot, describe(mounts), host, { level, setup }))
    for (const [place, [options, own, below]] of rows.entries()) {
      t.deepEqual(propagationOf(at(t, table, `/w/${place}`)), own, options.join())
      t.deepEqual(propagationOf(at(t, table, `/w/${place}/sub`)), below, `${options.join()}, below`)
    }
  })

  testNeeding([...asRoot.needs, 'busybox'], level)(
    `ro is also the filesystem's where that is the container's own, ${level}`,
    async (t) => {
      const types = ['tmpfs', 'proc', 'devpts', 'sysfs', 'mqueue']
      const own = ['tmpfs', 'proc', 'devpts']
      const mounts = types.map((type) => ({ destination: `/w/${type}`, type, options: ['ro'] }))
      const run = async (more: Job['calls'] = []): Promise<MountLine[]> =>
        tableOf(t, await runInCell(asRoot, describe(mounts, more), host, { level }))
      const table = await run()
      for (const type of types) {
        const mount = at(t, table, `/w/${type}`)
        t.true(mount.options.includes('ro'), type)
        t.is(mount.superOptions.includes('ro'), own.includes(type), `the filesystem of ${type}`)
      }
      // All procs of the caller's pid namespace may be one.
      const shared = await run([['namespaces', { pid: false }]])
      t.true(at(t, shared, '/w/proc').options.includes('ro'))
      t.false(at(t, shared, '/w/proc').superOptions.includes('ro'))
    },
  )

  testNeeding([...asRoot.needs, 'busybox'], level)(`iversion is accepted, ${level}`, async (t) => {
    const words = [['iversion'], ['noiversion'], ['iversion', 'sync', 'lazytime'], ['iversion', 'ro']]
    const mounts = words.map((options, place) => ({ destination: `/w/${place}`, type: 'tmpfs', options }))
    const table = tableOf(t, await runInCell(asRoot, describe(mounts), host, { level }))
    const options = words.map((_, place) => at(t, table, `/w/${place}`).superOptions)
    for (const word of ['sync', 'lazytime']) t.true(options[2]!.includes(word), word)
    t.true(options[3]!.includes('ro'))
  })
}
