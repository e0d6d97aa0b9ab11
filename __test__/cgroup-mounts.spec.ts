// The cgroup filesystems inside, on hosts with version 2, version 1 and both, which are made in a private mount namespace, and
// what is done where a new one is denied.
import test, { type ExecutionContext, type Implementation } from 'ava'
import { type Cell, cells, runAllInCell, runInCell } from './support/cells.ts'
import { guardHost, hostMounts } from './support/host.ts'
import type { Job, Outcome } from './support/job.ts'
import { isWithin, type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { findProgram } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const place = '/sys/fs/cgroup'
const program = '/busybox'
// Only hierarchies that are there already: a new one would be seen by everybody.
const hasVersion1 = parseMountinfo(hostMounts()).some(
  ({ destination, type }) => type === 'cgroup' && isWithin(place, destination),
)
const why = 'skipped: this host has no cgroup hierarchy of version 1'

const version2 = `umount -R ${place} 2>/dev/null || true
mount -t cgroup2 cgroup2 ${place}`
const noCgroups = 'mount -t tmpfs sys /sys; mkdir /sys/fs'
const version1 = `umount ${place}/unified 2>/dev/null || true`

const job = (options: string[], ownNamespace: boolean): Job => ({
  root: { empty: {} },
  calls: [
    ['bind', findProgram('busybox'), program],
    ['proc'],
    ['mount', { destination: place, type: 'cgroup', source: 'mine', options }],
    ['namespaces', { cgroup: ownNamespace }],
  ],
  mode: 'prepare',
  commands: [
    { command: program, args: ['cat', '/proc/self/mountinfo'] },
    { command: program, args: ['cat', '/proc/self/cgroup'] },
    { command: program, args: ['ls', '-l', place] },
  ],
})

function found(t: ExecutionContext, { error, results, steps, left }: Outcome) {
  t.is(error, undefined, error?.message)
  t.deepEqual(left, [])
  const mounts = parseMountinfo(results[0]!.stdout).filter((mount) => isWithin(place, mount.destination))
  const strategy = steps!.find((step) => step.destination === place)?.strategy
  return { mounts, strategy, cgroups: results[1]!.stdout.trim().split('\n'), listing: results[2]!.stdout }
}

const flagsOf = ({ options }: MountLine): string[] => options.filter((flag) => flag !== 'relatime').toSorted()

const [root, , ranges] = cells as [Cell, Cell, Cell]
const unprivileged = cells.find(({ name }) => name === 'unprivileged')!

for (const cell of [root, ranges, unprivileged]) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)

    testHere(`version 2, ${cell.name}, ${level}`, async (t) => {
      const options = ['nosuid', 'noexec', 'ro']
      const jobs = [job(options, true), job(options, false)]
      const outcomes = await runAllInCell(cell, jobs, host, { level, setup: version2 })
      for (const [index, outcome] of outcomes.entries()) {
        const { mounts, strategy } = found(t, outcome)
        // A user namespace may have none without a cgroup namespace of its own.
        const bound = index === 1 && cell !== root
        t.is(strategy, bound ? 'bind-fallback' : undefined)
        t.deepEqual(
          mounts.map(({ destination, type }) => [destination, type]),
          [[place, 'cgroup2']],
        )
        t.deepEqual(flagsOf(mounts[0]!), ['noexec', 'nosuid', 'ro'])
        if (index === 0) t.deepEqual([mounts[0]!.root, mounts[0]!.source], ['/', 'mine'])
      }
    })

    if (cell !== root) {
      testHere(`nothing that could be bound, ${cell.name}, ${level}`, async (t) => {
        const outcome = await runInCell(cell, job(['nosuid'], false), host, { level, setup: noCgroups })
        const { mounts, strategy } = found(t, outcome)
        t.is(strategy, 'masked')
        t.is(mounts[0]!.type, 'tmpfs')
        t.deepEqual(flagsOf(mounts[0]!), ['nosuid', 'ro'])
      })
    }

    for (const [name, setup] of [
      ['version 1', version1],
      ['hybrid', ''],
    ] as const) {
      const testVersion1 = hasVersion1
        ? testHere
        : (title: string, body: Implementation<[]>) => test.serial.skip(`${title} (${why})`, body)
      testVersion1(`${name}, ${cell.name}, ${level}`, async (t) => {
        const jobs = [job(['ro', 'noatime'], true), job(['ro'], false), job(['ro', 'noatime'], false)]
        const [own, bound, boundWithoutTimes] = await runAllInCell(cell, jobs, host, { level, setup })
        checkVersion1(t, own!, true, ['noatime'])
        checkVersion1(t, bound!, false)
        // What is the host's is locked in a user namespace.
        if (cell === root) checkVersion1(t, boundWithoutTimes!, false, ['noatime'])
        else t.is(boundWithoutTimes!.error?.code, 'ERR_ROOTFS_LOCKED')
      })
    }
  }
}

function checkVersion1(
  t: ExecutionContext,
  outcome: Outcome,
  ownNamespace: boolean,
  flags: string[] = [],
): void {
  const { mounts, strategy, cgroups, listing } = found(t, outcome)
  t.is(strategy, 'version-1')
  const [top, ...hierarchies] = mounts
  t.deepEqual([top!.destination, top!.type], [place, 'tmpfs'])
  t.deepEqual(flagsOf(top!), ['nodev', 'noexec', 'nosuid', 'rw'])
  t.true(top!.superOptions.includes('mode=755'))
  const named = cgroups.map((line) => line.split(':')).filter(([, controllers]) => controllers !== '')
  t.true(named.length > 0)
  t.is(hierarchies.length, named.length)
  for (const [, controllers = '', path = ''] of named) {
    const directory = controllers.replace(/^name=/, '')
    const there = hierarchies.find(({ destination }) => destination === `${place}/${directory}`)
    t.is(there?.type, 'cgroup', directory)
    for (const controller of controllers.split(','))
      t.true(there?.superOptions.includes(controller), controllers)
    for (const flag of ['nodev', 'noexec', 'nosuid', 'ro', ...flags])
      t.true(there?.options.includes(flag), `${directory}: ${flag}`)
    // The own cgroup is all there is to see.
    t.is(there?.root, path)
    if (!ownNamespace) continue
    t.is(path, '/')
    t.is(there?.source, controllers.startsWith('name=') ? directory : 'cgroup')
  }
  t.notRegex(listing, /unified/)
}
