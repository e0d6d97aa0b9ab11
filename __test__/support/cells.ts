// The cells: with which ids and namespaces a container is made. Each runs the driver in a process of its own.
import { chmodSync, cpSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { HostSupport } from 'rootfs'
import { compiled, compiledDriver } from './compiled.ts'
import type { Host } from './host.ts'
import { checkout, type Owner } from './images.ts'
import type { Job, Outcome } from './job.ts'
import { mustRun, runProgram } from './program.ts'
import type { Level, Need } from './requirements.ts'
import { type Refused, withoutCalls } from './without.ts'

/** The ordinary user of the unprivileged cells. */
export const nobody = 65534
/** The first host id of the ranges. */
export const shift = 100_000
const range = 65_536
/** Where the ordinary user's subordinate ids start. */
export const subordinate = 300_000

export interface Cell {
  name: string
  needs: Need[]
  /** The ids that the driver runs with. */
  uid: number
  /** Who has to own the image, so that container root does. */
  owner: Owner
  /** What is given to `namespaces`. */
  namespaces: Record<string, unknown>
  /** /proc/self/uid_map and gid_map as they must be; undefined is the host's. */
  map?: string[]
  /** The host's owner of what container root writes. */
  writesAs: number
  /** Shell commands run as root, in a private mount namespace, before the driver starts. */
  setup?: string
}

const ranges = [{ containerId: 0, hostId: shift, size: range }]
const ownAndSubordinate = [
  { containerId: 0, hostId: nobody, size: 1 },
  { containerId: 1, hostId: subordinate, size: range - 1 },
]

/** The user of the unprivileged cells is given subordinate ids for this one process tree, not on the machine. */
const grantSubordinateIds = `
  table=$(mktemp)
  echo '${nobody}:${subordinate}:${range}' > "$table"
  chmod 644 "$table"
  for file in /etc/subuid /etc/subgid; do mount --bind "$table" $file; done
  rm "$table"
`

const asRoot: Need[] = ['root', 'unshare']
const unprivileged: Need[] = [...asRoot, 'setpriv']

export const cells: Cell[] = [
  { name: 'root', needs: asRoot, uid: 0, owner: { uid: 0 }, namespaces: {}, writesAs: 0 },
  {
    name: 'root with its own id in a user namespace',
    needs: asRoot,
    uid: 0,
    owner: { uid: 0 },
    namespaces: { user: true },
    map: ['0 0 1'],
    writesAs: 0,
  },
  {
    name: 'root with ranges in a user namespace',
    needs: asRoot,
    uid: 0,
    owner: { shift },
    namespaces: { user: { uids: ranges, gids: ranges } },
    map: [`0 ${shift} ${range}`],
    writesAs: shift,
  },
  {
    name: 'unprivileged',
    needs: unprivileged,
    uid: nobody,
    owner: { uid: nobody },
    namespaces: {},
    map: [`0 ${nobody} 1`],
    writesAs: nobody,
  },
  {
    name: 'unprivileged with subordinate ids',
    needs: [...unprivileged, 'newuidmap', 'newgidmap'],
    uid: nobody,
    owner: { uid: nobody },
    namespaces: { user: { uids: ownAndSubordinate, gids: ownAndSubordinate } },
    map: [`0 ${nobody} 1`, `1 ${subordinate} ${range - 1}`],
    writesAs: nobody,
    setup: grantSubordinateIds,
  },
]

/** Can anyone read this, on the way to it too? */
function isPublic(path: string): boolean {
  const stat = statSync(path)
  const needed = stat.isDirectory() ? 0o005 : 0o004
  const open = (stat.mode & needed) === needed
  const isTop = dirname(path) === path
  return open && (isTop || isPublicDirectory(dirname(path)))
}

/** A directory on the way only has to be entered. */
function isPublicDirectory(path: string): boolean {
  const isTop = dirname(path) === path
  return (statSync(path).mode & 0o001) !== 0 && (isTop || isPublicDirectory(dirname(path)))
}

let publicCheckout: string | undefined

/**
 * The package as an ordinary user can read it: the checkout itself, or, where that is in somebody's closed home or
 * was cloned with a strict umask, a copy of what running needs.
 */
export async function readableCheckout(host: Host): Promise<string> {
  if (publicCheckout !== undefined) return publicCheckout
  const probes = ['package.json', 'dist/index.js', await compiledDriver()]
  if (probes.every((path) => isPublic(join(checkout, path)))) {
    publicCheckout = checkout
    return checkout
  }
  const copy = host.scratch('checkout')
  for (const name of ['package.json', 'dist', 'packages', compiled]) {
    cpSync(join(checkout, name), join(copy, name), { recursive: true })
  }
  await mustRun('chmod', ['-R', 'a+rX', copy])
  publicCheckout = copy
  return copy
}

export interface DriverOptions {
  level?: Level
  /** System calls that fail for the driver and everything it starts. */
  without?: Refused
  /** Shell commands run as root in a private mount namespace before the driver starts there. */
  setup?: string
  /** What executes the driver, with its command as arguments, and the rights of the cell. */
  launcher?: string[]
  /** Environment of the driver besides the usual. */
  env?: Record<string, string>
}

/** Runs a job in a cell. Whatever goes wrong inside the job is in the outcome; a driver that dies is an error. */
export async function runInCell(
  cell: Cell,
  job: Job,
  host: Host,
  options: DriverOptions = {},
): Promise<Outcome> {
  const [outcome] = await runAllInCell(cell, [job], host, options)
  return outcome!
}

/** The same for several, one after the other in one process. */
export async function runAllInCell(
  cell: Cell,
  jobs: Job[],
  host: Host,
  options: DriverOptions = {},
): Promise<Outcome[]> {
  const home = cell.uid === 0 ? checkout : await readableCheckout(host)
  const driver = [...(options.launcher ?? []), process.execPath, join(home, await compiledDriver())]
  const asUser = ['setpriv', '--reuid', `${cell.uid}`, '--regid', `${cell.uid}`, '--clear-groups']
  const program = cell.uid === 0 ? driver : [...asUser, ...driver]
  const command = options.without === undefined ? program : await withoutCalls(options.without, program)
  // Without close_range each child closes as many descriptors as there may be: the container's own limit is lower.
  const limit = options.without?.calls.includes('close_range') ? 'ulimit -n 1024' : ''
  const setup = [cell.setup ?? '', options.setup ?? '', limit].join('\n')
  const args = ['--mount', '--propagation', 'private', 'sh', '-ec', `${setup}\nexec "$@"`, 'sh', ...command]
  const env: Record<string, string> = { PATH: process.env.PATH ?? '', ...options.env }
  if (options.level !== undefined) env.ROOTFS_TEST_LEVEL = options.level
  const { exitCode, signal, stdout, stderr } = await runProgram('unshare', args, {
    input: JSON.stringify(jobs.map((job) => withNamespaces(job, cell))),
    cwd: home,
    env,
  })
  if (exitCode !== 0) throw new Error(`the driver ended with ${exitCode ?? signal}:\n${stderr}${stdout}`)
  return JSON.parse(stdout) as Outcome[]
}

/** The cell's namespaces, with what the job itself asks of them. */
function withNamespaces(job: Job, cell: Cell): Job {
  const own = job.calls.find(([method]) => method === 'namespaces')
  const options = { ...cell.namespaces, ...(own?.[1] as Record<string, unknown> | undefined) }
  if (Object.keys(options).length === 0) return job
  const others = job.calls.filter((call) => call !== own)
  return { ...job, calls: [...others, ['namespaces', options]] }
}

/** A directory everybody may write to, for what comes out of a container of any cell. */
export function openDirectory(host: Host, name: string): string {
  const directory = host.scratch(basename(name))
  chmodSync(directory, 0o1777)
  return directory
}

/** What probe() finds in a cell. */
export async function runProbe(cell: Cell, host: Host): Promise<HostSupport> {
  const home = cell.uid === 0 ? checkout : await readableCheckout(host)
  const program = "import { probe } from 'rootfs'; console.log(JSON.stringify(await probe()))"
  const node = [process.execPath, '--input-type=module', '--eval', program]
  const asUser = ['setpriv', '--reuid', `${cell.uid}`, '--regid', `${cell.uid}`, '--clear-groups']
  const command = cell.uid === 0 ? node : [...asUser, ...node]
  const script = `${cell.setup ?? ''}\nexec "$@"`
  const args = ['--mount', '--propagation', 'private', 'sh', '-ec', script, 'sh', ...command]
  return JSON.parse(await mustRun('unshare', args, { cwd: home })) as HostSupport
}
