// Our containers' mount tables beside those of Debian's runc and crun, for OCI configurations that are generated from the
// tables of the documentation. What differs has a row in docs/comparison.md, and each row there differs.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, statfsSync } from 'node:fs'
import { basename, join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import {
  compareTables,
  type Difference,
  isNamedBy,
  type NamedDifference,
  namedDifferences,
  unnamed,
  unused,
} from './support/comparison.ts'
import { type Configuration, configurations, makeBundle, sharedSources } from './support/configurations.ts'
import { guardHost } from './support/host.ts'
import { checkout } from './support/images.ts'
import { type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { findProgram, mustRun } from './support/program.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'
import type { Answer, Round, Runtime } from './support/side-by-side.ts'

const host = guardHost(test)

/** /sys/fs/cgroup as a host with cgroup v2 alone has it. */
const CGROUP2_MAGIC = 0x63677270
const onlyCgroup2 = (): string =>
  statfsSync('/sys/fs/cgroup').type === CGROUP2_MAGIC
    ? ''
    : 'umount --recursive --lazy /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup'

type Table = { table: MountLine[] } | { refusal: string }

/** Paths of the bundle are the runtime's own; those of what all share have no more of the machine in them. */
function read(answer: Answer, bundle: string, shared: string): Table {
  const plain = (text: string): string =>
    text
      .replaceAll(new RegExp(`[^,:= "\`]*/${basename(bundle)}(?![\\w-])`, 'g'), 'BUNDLE')
      .replaceAll(shared, 'SHARED')
  if ('refusal' in answer) return { refusal: plain(answer.refusal) }
  const table = parseMountinfo(answer.stdout).map((line) => ({
    ...line,
    root: plain(line.root),
    destination: plain(line.destination),
    superOptions: line.superOptions.map(plain),
  }))
  return { table }
}

let rounds = 0

/** All configurations with one runtime, each in a bundle of its own, in a private mount namespace. */
async function runAll(list: Configuration[], runtime: Runtime, level?: Level): Promise<Table[]> {
  const directory = host.scratch(`${runtime}-${rounds++}`)
  const [busybox, shared, state] = ['busybox', 'shared', 'state'].map((name) => join(directory, name))
  copyFileSync(findProgram('busybox')!, busybox!)
  // Whatever mode the host's has.
  chmodSync(busybox!, 0o755)
  mkdirSync(state!)
  const bundles = list.map((configuration, place) => {
    const bundle = join(directory, `${basename(directory)}-${place}`)
    mkdirSync(bundle)
    makeBundle(configuration, { bundle, root: join(bundle, 'rootfs'), shared: shared! }, busybox!)
    return bundle
  })
  const program = join(checkout, '__test__', 'support', 'side-by-side.ts')
  const script = `${onlyCgroup2()}\n${sharedSources(shared!)}\nexec "$@"`
  const node = [process.execPath, '--import=@oxc-node/core/register', program]
  const args = ['--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', ...node]
  const round: Round = { runtime, bundles, state: state! }
  const env = { PATH: process.env.PATH, ...(level === undefined ? {} : { ROOTFS_TEST_LEVEL: level }) }
  const options = { input: JSON.stringify(round), cwd: checkout, env, timeout: 240_000 }
  const answers = JSON.parse(await mustRun('unshare', args, options)) as Answer[]
  return answers.map((answer, place) => read(answer, bundles[place]!, shared!))
}

/** What both refuse is the same. */
function compare(theirs: Table, ours: Table, peer: string): string[] {
  if ('table' in theirs && 'table' in ours) return compareTables(theirs.table, ours.table, peer)
  if ('refusal' in theirs && 'refusal' in ours) return []
  if ('refusal' in theirs) return [`refused by ${peer}: ${theirs.refusal.split('\n').at(-1)}`]
  return [`refused by rootfs: ${(ours as { refusal: string }).refusal}`]
}

const peers = ['runc', 'crun'] as const
/** Those of Debian 12: what others do differently is another table. */
const versions: Record<(typeof peers)[number], RegExp> = {
  runc: /version 1\.1\.5/,
  crun: /version 1\.8\.1\n/,
}
const NEEDS = ['root', 'busybox', 'runc', 'crun', 'unshare'] as const

/** Why these are not the peers that the document is about, or undefined. */
function otherPeers(): string | undefined {
  const others = peers.filter((peer) => {
    const program = findProgram(peer)
    return (
      program !== undefined &&
      !versions[peer].test(execFileSync(program, ['--version'], { encoding: 'utf8' }))
    )
  })
  return others.length === 0 ? undefined : `${others.join(' and ')} of Debian 12 needed`
}

const list = configurations()
let best: Promise<Table[]> | undefined
const ours = (): Promise<Table[]> => {
  best ??= runAll(list, 'rootfs')
  return best
}

/** Every difference is named, and every name is of one. */
function checkDifferences(t: ExecutionContext, differences: Difference[], named: NamedDifference[]): void {
  for (const row of named) {
    const count = differences.filter((difference) => isNamedBy(difference, row)).length
    t.log(`${row.name}: ${count} lines`)
  }
  t.deepEqual(unnamed(differences, named), [], 'differences that are not named')
  t.deepEqual(unused(differences, named), [], 'what is named and is not there')
}

test('each configuration has a name of its own', (t) => {
  t.true(list.length >= 60)
  t.deepEqual(
    [...new Set(list.map(({ name }) => name))],
    list.map(({ name }) => name),
  )
})

const peerTitle = 'the mount tables are those of runc and crun, but for the named differences'
const other = otherPeers()
if (other !== undefined) test.skip(`${peerTitle} (skipped: ${other})`, () => {})
else {
  testNeeding(NEEDS)(peerTitle, async (t) => {
    t.timeout(300_000)
    // The peers at the same time: neither has use for more than one processor.
    const [mine, ...theirs] = await Promise.all([ours(), ...peers.map((peer) => runAll(list, peer))])
    const differences = peers.flatMap((peer, at) =>
      list.flatMap(({ name: configuration }, place) =>
        compare(theirs[at]![place]!, mine[place]!, peer).map((line) => ({ peer, configuration, line })),
      ),
    )
    const accepted = [mine, ...theirs].map((tables) => tables.filter((one) => 'table' in one).length)
    t.log(`${list.length} configurations, ${accepted.join(', ')} of them run by rootfs, ${peers.join(', ')}`)
    checkDifferences(t, differences, namedDifferences())
  })
}

/** What the levels below the best one do differently. */
const ofLevels: NamedDifference[] = [
  {
    name: 'nothing can be assembled detached',
    peers: ['attached', 'classic'],
    configurations: ['without mount'],
    lines: ['refused by rootfs: ERR_ROOTFS_UNSUPPORTED *'],
    why: 'docs/kernels.md',
  },
  {
    name: 'mount(2) takes paths',
    peers: ['classic'],
    configurations: ['overlay*', 'user namespace: overlay', 'destination / of an overlay'],
    lines: ['* superblock: *lowerdir+=BUNDLE/* -> *lowerdir=proc/self/fd/*'],
    why: 'the names are those that the process has for its descriptors',
  },
  {
    name: 'mount(2) changes flags only inside of the user namespace, where they are locked',
    peers: ['classic'],
    configurations: ['user namespace: flagged *'],
    lines: [
      'refused by rootfs: ERR_ROOTFS_LOCKED *',
      '/m flags: noatime,ro -> noatime,nodev,noexec,nosuid,ro',
    ],
    why: 'docs/options.md',
  },
]

for (const level of levels.slice(1)) {
  testNeeding(['root', 'busybox', 'runc', 'crun', 'unshare'], level)(
    `the mount tables at level ${level} are those at the best one, but for the named differences`,
    async (t) => {
      t.timeout(300_000)
      const [mine, there] = [await ours(), await runAll(list, 'rootfs', level)]
      const differences = list.flatMap(({ name: configuration }, place) =>
        compare(mine[place]!, there[place]!, level).map((line) => ({ peer: level, configuration, line })),
      )
      const named = ofLevels.filter(({ peers }) => peers.includes(level))
      checkDifferences(
        t,
        differences,
        named.map((row) => ({ ...row, peers: [level] })),
      )
    },
  )
}

// The comparison is only worth something if it notices: here it is given tables that differ.

const line = (text: string): MountLine => parseMountinfo(text)[0]!
const proc = line('30 20 0:40 / /proc rw,relatime - proc proc rw')
const sys = line('31 20 0:41 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro')

test('the comparison sees a missing, an additional and a different line, and what is on what', (t) => {
  t.deepEqual(compareTables([proc, sys], [sys, proc]), [])
  t.deepEqual(compareTables([proc, sys], [proc]), ['/sys: only sysfs in runc'])
  t.deepEqual(compareTables([proc], [proc, sys], 'crun'), ['/sys: only sysfs in rootfs'])
  t.deepEqual(compareTables([sys], [{ ...sys, options: ['rw', 'relatime'] }]), [
    '/sys flags: nodev,noexec,nosuid,relatime,ro -> relatime,rw',
  ])
  t.deepEqual(compareTables([sys], [{ ...sys, superOptions: ['rw'] }]), ['/sys superblock: ro -> rw'])
  t.deepEqual(compareTables([sys], [{ ...sys, propagation: ['shared:7', 'master:2'] }]), [
    '/sys propagation: private -> master shared',
  ])
  t.deepEqual(
    compareTables([{ ...sys, propagation: ['shared:1'] }], [{ ...sys, propagation: ['shared:7'] }]),
    [],
  )
  const [below, above] = [proc, { ...proc, id: 32, parentId: 30, source: 'above' }]
  t.deepEqual(compareTables([below, above], [above, below]), [])
  t.deepEqual(compareTables([below, above], [below]), ['/proc (2): only proc in runc'])
  const inside = { ...sys, destination: '/proc/x' }
  t.deepEqual(compareTables([proc, { ...inside, parentId: 30 }], [proc, inside]), [
    '/proc/x on: /proc -> nothing',
  ])
})

test('the list of named differences is read from its table', (t) => {
  const document = [
    '# Comparison',
    '| not | this | table |',
    '## Mount table differences',
    '| name | with | configurations | line | why |',
    '| --- | --- | --- | --- | --- |',
    '| masks | runc, crun | `runc spec`<br>`masked *` | `/proc/* superblock: ro -> *`<br>`/sys/firmware superblock: ro → *` | one tmpfs \\| shared |',
    '## Next',
    '| nor | this | one |',
  ].join('\n')
  const named = namedDifferences(document)
  const expected: NamedDifference = {
    name: 'masks',
    peers: ['runc', 'crun'],
    configurations: ['runc spec', 'masked *'],
    lines: ['/proc/* superblock: ro -> *', '/sys/firmware superblock: ro -> *'],
    why: 'one tmpfs | shared',
  }
  t.deepEqual(named, [expected])
  const is = (peer: string, configuration: string, text: string): boolean =>
    isNamedBy({ peer, configuration, line: text }, expected)
  t.true(is('runc', 'runc spec', '/proc/acpi superblock: ro -> nr_inodes=1,ro'))
  t.true(is('crun', 'masked file', '/sys/firmware superblock: ro -> ro,x'))
  t.false(is('crun', 'crun spec', '/sys/firmware superblock: ro -> ro,x'))
  t.false(is('youki', 'runc spec', '/sys/firmware superblock: ro -> ro,x'))
  t.false(is('runc', 'runc spec', '/sys superblock: ro -> rw'))
  t.false(is('runc', 'runc spec', '/proc/acpi flags: ro -> rw'))
  const difference = { peer: 'runc', configuration: 'runc spec', line: '/proc/acpi superblock: ro -> x' }
  t.deepEqual(unnamed([difference, { ...difference, peer: 'x' }], named), [
    'x, runc spec: /proc/acpi superblock: ro -> x',
  ])
  t.deepEqual(unused([difference], named), [
    'masks: crun',
    'masks: masked *',
    'masks: /sys/firmware superblock: ro -> *',
  ])
})
