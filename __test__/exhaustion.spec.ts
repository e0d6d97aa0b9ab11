// What is used up where a container is made: names and bytes of filesystems, mounts, processes, memory, and the supervisor's
// descriptors. The error says which step it was and what has run out, nothing is left, and what fits works afterwards.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext, type Implementation } from 'ava'
import { type Cell, cells, openDirectory, runAllInCell } from './support/cells.ts'
import { evaluate } from './support/evaluate.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { eventually } from './support/processes.ts'
import { findProgram } from './support/program.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'
import { type Refused, withoutCalls, withoutClone3 } from './support/without.ts'

const host = guardHost(test)

/** Each cell at each level, of which CI has one for every cell, or for every second. */
function inCells(
  every: number,
  declare: (cell: Cell, level: Level, testHere: ReturnType<typeof testNeeding>) => void,
) {
  for (const [row, cell] of cells.entries()) {
    for (const [column, level] of levels.entries()) {
      if (process.env.ROOTFS_TEST_FULL === undefined && (row % every > 0 || column !== row % levels.length))
        continue
      declare(cell, level, testNeeding([...cell.needs, 'busybox'], level))
    }
  }
}

const commands = [{ command: '/bin/true' }]

function works(t: ExecutionContext, outcome: Outcome, what: string): void {
  t.is(outcome.error, undefined, `${what}: ${outcome.error?.message}`)
  t.deepEqual(
    outcome.results.map(({ exitCode }) => exitCode),
    [0],
    what,
  )
  t.deepEqual(outcome.left, [], what)
}

// ---------------------------------------------------------------- filesystems

/** Writes down what is in a directory after the driver, so that what is left of a mount in its namespace can be seen. */
const listing = (directory: string, file: string): string => `
  (cd '${directory}' && find . -xdev | sort) > '${file}'`

inCells(1, (cell, level, testHere) => {
  testHere(`${cell.name}, ${level}: a root with no names left but three`, async (t) => {
    const image = await busyboxImage(join(host.scratch('image'), 'image'), { owner: cell.owner })
    const root = host.scratch('full')
    const evidence = openDirectory(host, 'evidence')
    // Sized when all is there. Whoever owns the image owns the top as well.
    const setup = `
      mount -t tmpfs -o mode=755 full '${root}'
      cp -a '${image}/.' '${root}'
      mount -o remount,nr_inodes=$(($(stat -f -c '%c - %d' '${root}') + 3)) '${root}'
      ${listing(root, join(evidence, 'before'))}
      "$@" || exit $?
      ${listing(root, join(evidence, 'after'))}
      exit 0`
    const job = (mode: Job['mode'], ...calls: Job['calls']): Job => ({
      root,
      calls: [['defaults'], ...calls],
      mode,
      commands,
    })
    const jobs = [
      job('prepare', ['tmpfs', '/made/one/two'], ['tmpfs', '/made/three/four']),
      job('run', ['tmpfs', '/a/b/c']),
      job('run', ['tmpfs', '/made/one'], ['bind', '/usr', '/other/two']),
      job('prepare', ['tmpfs', '/a'], ['file', '/b/c', 'content']),
      job('run', ['directory', '/tmp/a/b/c/d/e/f']),
    ]
    const outcomes = await runAllInCell(cell, jobs, host, { level, setup })
    for (const [index, destination] of [
      [0, '/made/three/four'],
      [2, '/other/two'],
    ] as const) {
      const { error, left } = outcomes[index]!
      t.like(error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOSPC', destination }, error?.message)
      t.truthy((error as { step?: unknown }).step)
      t.deepEqual(left, [])
    }
    works(t, outcomes[1]!, 'three are enough, when those of the first are given back')
    works(t, outcomes[3]!, 'and those of the third')
    t.like(outcomes[4]!.error, { errnoName: 'ENOSPC' })
    const read = (name: string) => readFileSync(join(evidence, name), 'utf8').trim().split('\n')
    const after = read('after').filter((name) => !name.startsWith('./tmp/a'))
    t.deepEqual(after, read('before'), 'but for what was to stay')
  })

  testHere(`${cell.name}, ${level}: a root with no bytes left`, async (t) => {
    const image = await busyboxImage(join(host.scratch('image'), 'image'), { owner: cell.owner })
    const root = host.scratch('full')
    const setup = `
      mount -t tmpfs -o mode=755,size=8m full '${root}'
      cp -a '${image}/.' '${root}'
      dd if=/dev/zero of='${root}/filler' bs=4k 2>/dev/null || true`
    // A long target needs a page; a mountpoint needs a name alone.
    const long: Job['calls'] = [['symlink', 'x'.repeat(1000), '/long']]
    const fits: Job['calls'] = [
      ['tmpfs', '/made'],
      ['file', '/etc/new', 'content'],
      ['symlink', 'short', '/link'],
    ]
    const job = (calls: Job['calls']): Job => ({
      root,
      calls: [['defaults'], ...calls],
      mode: 'prepare',
      commands,
    })
    const [full, after] = await runAllInCell(cell, [job(long), job(fits)], host, { level, setup })
    t.like(full!.error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOSPC' }, full!.error?.message)
    t.regex(full!.error!.message, /\/long/)
    t.deepEqual(full!.left, [])
    works(t, after!, 'what needs no bytes')
  })

  testHere(`${cell.name}, ${level}: an empty root that is too small`, async (t) => {
    const busybox = findProgram('busybox')
    const job = (size: string, target: number): Job => ({
      root: { empty: { size } },
      calls: [
        ['bind', busybox, '/bin/true'],
        ['symlink', 'x'.repeat(target), '/one'],
        ['symlink', 'x'.repeat(target), '/two'],
      ],
      mode: 'run',
      commands,
    })
    const outcomes = await runAllInCell(cell, [job('4k', 1000), job('4k', 9), job('8k', 1000)], host, {
      level,
    })
    t.like(outcomes[0]!.error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOSPC' }, outcomes[0]!.error?.message)
    t.regex(outcomes[0]!.error!.message, /\/two/)
    t.deepEqual(outcomes[0]!.left, [])
    works(t, outcomes[1]!, 'what fits')
    works(t, outcomes[2]!, 'with more room')
  })
})

/** Declares a test, or says why not. */
const unless =
  (missing: string | undefined) =>
  (title: string, body: Implementation<[]>): void => {
    if (missing === undefined) testNeeding(['root', 'busybox', 'unshare'])(title, body)
    else test.serial.skip(`${title} (skipped: ${missing})`, body)
  }

// A filesystem whose directories need blocks.
const disks = existsSync('/dev/loop-control') && findProgram('mkfs.ext4') !== undefined

unless(disks ? undefined : 'this host has no loop devices or no mkfs.ext4')(
  'root: a root on a disk that is full',
  async (t) => {
    const [cell] = cells as [Cell]
    const image = await busyboxImage(join(host.scratch('image'), 'image'))
    const disk = join(host.scratch('disk'), 'disk')
    const root = host.scratch('full')
    const evidence = openDirectory(host, 'evidence')
    const setup = `
    truncate -s 16M '${disk}'
    mkfs.ext4 -q -O ^has_journal -m 0 '${disk}'
    mount -o loop '${disk}' '${root}'
    cp -a '${image}/.' '${root}'
    dd if=/dev/zero of='${root}/filler' bs=1k 2>/dev/null || true
    sync
    ${listing(root, join(evidence, 'before'))}
    "$@" || exit $?
    ${listing(root, join(evidence, 'after'))}
    rm '${root}/filler'
    "$@" < '${evidence}/jobs' > '${evidence}/outcomes' || exit $?
    exit 0`
    const job: Job = { root, calls: [['defaults'], ['tmpfs', '/made/by/us']], mode: 'prepare', commands }
    writeFileSync(join(evidence, 'jobs'), JSON.stringify([job]))
    const [full] = await runAllInCell(cell, [job], host, { setup })
    t.like(full!.error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOSPC' }, full!.error?.message)
    t.truthy(full!.error!.destination)
    t.deepEqual(full!.left, [])
    t.is(readFileSync(join(evidence, 'after'), 'utf8'), readFileSync(join(evidence, 'before'), 'utf8'))
    const [after] = JSON.parse(readFileSync(join(evidence, 'outcomes'), 'utf8')) as Outcome[]
    works(t, after!, 'when there is room')
  },
)

// ---------------------------------------------------------------- mounts

inCells(2, (cell, level, testHere) => {
  testHere(`${cell.name}, ${level}: more mounts than a namespace may have`, async (t) => {
    const root = await busyboxImage(join(host.scratch('image'), 'image'), {
      owner: cell.owner,
      mountpoints: false,
    })
    const source = openDirectory(host, 'many')
    const limit = Number(readFileSync('/proc/sys/fs/mount-max', 'utf8'))
    // Each turn doubles them. The sysctl is the machine's: it is left alone.
    const turns = Math.ceil(Math.log2(limit / 3))
    const setup = `
      mount -t tmpfs many '${source}'
      mkdir '${source}/x'
      mount -t tmpfs x '${source}/x'
      for turn in $(seq ${turns}); do mkdir '${source}/x/'$turn; mount --rbind '${source}/x' '${source}/x/'$turn; done`
    const binds = ['/made/one', '/made/two', '/made/three'].map((destination) => [
      'bind',
      join(source, 'x'),
      destination,
    ])
    const job = (calls: unknown[]): Job => ({
      root,
      calls: [['defaults'], ...calls] as Job['calls'],
      mode: 'prepare',
      commands,
    })
    const [full, after] = await runAllInCell(cell, [job(binds), job([['tmpfs', '/made/one']])], host, {
      level,
      setup,
    })
    t.like(full!.error, { code: 'ERR_ROOTFS_MOUNT', errnoName: 'ENOSPC' }, full!.error?.message)
    t.regex(`${full!.error!.destination}`, /^\/made\//)
    t.regex(full!.error!.hint!, /fs\.mount-max/)
    t.deepEqual(full!.left, [])
    works(t, after!, 'with fewer')
    t.false(readdirSync(root).includes('made'))
  })
})

// ---------------------------------------------------------------- processes, memory, descriptors

const testHere = testNeeding(['root', 'busybox', 'prlimit'])

let made: Promise<string> | undefined
const image = (): Promise<string> => {
  made ??= busyboxImage(join(host.scratch('image'), 'image'))
  return made
}

/** What came of a container at each limit, and afterwards. */
interface Sweep {
  found: Array<number | { code: string; errnoName?: string; message: string; hint?: string }>
  after: unknown
  left: string[]
}

/**
 * Sets a limit so much above what is used, for one number after the other, and runs a container each time. `limit(n)` is told
 * what is left; without a number there is none.
 */
const sweep = (numbers: number[], limit: string, root: string): string => `
  const fs = await import('node:fs')
  const { execFileSync } = await import('node:child_process')
  const children = (pid) => readFileSync('/proc/' + pid + '/task/' + pid + '/children', 'latin1').split(' ').filter(Boolean)
  const name = (pid) => { try { return readFileSync('/proc/' + pid + '/comm', 'latin1').trim() } catch { return '' } }
  // Those that hold a limit, and what waits, are no containers.
  const inUse = () => supervisors().flatMap(children).map(name).filter((one) => !/^(rootfs-spare|rootfs-holder|)$/.test(one))
  const root = () => ${root}
  await root().run('/bin/true')
  ${limit}
  const found = []
  for (const left of ${JSON.stringify(numbers)}) {
    // What waits, or has just ended, counts too.
    await sleep(30)
    limit(left)
    // Of two at once one finds no first process that waits.
    const two = [1, 2].map(async () => (await root().run('/bin/true')).exitCode)
    const one = await outcome(Promise.all(two))
    await Promise.allSettled(two)
    found.push(one.value === undefined ? one : Math.max(...one.value))
    limit()
  }
  await eventually(() => inUse().length === 0)
  const box = await root().prepare()
  const inside = await box.run('/bin/true')
  await box.close()
  await eventually(() => inUse().length === 0)
  return { found, after: inside.exitCode, left: inUse() }`

function check(t: ExecutionContext, sweep: Sweep, errors: Array<Record<string, RegExp | string>>): void {
  const failed = sweep.found.filter((one) => typeof one !== 'number')
  t.log(sweep.found.map((one) => (typeof one === 'number' ? one : `${one.code} ${one.errnoName}`)).join(', '))
  t.true(failed.length > 0, 'the limit is met')
  for (const one of sweep.found) {
    const expected =
      one === 0 ||
      errors.some((error) =>
        Object.entries(error).every(([key, value]) => {
          const has = String(Reflect.get(one as object, key))
          return typeof value === 'string' ? has === value : value.test(has)
        }),
      )
    t.true(expected, JSON.stringify(one))
  }
  t.is(sweep.after, 0, 'and then it works')
  t.deepEqual(sweep.left, [])
}

function hasPids(): boolean {
  const made = pidsCgroup()
  if (made !== undefined) rmdirSync(made)
  return made !== undefined
}

/** A cgroup for one test, with the controller of process numbers; undefined where there is none to be had. */
function pidsCgroup(): string | undefined {
  const version1 = '/sys/fs/cgroup/pids'
  const parent = existsSync(join(version1, 'cgroup.procs')) ? version1 : '/sys/fs/cgroup'
  const made = join(parent, `rootfs-test-${process.pid}-${Date.now()}`)
  try {
    mkdirSync(made)
  } catch {
    return undefined
  }
  if (existsSync(join(made, 'pids.max'))) return made
  rmdirSync(made)
  return undefined
}

const counted = unless(hasPids() ? undefined : 'this host has no cgroup controller of process numbers for us')

for (const [where, namespaces] of Object.entries({
  root: '{}',
  'root with a user namespace': '{ user: true }',
})) {
  counted(`${where}: no more processes in the cgroup`, async (t) => {
    t.timeout(60_000)
    const cgroup = pidsCgroup()!
    const enter = ['sh', '-ec', `echo $$ > ${cgroup}/cgroup.procs; exec "$@"`, 'sh']
    const limit = `const limit = (left) => fs.writeFileSync('${cgroup}/pids.max',
      left === undefined ? 'max' : String(Number(readFileSync('${cgroup}/pids.current')) + left))`
    try {
      const root = `new Rootfs(image).defaults().namespaces(${namespaces})`
      const found = (await evaluate(
        sweep([0, 1, 2, 3, 4, 5, 6, 8], limit, root),
        await image(),
        enter,
      )) as Sweep
      check(t, found, [
        { code: /^ERR_ROOTFS_(DENIED|EXEC|SUPERVISOR)$/, errnoName: 'EAGAIN', hint: /RLIMIT_NPROC/ },
      ])
    } finally {
      await eventually(
        () => readFileSync(join(cgroup, 'cgroup.procs'), 'utf8'),
        (processes) => processes === '',
      )
      rmdirSync(cgroup)
    }
  })
}

const ordinary = [
  'prlimit',
  '--nproc=4096:4096',
  'setpriv',
  '--reuid',
  '61235',
  '--regid',
  '61235',
  '--clear-groups',
]

testNeeding(['root', 'busybox', 'prlimit', 'setpriv'])(
  'an ordinary user has no more processes',
  async (t) => {
    t.timeout(60_000)
    // Only the supervisor's limit: it is what makes them. Threads of Node count too.
    const limit = `
    const used = () => fs.readdirSync('/proc').filter((pid) => /^[0-9]+$/.test(pid)).map((pid) => {
      try { return fs.statSync('/proc/' + pid + '/task').uid === 61235 || /^Uid:\\t61235/m.test(readFileSync('/proc/' + pid + '/status', 'latin1'))
        ? fs.readdirSync('/proc/' + pid + '/task').length : 0 } catch { return 0 }
    }).reduce((sum, count) => sum + count, 0)
    const limit = (left) => {
      const soft = left === undefined ? 4096 : used() + left
      for (const pid of supervisors()) execFileSync('prlimit', ['--pid', pid, '--nproc=' + soft + ':'])
    }`
    const found = (await evaluate(
      sweep([-2, 0, 1, 2, 3, 4], limit, 'small().proc()'),
      await image(),
      ordinary,
    )) as Sweep
    check(t, found, [{ code: /^ERR_ROOTFS_(DENIED|EXEC)$/, errnoName: 'EAGAIN', hint: /RLIMIT_NPROC/ }])
  },
)

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index)

/** Who calls, and with which root. */
interface Caller {
  root: string
  /** Calls that are missing. */
  calls?: readonly string[]
  wrapper?: string[]
  /** Whether so little memory is too little for it. */
  memory?: boolean
}

const callers: Record<string, Caller> = {
  // What waits has the memory for a usual container.
  root: { root: "new Rootfs(image).defaults().file('/big', 'x'.repeat(1 << 19))", memory: true },
  'root with a user namespace': {
    root: 'new Rootfs(image).defaults().namespaces({ user: true })',
    memory: true,
  },
  'root, without openat2': { root: 'new Rootfs(image).defaults()', calls: ['openat2'] },
  'root, without new mount calls': { root: 'new Rootfs(image).defaults()', calls: withoutClone3 },
  'an ordinary user': { root: 'small().proc()', wrapper: ordinary },
}

for (const [who, { root, calls, wrapper = [], memory }] of Object.entries(callers)) {
  const testHere = testNeeding(['root', 'busybox', 'prlimit', 'setpriv'])
  // The last word of it is what is executed: env(1), which executes the rest.
  const around = async () =>
    calls === undefined ? wrapper : withoutCalls({ errno: 'ENOSYS', calls }, [...wrapper])

  testHere(`${who}: the supervisor can open no more files`, async (t) => {
    t.timeout(60_000)
    const limit = `const limit = (left) => {
      for (const pid of supervisors()) {
        // It can't be looked into by its own user. Then it has five, and some of what waits.
        let used = 5
        try { used = fs.readdirSync('/proc/' + pid + '/fd').length } catch {}
        execFileSync('prlimit', ['--pid', pid, '--nofile=' + (left === undefined ? 4096 : used + left) + ':'])
      }
    }`
    const found = (await evaluate(sweep(upTo(26), limit, root), await image(), await around())) as Sweep
    check(t, found, [{ code: /^ERR_ROOTFS_/, errnoName: 'EMFILE', hint: /RLIMIT_NOFILE/ }])
  })

  if (memory !== true) continue
  testHere(`${who}: the supervisor has no more memory`, async (t) => {
    t.timeout(60_000)
    // What can't grow its stack is ended by SIGSEGV, and what can't allocate by SIGABRT: the first process, which makes the
    // container. The supervisor itself needs no more than it has.
    const limit = `const limit = (left) => {
      for (const pid of supervisors()) {
        const size = Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/' + pid + '/status', 'latin1'))[1]) * 1024
        execFileSync('prlimit', ['--pid', pid, '--as=' + (left === undefined ? 'unlimited' : size + left * 4096) + ':'])
      }
    }`
    const numbers = [-256, -16, 0, 4, 32]
    const found = (await evaluate(sweep(numbers, limit, root), await image(), wrapper)) as Sweep
    check(t, found, [
      {
        code: 'ERR_ROOTFS_CLOSED',
        message: /^the first process ended by signal (6|11) before the root was prepared$/,
      },
    ])
  })
}

/** A program that starts the supervisor so that these calls fail for it, and not for Node. */
async function supervisorWithout(refused: Refused): Promise<string> {
  const supervisor = join(checkout, 'packages', `linux-${process.arch}-gnu`, 'rootfs-supervisor')
  const script = join(host.scratch('wrapper'), 'supervisor')
  const command = await withoutCalls(refused, [supervisor])
  const quoted = command.map((word) => `'${word}'`).join(' ')
  writeFileSync(script, `#!/bin/sh\nexec ${quoted} "$@"\n`, { mode: 0o755 })
  return JSON.stringify(script)
}

for (const errno of ['EPERM', 'ENOSYS'] as const) {
  testHere(`a supervisor that may make no eventfd (${errno}) has descriptors all the same`, async (t) => {
    const script = await supervisorWithout({ errno, calls: ['eventfd2'] })
    const found = await evaluate(
      `process.env.ROOTFS_SUPERVISOR_EXEC = ${script}
       return (await new Rootfs(image).defaults().run('/bin/echo', ['fine'])).stdout`,
      await image(),
    )
    t.is(found, 'fine\n')
  })
}

testHere('no memory for another process', async (t) => {
  const script = await supervisorWithout({ errno: 'ENOMEM', calls: ['clone3'] })
  const found = await evaluate(
    `process.env.ROOTFS_SUPERVISOR_EXEC = ${script}
     const root = new Rootfs(image).defaults()
     return [await outcome(root.run('/bin/true')), await outcome(root.prepare()), await outcome(root.run('/bin/true'))]`,
    await image(),
  )
  for (const one of found as unknown[]) {
    t.like(one, { code: 'ERR_ROOTFS_DENIED', errnoName: 'ENOMEM' }, JSON.stringify(one))
    t.regex((one as { message: string }).message, /^step 0 \(namespaces\): .*clone3\(/)
  }
})
