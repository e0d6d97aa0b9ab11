// Where a mount ends up: names, links, what is made where nothing is, and with which modes; and what of each kind is bound.
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, nobody, runAllInCell, runInCell } from './support/cells.ts'
import { evaluate } from './support/evaluate.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job } from './support/job.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { findProgram, mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })
const table: Command = { command: '/bin/cat', args: ['/proc/self/mountinfo'] }

/** Links of an image, and directories that are there already. */
async function makeImage(cell: Cell): Promise<string> {
  const image = await busyboxImage(join(host.scratch('image'), 'image'), { owner: cell.owner })
  for (const directory of ['real', 'a/b', 'quay/conf', 'usr/tools', 'closed/inner', 'opt'])
    mkdirSync(join(image, directory), { recursive: true })
  for (const [path, target] of [
    ['absolute', '/real'],
    // Leaves and comes back in; `..` of the root is the root.
    ['a/b/around', '../../../../../a/../back'],
    ['conf', '/quay/conf'],
    ['tools', 'usr/tools'],
    ['etc/localtime', '/usr/share/zoneinfo/Nowhere'],
    ['missing', '/not/there'],
    ['chain', 'missing/one'],
    ['opt/run', '/run'],
  ] as const)
    symlinkSync(target, join(image, path))
  await mustRun('chown', ['-hR', `${cell.writesAs}:${cell.writesAs}`, image])
  // Somebody else's, who lets others only pass.
  chownSync(join(image, 'closed'), 12_345, 12_345)
  chmodSync(join(image, 'closed'), 0o711)
  return image
}

/** Destination, and where it ends up. */
const places: Array<[destination: string, place: string]> = [
  ['relative/one', '/relative/one'],
  ['/../../clamped/../clamped/one', '/clamped/one'],
  ['/absolute/one', '/real/one'],
  ['/a/b/around/one', '/back/one'],
  ['/conf/one', '/quay/conf/one'],
  ['/tools/one', '/usr/tools/one'],
  ['/missing/middle', '/not/there/middle'],
  ['/chain', '/not/there/one'],
  ['/opt/run/one', '/run/one'],
  ['/closed/inner', '/closed/inner'],
  ['/odd/a:b,c\\d e\nf"g', '/odd/a:b,c\\d e\nf"g'],
]

for (const cell of cells) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)

    testHere(
      `${cell.name}, ${level}: each destination leads into the root, and is made where it is missing`,
      async (t) => {
        const image = await makeImage(cell)
        const before = snapshotTree(image)
        const data = host.scratch('data')
        writeFileSync(join(data, 'file'), 'content\n')
        for (const how of ['tmpfs', 'bind'] as const) {
          const calls: Job['calls'] = places.map(([destination]) =>
            how === 'tmpfs' ? ['tmpfs', destination] : ['bind', data, destination],
          )
          const zone = ['bind', join(data, 'file'), '/etc/localtime'] as Job['calls'][number]
          const job: Job = {
            root: image,
            calls: [...calls, zone, ['proc']],
            mode: 'prepare',
            commands: [table, sh('cat /usr/share/zoneinfo/Nowhere /etc/localtime')],
          }
          const { error, results, warnings, left } = await runInCell(cell, job, host, { level })
          t.is(error, undefined, error?.message)
          t.deepEqual(left, [])
          const found = parseMountinfo(results[0]!.stdout).map(({ destination }) => destination)
          for (const [destination, place] of places)
            t.is(found.filter((path) => path === place).length, 1, `${how} on ${destination}: ${place}`)
          t.is(results[1]!.stdout, 'content\n'.repeat(2))
          t.true(warnings!.some(({ code }) => code === 'relative-destination'))
          t.deepEqual(snapshotTree(image), before)
        }
      },
    )

    testHere(
      `${cell.name}, ${level}: a bind of each kind of file, through links and odd names`,
      async (t) => {
        const image = await makeImage(cell)
        const data = host.scratch('data')
        const odd = join(data, 'a:b,c\\d e\nf')
        mkdirSync(odd)
        writeFileSync(join(odd, 'file'), 'content\n')
        symlinkSync('a:b,c\\d e\nf/file', join(data, 'link'))
        symlinkSync(data, join(data, 'itself'))
        await mustRun('mkfifo', ['-m', '666', join(data, 'fifo')])
        // A path of a socket has room for some hundred bytes.
        const server = createServer().listen(join(data, 'socket'))
        const bind = (name: string, destination: string): Job['calls'][number] => [
          'bind',
          name,
          destination,
          { recursive: false },
        ]
        const job: Job = {
          root: image,
          calls: [
            bind(join(odd, 'file'), '/bound/file'),
            bind(join(data, 'itself', 'link'), '/bound/link'),
            bind(join(data, 'fifo'), '/bound/fifo'),
            bind(join(data, 'socket'), '/bound/socket'),
            ['mount', { destination: '/bound/device', source: '/dev/zero', options: ['bind'] }],
            bind(odd, '/bound/directory'),
            ['proc'],
          ],
          mode: 'prepare',
          commands: [
            sh(
              'cd /bound && stat -c "%n %F" * && cat file link directory/file && head -c 3 device | od -An -tx1',
            ),
            table,
          ],
        }
        const { error, results } = await runInCell(cell, job, host, { level })
        server.close()
        t.is(error, undefined, error?.message)
        t.deepEqual(results[0]!.stdout.trim().split(/\n/), [
          'device character special file',
          'directory directory',
          'fifo fifo',
          'file regular file',
          'link regular file',
          'socket socket',
          ...Array.from({ length: 3 }, () => 'content'),
          ' 00 00 00',
        ])
      },
    )
  }
}

const [asRoot] = cells as [Cell]
const unprivileged = cells.find(({ uid }) => uid === nobody)!

for (const cell of [asRoot, unprivileged]) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)

    testHere(`${cell.name}, ${level}: what doesn't fit is refused with a reason`, async (t) => {
      const image = await makeImage(cell)
      const before = snapshotTree(image)
      symlinkSync('loop', join(image, 'loop'))
      const data = host.scratch('data')
      writeFileSync(join(data, 'file'), '')
      const rows: Array<
        [call: Job['calls'][number], code: string, errno: string | undefined, words: RegExp]
      > = [
        [
          ['bind', data, '/etc/passwd'],
          'ERR_ROOTFS_MOUNT',
          'ENOTDIR',
          /a directory can't be mounted on something that is none/,
        ],
        [
          ['tmpfs', '/etc/passwd'],
          'ERR_ROOTFS_MOUNT',
          'ENOTDIR',
          /a directory can't be mounted on something that is none/,
        ],
        [
          ['bind', join(data, 'file'), '/real'],
          'ERR_ROOTFS_MOUNT',
          'EISDIR',
          /something that is no directory can't be mounted on a directory/,
        ],
        [
          ['tmpfs', '/etc/passwd/below'],
          'ERR_ROOTFS_MOUNT',
          'ENOTDIR',
          /passes through something that is no directory/,
        ],
        ...(
          [
            ['bind', join(data, 'file'), '/etc/passwd/'],
            ['bind', join(data, 'file'), '/etc/missing/'],
            ['bind', join(data, 'file'), '/made/missing/.'],
            ['file', '/missing/', ''],
          ] as const
        ).map((call): (typeof rows)[number] => [
          [...call],
          'ERR_ROOTFS_MOUNT',
          'ENOTDIR',
          /(passwd|missing)\/\.? ends in a slash/,
        ]),
        [['tmpfs', '/loop/x'], 'ERR_ROOTFS_MOUNT', 'ELOOP', /too many/],
        ...(['proc', 'sysfs'] as const).flatMap((type): typeof rows => [
          [[type, '/absolute'], 'ERR_ROOTFS_PROC', undefined, /must be mounted on ordinary directory/],
          [[type, '/absolute/made'], 'ERR_ROOTFS_PROC', undefined, /must be mounted on ordinary directory/],
          [[type, '/etc/passwd'], 'ERR_ROOTFS_PROC', undefined, /must be mounted on ordinary directory/],
        ]),
      ]
      const jobs = rows.map(
        ([call]): Job => ({ root: image, calls: [call], mode: 'run', commands: [sh('true')] }),
      )
      const outcomes = await runAllInCell(cell, jobs, host, { level })
      for (const [index, [call, code, errno, words]] of rows.entries()) {
        const { error, left } = outcomes[index]!
        const what = JSON.stringify(call)
        t.is(error?.code, code, `${what}: ${error?.message}`)
        t.is(error?.errnoName, errno, what)
        t.regex(error!.message, words, what)
        t.deepEqual(left, [])
      }
      t.deepEqual(
        snapshotTree(image).filter((line) => !line.startsWith('/loop ')),
        before,
      )
    })

    testHere(`${cell.name}, ${level}: a missing place for proc or sysfs is made`, async (t) => {
      const image = await makeImage(cell)
      const job: Job = {
        root: image,
        calls: [
          ['proc', '/made/proc'],
          ['sysfs', '/made/sys'],
        ],
        mode: 'run',
        commands: [sh('ls -d /made/proc/self /made/sys/kernel')],
      }
      const { error, results } = await runInCell(cell, job, host, { level })
      t.is(error, undefined, error?.message)
      t.is(results[0]!.stdout, '/made/proc/self\n/made/sys/kernel\n')
    })

    testHere(`${cell.name}, ${level}: names that are not UTF-8`, async (t) => {
      const image = await makeImage(cell)
      const data = Buffer.concat([Buffer.from(`${host.scratch('data')}/`), Buffer.from([0xff, 0x2c, 0xfe])])
      mkdirSync(data)
      writeFileSync(Buffer.concat([data, Buffer.from('/file')]), 'content\n')
      const body = `
        const data = new Uint8Array(${JSON.stringify([...data])})
        const at = new Uint8Array([...Buffer.from('/odd/'), 0xc3, 0x28, 0x80])
        const rootfs = new Rootfs(image).bind(data, at).tmpfs(new Uint8Array([...at, ...Buffer.from('-2/deep')]))
        const { stdout, stderr } = await rootfs.run('/bin/sh', ['-c', 'cat /odd/*/file && ls -d /odd/*-2/deep | wc -l'])
        return stdout + stderr`
      const user =
        cell === asRoot ? [] : ['setpriv', '--reuid', `${nobody}`, '--regid', `${nobody}`, '--clear-groups']
      const stdout = await evaluate(body, image, [
        'unshare',
        '--mount',
        '--propagation',
        'private',
        'env',
        `ROOTFS_TEST_LEVEL=${level}`,
        ...user,
      ])
      t.is(stdout, 'content\n1\n')
      t.false(readdirSync(image).includes('odd'))
    })
  }
}

for (const cell of cells) {
  for (const level of levels) {
    const title = `${cell.name}, ${level}: what is mounted on / is the root`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const [image, other] = [await makeImage(cell), await makeImage(cell)]
      const top = host.scratch('top')
      writeFileSync(join(top, 'from-top'), 'top\n')
      for (const name of ['upper', 'work']) {
        mkdirSync(join(`${top}-layers`, name), { recursive: true })
        chownSync(join(`${top}-layers`, name), cell.writesAs, cell.writesAs)
      }
      const upper = join(`${top}-layers`, 'upper')
      const work = join(`${top}-layers`, 'work')
      const before = [image, other].map((directory) => snapshotTree(directory))
      const busybox = findProgram('busybox')!
      const roots: Array<[call: Job['calls'][number], type: string | undefined, script: string]> = [
        [
          ['bind', other, '/', { readonly: true }],
          undefined,
          'test -e /etc/passwd; echo no > /new || echo ro',
        ],
        [
          ['overlay', '/', { lower: [top, other], upper, work }],
          'overlay',
          'cat /from-top; echo yes > /new && cat /new',
        ],
        [
          ['tmpfs', '/', { mode: 0o711 }],
          'tmpfs',
          'test ! -e /etc && stat -c %a / && echo yes > /new && cat /new',
        ],
      ]
      const jobs = roots.map(
        ([call, , script]): Job => ({
          root: image,
          calls: [
            ['tmpfs', '/own'],
            call,
            ['bind', busybox, '/run/busybox'],
            ['tmpfs', '/run/deep'],
            ['proc'],
          ],
          mode: 'prepare',
          commands: [
            { command: '/run/busybox', args: ['cat', '/proc/self/mountinfo'] },
            {
              command: '/run/busybox',
              args: ['sh', '-c', `for c in cat stat test; do alias $c="/run/busybox $c"; done\n${script}`],
            },
          ],
        }),
      )
      const outcomes = await runAllInCell(cell, jobs, host, { level })
      const said: string[] = ['ro\n', 'top\nyes\n', '711\nyes\n']
      for (const [index, [call, type]] of roots.entries()) {
        const { error, results, left } = outcomes[index]!
        t.is(error, undefined, `${call[0]}: ${error?.message}`)
        t.deepEqual(left, [])
        const found = parseMountinfo(results[0]!.stdout)
        t.deepEqual(
          found.map(({ destination }) => destination).toSorted(),
          ['/', '/proc', '/run/busybox', '/run/deep'],
          call[0],
        )
        if (type !== undefined) t.is(found.find(({ destination }) => destination === '/')!.type, type)
        t.is(results[1]!.stdout, said[index]!, `${call[0]}: ${results[1]!.stderr}`)
      }
      t.deepEqual(
        [image, other].map((directory) => snapshotTree(directory)),
        before,
      )
    })
  }
}

// ---------------------------------------------------------------- as root

// The first one is that with which the supervisor is started.
for (const umask of [0o777, 0o077, 0o000]) {
  testNeeding(['root', 'busybox'])(
    `what is made has its exact mode, with the umask ${umask.toString(8)}, and the group of a setgid parent`,
    async (t) => {
      const image = await makeImage(asRoot)
      const data = host.scratch('data')
      writeFileSync(join(data, 'file'), '')
      mkdirSync(join(image, 'group'))
      chownSync(join(image, 'group'), 0, 4321)
      chmodSync(join(image, 'group'), 0o2775)
      const before = process.umask(umask)
      try {
        const rootfs = new Rootfs(image)
          .tmpfs('/made/deep')
          .bind(join(data, 'file'), '/made/file')
          .tmpfs('/group/deep/er')
          .bind(join(data, 'file'), '/group/deep/file')
        await using _box = await rootfs.prepare()
        const facts = (path: string): string => {
          const { mode, uid, gid } = statSync(join(image, path))
          return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`
        }
        t.is(facts('made'), '755 0:0')
        t.is(facts('made/deep'), '755 0:0')
        t.is(facts('made/file'), '644 0:0')
        t.is(facts('group/deep'), '2755 0:4321')
        t.is(facts('group/deep/er'), '2755 0:4321')
        t.is(facts('group/deep/file'), '644 0:4321')
      } finally {
        process.umask(before)
      }
    },
  )
}

testNeeding(['root', 'busybox'])('a file that is mounted on keeps what it holds', async (t) => {
  const image = await makeImage(asRoot)
  const data = host.scratch('data')
  writeFileSync(join(data, 'file'), 'bound\n')
  const before = snapshotTree(image)
  const { stdout } = await new Rootfs(image)
    .bind(join(data, 'file'), '/etc/passwd')
    .run('/bin/cat', ['/etc/passwd'])
  t.is(stdout, 'bound\n')
  t.deepEqual(snapshotTree(image), before)
  t.true(lstatSync(join(image, 'etc/passwd')).size > 0)
})

testNeeding(['root', 'busybox'])('many builders on one root at once', async (t) => {
  const image = await makeImage(asRoot)
  const before = snapshotTree(image)
  const all = await Promise.all(
    Array.from({ length: 20 }, () =>
      new Rootfs(image).tmpfs('/shared/made/deep').tmpfs('/missing/at/once').run('/bin/ls', ['/shared/made']),
    ),
  )
  for (const { stdout, stderr } of all) t.is(stdout + stderr, 'deep\n')
  t.deepEqual(snapshotTree(image), before)
})

for (const level of levels) {
  const testHere = testNeeding([...asRoot.needs, 'busybox'], level)

  testHere(`inside a container: /proc/sys is read-only, parts of /proc are hidden, ${level}`, async (t) => {
    const image = await makeImage(asRoot)
    const setup = `
      for path in sys irq; do mount --bind /proc/$path /proc/$path; mount -o remount,bind,ro /proc/$path; done
      mount --bind /dev/null /proc/version`
    const job: Job = {
      root: image,
      calls: [['defaults'], ['hostname', 'inner'], ['sysctl', 'kernel.msgmax', '4242']],
      mode: 'run',
      commands: [sh('hostname; cat /proc/sys/kernel/msgmax')],
    }
    const { error, results } = await runInCell(asRoot, job, host, { level, setup })
    t.is(error, undefined, error?.message)
    t.is(results[0]!.stdout, 'inner\n4242\n')
  })
}

for (const cell of cells.filter(({ uid }) => uid === 0)) {
  for (const level of levels) {
    const title = `${cell.name}, ${level}: a source that only the caller can reach`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const closed = host.scratch('closed')
      mkdirSync(join(closed, 'data'))
      writeFileSync(join(closed, 'data', 'file'), 'content\n')
      chmodSync(closed, 0o700)
      const job: Job = {
        root: await makeImage(cell),
        calls: [
          ['bind', join(closed, 'data'), '/new/data'],
          ['bind', join(closed, 'data', 'file'), '/new/file'],
        ],
        mode: 'run',
        commands: [sh('cat /new/data/file /new/file')],
      }
      const { error, results } = await runInCell(cell, job, host, { level })
      t.is(error, undefined, error?.message)
      t.is(results[0]!.stdout, 'content\n'.repeat(2))
    })
  }
}

testNeeding([...unprivileged.needs, 'busybox'])(
  'an ordinary user, below directories that only let pass',
  async (t) => {
    const outer = host.scratch('outer')
    const image = await busyboxImage(join(outer, 'image'), { owner: unprivileged.owner })
    const data = join(outer, 'data')
    mkdirSync(data)
    writeFileSync(join(data, 'file'), readFileSync('/etc/hostname'))
    chmodSync(outer, 0o711)
    const job: Job = {
      root: image,
      calls: [['bind', join(data, 'file'), '/new/file']],
      mode: 'run',
      commands: [sh('cmp /new/file /new/file && echo same')],
    }
    const { error, results } = await runInCell(unprivileged, job, host)
    t.is(error, undefined, error?.message)
    t.is(results[0]!.stdout, 'same\n')
  },
)
