// New filesystems of each type: what the kernel shows of them inside, and what is done where one can't be had.
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Cell, cells, nobody, runAllInCell, runInCell } from './support/cells.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job, Outcome } from './support/job.ts'
import { type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })
const table = sh('cat /proc/self/mountinfo')
const image = (cell: Cell) => busyboxImage(join(host.scratch('image'), 'image'), { owner: cell.owner })
const mount = (
  destination: string,
  type: string,
  options: string[] = [],
  source?: string,
): Job['calls'][number] => ['mount', { destination, type, source, options }]

function tableOf(t: ExecutionContext, { error, results, left }: Outcome): MountLine[] {
  t.is(error, undefined, error?.message)
  t.deepEqual(left, [])
  return parseMountinfo(results[0]!.stdout)
}

function at(t: ExecutionContext, found: MountLine[], destination: string): MountLine {
  const there = found.filter((line) => line.destination === destination)
  t.is(there.length, 1, `mounts on ${destination}`)
  return there[0]!
}

const [root, , ranges] = cells as [Cell, Cell, Cell]
const unprivileged = cells.find(({ uid }) => uid === nobody)!

for (const [name, last] of [
  ['root', 4_294_967_294],
  ['root with its own id in a user namespace', 0],
  ['root with ranges in a user namespace', 65_535],
  ['unprivileged', 0],
] as const) {
  const cell = cells.find((one) => one.name === name)!
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)

    testHere(`${name}, ${level}: an owner among the options is one that is mapped`, async (t) => {
      const job = (type: string, ...options: string[]): Job => ({
        calls: [mount('/proc', 'proc'), mount('/x', type, options)],
        mode: 'prepare',
        commands: [sh('stat -c %u:%g /x')],
        root: directory,
      })
      const directory = await image(cell)
      const given = await runInCell(cell, job('tmpfs', `uid=${last}`, `gid=${last}`), host, { level })
      t.is(given.error, undefined, given.error?.message)
      t.is(given.results[0]!.stdout, `${last}:${last}\n`)
      if (last === 4_294_967_294) return
      for (const [type, word] of [
        ['tmpfs', `uid=${last + 1}`],
        ['tmpfs', `gid=${last + 1}`],
        ['devpts', `uid=${last + 1}`],
        ['proc', `gid=${last + 1}`],
      ] as const) {
        const { error, left } = await runInCell(cell, job(type, word), host, { level })
        t.regex(error?.code ?? '', /^ERR_ROOTFS_SPEC$|^ERR_INVALID_ARG_VALUE$/)
        const message = new RegExp(
          `"${word}": ${last + 1} is none .* maps: 0${last > 0 ? ` to ${last}` : ''}$`,
        )
        t.regex(error?.message ?? '', message)
        t.is(error?.syscall, undefined)
        t.deepEqual(left, [])
      }
    })
  }
}

for (const cell of [root, ranges, unprivileged]) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)

    testHere(`${cell.name}, ${level}: sources, modes, and what read-only is said of`, async (t) => {
      const directory = await image(cell)
      for (const [name, mode] of [
        ['covered', 0o750],
        ['sticky', 0o1755],
      ] as const) {
        mkdirSync(join(directory, name))
        chmodSync(join(directory, name), mode)
      }
      await mustRun('chown', ['-hR', `${cell.writesAs}:${cell.writesAs}`, directory])
      const terminals = ['newinstance', 'ptmxmode=0666', 'mode=0620']
      const job: Job = {
        root: directory,
        calls: [
          mount('/covered', 'tmpfs'),
          mount('/sticky', 'tmpfs', ['ro']),
          mount('/new', 'tmpfs', [], 'mine'),
          mount('/asked', 'tmpfs', ['mode=711']),
          mount('/pts', 'devpts', terminals),
          mount('/pts-ro', 'devpts', [...terminals, 'ro']),
          mount('/queues', 'mqueue', ['ro']),
          mount('/proc', 'proc'),
          mount('/sys', 'sysfs', ['ro', 'nosuid']),
          ...(cell === root ? [mount('/ram', 'ramfs', ['mode=700', 'noexec'])] : []),
        ],
        mode: 'prepare',
        commands: [table, sh('stat -c "%n %a" /covered /sticky /new /asked')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      const found = tableOf(t, outcome)
      const superblock = (path: string): string[] => at(t, found, path).superOptions
      t.deepEqual(
        ['/covered', '/new', '/pts', '/queues', '/proc'].map((path) => at(t, found, path).source),
        ['tmpfs', 'mine', 'devpts', 'mqueue', 'proc'],
      )
      t.is(outcome.results[1]!.stdout, '/covered 750\n/sticky 1755\n/new 1777\n/asked 711\n')
      // A filesystem of the container's own is read-only itself; of one that others share only the mount is.
      for (const [path, word] of [
        ['/sticky', 'ro'],
        ['/pts-ro', 'ro'],
        ['/queues', 'rw'],
        ['/pts', 'rw'],
      ] as const)
        t.true(superblock(path).includes(word), `${path}: ${superblock(path)}`)
      for (const path of ['/sticky', '/pts-ro', '/queues', '/sys'])
        t.true(at(t, found, path).options.includes('ro'), path)
      for (const option of ['mode=620', 'ptmxmode=666']) t.true(superblock('/pts').includes(option), option)
      if (cell === root) {
        t.is(at(t, found, '/ram').type, 'ramfs')
        t.true(at(t, found, '/ram').options.includes('noexec'))
      }
    })

    testHere(`${cell.name}, ${level}: an overlay is shown with the source that was given`, async (t) => {
      const data = host.scratch('data')
      for (const name of ['one', 'two']) mkdirSync(join(data, name))
      const layers = [`lowerdir=${join(data, 'one')}:${join(data, 'two')}`]
      const job: Job = {
        root: await image(cell),
        calls: [mount('/usual', 'overlay', layers), mount('/named', 'overlay', layers, 'mine'), ['proc']],
        mode: 'prepare',
        commands: [table],
      }
      const found = tableOf(t, await runInCell(cell, job, host, { level }))
      t.is(at(t, found, '/usual').source, 'overlay')
      t.is(at(t, found, '/named').source, 'mine')
    })

    testHere(`${cell.name}, ${level}: sysfs in the caller's network namespace`, async (t) => {
      const job: Job = {
        root: await image(cell),
        calls: [
          mount('/sys', 'sysfs', ['nosuid', 'noexec', 'nodev']),
          ['proc'],
          ['namespaces', { network: false }],
        ],
        mode: 'prepare',
        commands: [table, sh('ls -d /sys/kernel')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      const found = tableOf(t, outcome)
      const strategy = outcome.steps!.find(({ destination }) => destination === '/sys')?.strategy
      const below = found.filter(({ destination }) => destination.startsWith('/sys/'))
      t.is(outcome.results[1]!.stdout, '/sys/kernel\n')
      if (cell === root) {
        t.is(strategy, undefined)
        t.deepEqual(below, [])
        t.true(at(t, found, '/sys').options.includes('rw'))
      } else {
        t.is(strategy, 'bind-fallback')
        t.true(below.length > 0, 'what the host has mounted below comes along')
        for (const { destination, options } of [at(t, found, '/sys'), ...below])
          for (const flag of ['ro', 'nosuid', 'noexec', 'nodev'])
            t.true(options.includes(flag), `${destination}: ${flag}`)
      }
    })

    testHere(`${cell.name}, ${level}: what may be mounted below /proc, and what may not`, async (t) => {
      const directory = await image(cell)
      const data = host.scratch('data')
      writeFileSync(join(data, 'file'), 'instead\n')
      symlinkSync('/proc/meminfo', join(directory, 'link'))
      const file = (destination: string): Job['calls'][number] => ['bind', join(data, 'file'), destination]
      const replaceable = ['cpuinfo', 'diskstats', 'meminfo', 'stat', 'swaps', 'uptime', 'loadavg']
      const fine: Job = {
        root: directory,
        calls: [['proc'], ...replaceable.map((name) => file(`/proc/${name}`))],
        mode: 'run',
        commands: [sh(`cd /proc && cat ${replaceable.join(' ')}`)],
      }
      const refused: Array<Job['calls'][number]> = [
        file('/proc/version'),
        file('/proc/self/comm'),
        file('/proc/sys/kernel/hostname'),
        ['tmpfs', '/proc'],
        ['bind', data, '/proc'],
        ['tmpfs', '/proc/self/task'],
        mount('/proc/sys', 'mqueue'),
        mount('/proc/fs', 'proc'),
      ]
      const jobs = [
        fine,
        { ...fine, calls: [['proc'], file('/link')], commands: [sh('cat /proc/meminfo')] } as Job,
        ...refused.map((call): Job => ({ ...fine, calls: [['proc'], call], commands: [sh('true')] })),
      ]
      const [all, link, ...others] = await runAllInCell(cell, jobs, host, { level })
      t.is(all!.error, undefined, all!.error?.message)
      t.is(all!.results[0]!.stdout, 'instead\n'.repeat(replaceable.length))
      t.is(link!.results[0]?.stdout, 'instead\n', link!.error?.message)
      for (const [index, call] of refused.entries()) {
        const { error } = others[index]!
        t.is(error?.code, 'ERR_ROOTFS_PROC', `${JSON.stringify(call)}: ${error?.message}`)
      }
    })

    testHere(
      `${cell.name}, ${level}: the group of terminals is left out where it isn't mapped`,
      async (t) => {
        const job: Job = {
          root: await image(cell),
          calls: [['proc'], mount('/dev/pts', 'devpts', ['newinstance', 'ptmxmode=0666', 'gid=5'])],
          mode: 'prepare',
          commands: [table],
        }
        const outcome = await runInCell(cell, job, host, { level })
        const found = tableOf(t, outcome)
        const told = outcome.warnings!.some(({ code }) => code === 'unmapped-gid')
        // The table shows it as the reader's ids have it.
        t.is(
          at(t, found, '/dev/pts').superOptions.some((option) => option.startsWith('gid=')),
          cell !== unprivileged,
        )
        t.is(told, cell === unprivileged)
      },
    )

    testHere(`${cell.name}, ${level}: a refused option is named`, async (t) => {
      const directory = await image(cell)
      const rows: Array<[type: string, options: string[], named: RegExp, log: RegExp | undefined]> = [
        ['tmpfs', ['nosuid', 'size=64k', 'no-such=1'], /no-such=1/, /tmpfs: Unknown parameter 'no-such'/],
        ['tmpfs', ['size=64k', 'huge=maybe'], /huge=maybe/, /tmpfs: Bad value for 'huge'/],
        ['tmpfs', ['uid=minus'], /uid=minus/, /tmpfs: Bad value for 'uid'/],
        ['proc', ['hidepid=9'], /hidepid=9/, /hidepid/],
        ['mqueue', ['no-such'], /no-such/, /Unknown parameter 'no-such'/],
      ]
      const jobs = rows.map(
        ([type, options]): Job => ({
          root: directory,
          calls: [mount('/x', type, options)],
          mode: 'run',
          commands: [sh('true')],
        }),
      )
      const outcomes = await runAllInCell(cell, jobs, host, { level })
      for (const [index, [type, options, named, log]] of rows.entries()) {
        const { error } = outcomes[index]!
        const what = `${type} ${options}: ${error?.message} ${JSON.stringify(error?.kernelLog)}`
        t.is(error?.code, 'ERR_ROOTFS_MOUNT', what)
        t.is(error!.destination, '/x', what)
        t.regex(error!.message, named, what)
        t.regex(error!.message, /: the option "[^",]+" is refused: /, what)
        // What mount(2) refuses is only in the kernel's own log.
        if (level === 'classic') continue
        t.true(
          (error!.kernelLog as string[] | undefined)?.some((line) => log!.test(line)),
          what,
        )
      }
    })
  }
}
