// Our container's mount table beside that of Debian's runc, for the configuration that `runc spec` writes.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { cells, runInCell } from './support/cells.ts'
import { compareTables, type Difference, namedDifferences, unnamed } from './support/comparison.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { mustRun } from './support/program.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** What of a config.json is used here. */
interface Config {
  process: { terminal: boolean; args: string[] }
  root: { path: string; readonly: boolean }
  hostname: string
  mounts: Array<{ destination: string; type: string; source: string; options?: string[] }>
  linux: { namespaces: Array<{ type: string }>; maskedPaths: string[]; readonlyPaths: string[] }
}

/**
 * /sys/fs/cgroup as a host with cgroup v2 alone has it, in a private mount namespace. runc switches controllers on at
 * the top of the hierarchy, which is the machine's: what it switched on is switched off again.
 */
const onlyCgroup2 = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup'
const runRunc = `
  bundle=$1 state=$2 id=$3 top=/sys/fs/cgroup/cgroup.subtree_control
  before=" $(cat $top) "
  status=0
  runc --root "$state" run --bundle "$bundle" "$id" || status=$?
  for controller in $(cat $top); do
    case $before in *" $controller "*) ;; *) echo "-$controller" > $top || true ;; esac
  done
  exit $status
`

interface Bundle {
  directory: string
  config: Config
}

const inCgroup2 = (script: string, ...args: string[]): Promise<string> =>
  mustRun('unshare', [
    '--mount',
    '--propagation',
    'private',
    'sh',
    '-ec',
    `${onlyCgroup2}\n${script}`,
    'sh',
    ...args,
  ])

async function makeBundle(): Promise<Bundle> {
  const directory = host.scratch('bundle')
  await busyboxImage(join(directory, 'rootfs'))
  // Written inside, since runc asks for a cgroup namespace only on a host with cgroup v2.
  await inCgroup2('cd "$1" && runc spec', directory)
  const path = join(directory, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Config
  config.process.terminal = false
  config.process.args = ['/bin/cat', '/proc/self/mountinfo']
  writeFileSync(path, JSON.stringify(config))
  return { directory, config }
}

async function runcTable({ directory }: Bundle): Promise<MountLine[]> {
  const state = host.scratch('runc')
  return parseMountinfo(await inCgroup2(runRunc, directory, state, `rootfs-test-${process.pid}`))
}

/** The same configuration in builder calls. */
function builderCalls(config: Config, mounts: Job['calls']): Job['calls'] {
  const has = (type: string): boolean => config.linux.namespaces.some((namespace) => namespace.type === type)
  return [
    ...mounts,
    ...(config.root.readonly ? ([['readonly']] as Job['calls']) : []),
    ['hostname', config.hostname],
    ['namespaces', { network: has('network'), cgroup: has('cgroup') }],
  ]
}

const throughDefaults = (): Job['calls'] => [['defaults']]

/** The mounts in /dev, its nodes and links come together: `dev()`. */
const throughMounts = (config: Config): Job['calls'] => [
  ...config.mounts
    .filter(({ destination }) => !destination.startsWith('/dev/'))
    .map((mount): Job['calls'][number] => (mount.destination === '/dev' ? ['dev'] : ['mount', mount])),
  ['mask', config.linux.maskedPaths],
  ['readonlyPaths', config.linux.readonlyPaths],
]

/** The config itself, and the process that is in it. */
const throughBundle = ({ directory }: Bundle): Job => ({
  root: { bundle: directory },
  calls: [],
  mode: 'run',
  commands: [{}],
})

const throughBuilder =
  (mounts: (config: Config) => Job['calls']) =>
  ({ directory, config }: Bundle): Job => {
    const [command, ...args] = config.process.args
    return {
      root: join(directory, config.root.path),
      calls: builderCalls(config, mounts(config)),
      mode: 'run',
      commands: [{ command: command!, args }],
    }
  }

async function ourTable(job: Job, level: Level): Promise<MountLine[]> {
  const [root] = cells
  const outcome = await runInCell(root!, job, host, { level, setup: onlyCgroup2 })
  if (outcome.error !== undefined) throw new Error(JSON.stringify(outcome.error, undefined, 2))
  const [result] = outcome.results
  if (result?.exitCode !== 0) throw new Error(`the command ended with ${JSON.stringify(result)}`)
  return parseMountinfo(result.stdout)
}

const NEEDS = ['root', 'busybox', 'runc', 'unshare'] as const
const testHere = testNeeding(NEEDS)

for (const level of levels) {
  for (const [name, makeJob] of [
    ['defaults()', throughBuilder(throughDefaults)],
    ['mount() for each of its mounts, dev()', throughBuilder(throughMounts)],
    ['fromBundle()', throughBundle],
  ] as const) {
    const title = `${name}, ${level}: the mount table is runc's, but for the named differences`
    testNeeding(NEEDS, level)(title, async (t) => {
      const bundle = await makeBundle()
      const before = snapshotTree(join(bundle.directory, 'rootfs'))
      const theirs = await runcTable(bundle)
      const ours = await ourTable(makeJob(bundle), level)
      t.true(theirs.length > 10, 'runc gave a table')
      t.deepEqual(snapshotTree(join(bundle.directory, 'rootfs')), before)

      const differences = compareTables(theirs, ours).map(
        (line): Difference => ({ peer: 'runc', configuration: 'runc spec', line }),
      )
      for (const { line } of differences) t.log(line)
      t.deepEqual(unnamed(differences, namedDifferences()), [], 'not named in docs/comparison.md')
    })
  }
}

testHere('two tables of runc itself do not differ', async (t) => {
  const bundle = await makeBundle()
  t.deepEqual(compareTables(await runcTable(bundle), await runcTable(bundle)), [])
})
