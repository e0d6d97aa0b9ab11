// Idmapped binds: files show under other owners, in both directions, and where that can't be it is an error that says why.
import { chmodSync, chownSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, runAllInCell, runInCell, shift } from './support/cells.ts'
import { guardHost, hostMounts } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job } from './support/job.ts'
import { type Level, testNeeding } from './support/requirements.ts'

const host = guardHost(test)
// What level classic says instead is in classic.spec.ts.
const levels: Level[] = ['detached', 'attached']

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })
const line = (containerId: number, hostId: number, size: number) => ({ containerId, hostId, size })
const both = (...lines: ReturnType<typeof line>[]) => ({ uids: lines, gids: lines })
const ociLine = (containerID: number, hostID: number, size: number) => ({ containerID, hostID, size })

const owners = sh('cd /data && stat -c "%n %u:%g" *')

/** Files of root, of 7:8, and of somebody far away. */
function makeData(): string {
  const data = host.scratch('data')
  for (const [name, uid, gid] of [
    ['root', 0, 0],
    ['seven', 7, 8],
    ['far', 70_000, 70_000],
  ] as const) {
    writeFileSync(join(data, name), name)
    chownSync(join(data, name), uid, gid)
  }
  mkdirSync(join(data, 'below'))
  chmodSync(data, 0o755)
  return data
}

const image = (cell: Cell) =>
  busyboxImage(join(host.scratch('image'), 'image'), { mountpoints: false, owner: cell.owner })

for (const cell of cells) {
  const privileged = cell.uid === 0
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)
    const job = async (calls: Job['calls'], commands: Command[] = [owners]): Promise<Job> => ({
      root: await image(cell),
      calls,
      mode: 'run',
      commands,
    })

    if (privileged) {
      testHere(`${cell.name}, ${level}: files show under the owners of a mapping`, async (t) => {
        const data = makeData()
        // What the host sees through the mount; the container sees that as its own ids.
        const base = cell.map?.[0] === `0 ${shift} 65536` ? shift : 0
        const map = both(line(0, base + 1000, 1), line(7, base + 2000, 2))
        const outcome = await runInCell(cell, await job([['bind', data, '/data', { idMap: map }]]), host, {
          level,
        })
        t.is(outcome.error, undefined)
        const seen = cell.map?.[0] === '0 0 1' ? ['65534:65534', '65534:65534'] : ['1000:1000', '2000:2001']
        t.is(
          outcome.results[0]?.stdout,
          `below ${seen[0]}\nfar 65534:65534\nroot ${seen[0]}\nseven ${seen[1]}\n`,
        )
      })
    } else {
      for (const idMap of ['userns', both(line(0, 0, 1))] as const) {
        testHere(
          `${cell.name}, ${level}, ${JSON.stringify(idMap)}: an ordinary user is told why not`,
          async (t) => {
            const data = makeData()
            const outcome = await runInCell(cell, await job([['bind', data, '/data', { idMap }]]), host, {
              level,
            })
            t.is(outcome.error?.code, 'ERR_ROOTFS_DENIED', outcome.error?.message)
            t.regex(outcome.error!.hint ?? '', /CAP_SYS_ADMIN.*run as root/)
            t.is(outcome.error?.destination, '/data')
            t.deepEqual(outcome.left, [])
          },
        )
      }
    }
  }
}

const [root, own, ranges] = cells as [Cell, Cell, Cell]
const asRoot = testNeeding(['root', 'unshare', 'busybox'])

for (const level of levels) {
  const asRootHere = testNeeding(['root', 'unshare', 'busybox'], level)

  for (const options of [
    { idMap: 'userns' },
    { oci: ['rbind', 'idmap'] },
    { oci: ['rbind', 'ridmap'] },
    { oci: ['bind'], uidMappings: [ociLine(0, shift, 65_536)], gidMappings: [ociLine(0, shift, 65_536)] },
  ]) {
    asRootHere(
      `${level}, ${JSON.stringify(options)}: root's files are the container's, both ways`,
      async (t) => {
        const data = makeData()
        const { oci, ...rest } = options as Record<string, unknown>
        const mount = { destination: '/data', source: data, options: oci, ...rest }
        const job: Job = {
          root: await image(ranges),
          calls: [oci ? ['mount', mount] : ['bind', data, '/data', rest]],
          mode: 'run',
          commands: [owners, sh('echo x > /data/new')],
        }
        const outcome = await runInCell(ranges, job, host, { level })
        t.is(outcome.error, undefined)
        t.is(outcome.results[0]?.stdout, 'below 0:0\nfar 65534:65534\nroot 0:0\nseven 7:8\n')
        t.is(statSync(join(data, 'new')).uid, 0)
      },
    )
  }

  for (const [words, below] of [
    [['rbind', 'idmap'], 0],
    [['rbind', 'ridmap'], 1000],
  ] as const) {
    asRootHere(
      `${level}, ${words.join()}: what is mounted below is mapped only if that was said`,
      async (t) => {
        const data = makeData()
        const maps = [ociLine(0, 1000, 1)]
        const job: Job = {
          root: await image(root),
          calls: [
            [
              'mount',
              { destination: '/data', source: data, options: words, uidMappings: maps, gidMappings: maps },
            ],
          ],
          mode: 'run',
          commands: [sh('stat -c %u /data/root /data/below')],
        }
        const setup = `mount -t tmpfs -o mode=755 below '${data}/below'`
        const outcome = await runInCell(root, job, host, { level, setup })
        t.is(outcome.error, undefined)
        t.is(outcome.results[0]?.stdout, `1000\n${below}\n`)
      },
    )
  }

  asRootHere(
    `${level}: the builder's idMap covers what is mounted below, as its other options do`,
    async (t) => {
      const data = makeData()
      const job: Job = {
        root: await image(root),
        calls: [['bind', data, '/data', { idMap: both(line(0, 1000, 1)) }]],
        mode: 'run',
        commands: [sh('stat -c %u /data/root /data/below')],
      }
      const setup = `mount -t tmpfs -o mode=755 below '${data}/below'`
      const outcome = await runInCell(root, job, host, { level, setup })
      t.is(outcome.results[0]?.stdout, '1000\n1000\n')
    },
  )
}

for (const cell of [own, ranges]) {
  for (const level of levels) {
    const title = `${cell.name}, ${level}: one source that the container's root can't reach, with several mappings`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const closed = host.scratch('closed')
      mkdirSync(join(closed, 'data'))
      writeFileSync(join(closed, 'data', 'file'), '')
      chmodSync(closed, 0o700)
      const data = join(closed, 'data')
      const base = cell === ranges ? shift : 0
      const calls: Job['calls'] = [
        ['bind', data, '/userns', { idMap: 'userns' }],
        ['bind', data, '/own', { idMap: both(line(0, base, 1)) }],
        ['bind', data, '/none'],
        ...Array.from({ length: 20 }, (_, number): Job['calls'][number] => [
          'bind',
          data,
          `/many/${number}`,
          { idMap: both(line(0, shift + number, 1)) },
        ]),
      ]
      const job: Job = {
        root: await image(cell),
        calls,
        mode: 'run',
        commands: [
          {
            ...sh('stat -c "%n %u" /userns/file /own/file /none/file; stat -c %u /many/*/file | sort -n'),
            options: { rlimits: [{ type: 'RLIMIT_NOFILE', soft: 20, hard: 20 }] },
          },
        ],
      }
      const { error, results } = await runInCell(cell, job, host, { level })
      t.is(error, undefined, error?.message)
      const [userns, mapped, none, ...many] = results[0]!.stdout.trim().split('\n')
      t.is(userns, '/userns/file 0')
      t.is(mapped, '/own/file 0')
      t.is(none, `/none/file ${cell === ranges ? 65534 : 0}`)
      t.deepEqual(
        many,
        cell === ranges
          ? Array.from({ length: 20 }, (_, number) => `${number}`)
          : Array.from({ length: 20 }, () => '65534'),
      )
    })
  }
}

asRoot('one source with several mappings, with other flags', async (t) => {
  const data = makeData()
  const rootfs = new Rootfs(await image(root))
    .bind(data, '/one', { idMap: both(line(0, 1000, 1)), readonly: true })
    .bind(data, '/two', { idMap: both(line(0, 2000, 1)) })
    .bind(data, '/three')
  const { stdout } = await rootfs.run('/bin/sh', ['-c', 'stat -c %u /one/root /two/root /three/root'])
  t.is(stdout, '1000\n2000\n0\n')
})

for (const [cell, level] of [root, ...cells.filter(({ name }) => /ranges|subordinate/.test(name))].flatMap(
  (cell) => levels.map((level) => [cell, level] as const),
)) {
  testNeeding([...cell.needs, 'busybox'], level)(
    `${cell.name}, ${level}: what was mounted in the root before`,
    async (t) => {
      const job: Job = {
        root: await image(cell),
        calls: [
          ['tmpfs', '/own'],
          ['bind', { inRoot: '/own' }, '/other', { idMap: both(line(0, 1000, 1)) }],
        ],
        mode: 'run',
        commands: [sh('echo x > /own/file; stat -c %u /own/file /other/file')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.is(outcome.error, undefined, outcome.error?.message)
      t.deepEqual([outcome.results[0]?.stdout, outcome.results[0]?.stderr], ['0\n1000\n', ''])
    },
  )
}

asRoot('twenty mounts where the command may open twenty files', async (t) => {
  const data = makeData()
  let rootfs = new Rootfs(await image(root))
  for (let number = 0; number < 20; number++) {
    rootfs = rootfs.bind(data, `/data/${number}`, { idMap: both(line(0, 1000 + number, 1)) })
  }
  const { stdout } = await rootfs.run('/bin/sh', ['-c', 'stat -c %u /data/*/root; ulimit -n'], {
    rlimits: [{ type: 'RLIMIT_NOFILE', soft: 20, hard: 20 }],
  })
  t.is(stdout.trim().split('\n').length, 21)
  t.true(stdout.includes('1019\n') && stdout.endsWith('\n20\n'), stdout)
})

for (const level of levels) {
  for (const options of [
    ['bind', 'idmap'],
    ['rbind', 'ridmap'],
  ]) {
    const title = `${level}, ${options}: what can't be idmapped is named, and nothing is mounted`
    testNeeding(['root', 'unshare', 'busybox'], level)(title, async (t) => {
      const hook = host.scratch('hook')
      const maps = [ociLine(0, 1000, 1)]
      const mount = { destination: '/data', options, uidMappings: maps, gidMappings: maps }
      const jobs = await Promise.all(
        [
          ['/proc', 'proc'],
          ['/sys', 'sysfs'],
        ].map(
          async ([source]): Promise<Job> => ({
            root: await image(root),
            calls: [
              ['tmpfs', '/first'],
              ['mount', { ...mount, source }],
              ['hook', 'createRuntime', { path: '/bin/touch', args: ['touch', join(hook, 'ran')] }],
            ],
            mode: 'run',
            commands: [sh('true')],
          }),
        ),
      )
      const outcomes = await runAllInCell(root, jobs, host, { level })
      for (const [index, name] of ['proc', 'sysfs'].entries()) {
        const { error, left } = outcomes[index]!
        t.is(error?.code, 'ERR_ROOTFS_UNSUPPORTED', error?.message)
        t.regex(error!.message, new RegExp(`${name} can't be idmapped`))
        t.is(error!.destination, '/data')
        t.deepEqual(left, [])
      }
      t.deepEqual(readdirSync(hook), [])
    })
  }
}

asRoot('a filesystem that cannot be idmapped is named', async (t) => {
  const before = hostMounts()
  const rootfs = new Rootfs(await image(root)).bind('/sys/kernel', '/data', {
    recursive: false,
    idMap: both(line(0, 1000, 1)),
  })
  const error = await t.throwsAsync(rootfs.run('/bin/true'), { code: 'ERR_ROOTFS_UNSUPPORTED' })
  t.regex(error.message, /sysfs can't be idmapped/)
  t.regex((error as Error & { hint?: string }).hint ?? '', /ext4/)
  t.is(hostMounts(), before)
})

asRoot('the ids of a user namespace that there is not', async (t) => {
  // Whether there is one is known only when it is begun: root has none unless it asks for one.
  const rootfs = new Rootfs(await image(root)).bind(makeData(), '/data', { idMap: 'userns' })
  const error = await t.throwsAsync(rootfs.run('/bin/true'), { code: 'ERR_ROOTFS_SPEC' })
  t.regex(error.message, /the container has none/)
})

asRoot('with its own id in a user namespace', async (t) => {
  const data = makeData()
  const job: Job = {
    root: await image(own),
    calls: [['bind', data, '/data', { idMap: 'userns' }]],
    mode: 'run',
    commands: [owners],
  }
  const outcome = await runInCell(own, job, host)
  t.is(outcome.error, undefined)
  t.is(outcome.results[0]?.stdout, 'below 0:0\nfar 65534:65534\nroot 0:0\nseven 65534:65534\n')
})
