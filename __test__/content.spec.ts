// What is put into the tree: directories, links, files and device nodes, in every cell and at both levels; and what of it
// stays on the host.
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Rootfs, type RootfsError } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const newImage = (cell?: Cell): Promise<string> =>
  busyboxImage(join(host.scratch('content'), 'image'), {
    mountpoints: false,
    ...(cell === undefined ? {} : { owner: cell.owner }),
  })

const hasManyIds = ({ map }: Cell): boolean =>
  map === undefined || map.some((line) => Number(line.split(' ')[2]) > 1000)
/** The device is made by somebody else and bound: on the host there is a mountpoint that comes and goes. */
const bindsNodes = ({ map }: Cell): boolean => map !== undefined
/** Even a fifo comes from the opener. */
const bindsFifos = ({ uid, map }: Cell): boolean => uid === 0 && map !== undefined

/** Runs a script in a container with these calls, and gives what it prints. */
async function runScript(cell: Cell, image: string, calls: Job['calls'], script: string, level?: Level) {
  const job: Job = {
    root: image,
    calls,
    mode: 'run',
    commands: [{ command: '/bin/sh', args: ['-c', script] }],
  }
  return runInCell(cell, job, host, level === undefined ? {} : { level })
}

function printed(t: ExecutionContext, outcome: Outcome): string[] {
  if (outcome.error !== undefined) t.log(outcome.error)
  t.is(outcome.error, undefined)
  t.is(outcome.results[0]?.stderr, '')
  return outcome.results[0]?.stdout.trimEnd().split('\n') ?? []
}

/** Declares a test for each cell, and for each level where that makes a difference. */
function testCells(title: string, body: (t: ExecutionContext, cell: Cell, level: Level) => Promise<void>) {
  for (const level of levels) {
    for (const cell of cells) {
      const full = `${cell.name}, ${level}: ${title}`
      testNeeding([...cell.needs, 'busybox'], level)(full, (t) => body(t, cell, level))
    }
  }
}

testCells('what was asked for is there, exactly as asked', async (t, cell, level) => {
  const image = await newImage(cell)
  symlinkSync('/private/resolv.conf', join(image, 'etc', 'resolv.conf'))
  const before = snapshotTree(image)
  const owned = hasManyIds(cell) ? 1000 : 0
  const calls: Job['calls'] = [
    ['defaults'],
    ['tmpfs', '/run', { mode: 0o755 }],
    ['directory', '/made/deep', { mode: 0o1751 }],
    ['directory', '/made/owned', { uid: owned, gid: owned }],
    ['directory', '/run/inside', { mode: 0o2700, uid: owned, gid: owned }],
    ['symlink', '/made/deep', '/made/link'],
    ['symlink', '../away', '/run/links/link'],
    ['file', '/etc/resolv.conf', 'nameserver ::1\n', { mode: 0o604, uid: owned, gid: owned }],
    ['file', '/own/state', 'begin\n', { mode: 0o4755, writable: true }],
    ['device', { path: '/dev/nodes/null', type: 'u', major: 1, minor: 3 }],
    ['device', { path: '/nodes/zero', type: 'c', major: 1, minor: 5 }],
    ['device', { path: '/nodes/fifo', type: 'p', mode: 0o620 }],
  ]
  const paths = [
    '/made/deep',
    '/made/owned',
    '/run/inside',
    '/etc/resolv.conf',
    '/private/resolv.conf',
    '/own/state',
    '/dev/nodes/null',
    '/nodes/zero',
    '/nodes/fifo',
  ]
  const script = `
    for path in ${paths.join(' ')}; do stat -L -c '%n %a %u:%g %F %t:%T' $path; done
    readlink /made/link; readlink /run/links/link
    cat /etc/resolv.conf
    echo more >> /own/state && cat /own/state
    (echo x >> /etc/resolv.conf) 2>/dev/null || echo read-only
    head -c 3 /nodes/zero | od -An -tx1
    echo gone > /dev/nodes/null && echo written
    grep -E ' /(private/resolv.conf|own/state) ' /proc/self/mountinfo >&2
  `
  const outcome = await runScript(cell, image, calls, script, level)
  const mounts = parseMountinfo(outcome.results[0]?.stderr ?? '')
  if (outcome.results[0]) outcome.results[0].stderr = ''
  // The owner of a host's node has no id inside.
  const bound = cell.uid === 0 ? '0:0' : '65534:65534'
  t.deepEqual(printed(t, outcome), [
    '/made/deep 1751 0:0 directory 0:0',
    `/made/owned 755 ${owned}:${owned} directory 0:0`,
    `/run/inside 2700 ${owned}:${owned} directory 0:0`,
    `/etc/resolv.conf 604 ${owned}:${owned} regular file 0:0`,
    `/private/resolv.conf 604 ${owned}:${owned} regular file 0:0`,
    '/own/state 4755 0:0 regular file 0:0',
    `/dev/nodes/null 666 ${bound} character special file 1:3`,
    `/nodes/zero 666 ${bound} character special file 1:5`,
    '/nodes/fifo 620 0:0 fifo 0:0',
    '/made/deep',
    '../away',
    'nameserver ::1',
    'begin',
    'more',
    'read-only',
    ' 00 00 00',
    'written',
  ])
  const [file, state] = ['/private/resolv.conf', '/own/state'].map((path) =>
    mounts.find(({ destination }) => destination === path),
  )
  for (const flag of ['ro', 'nosuid', 'nodev', 'noexec']) t.true(file?.options.includes(flag), flag)
  t.true(file?.superOptions.includes('ro'), 'the filesystem is read-only too')
  t.true(file?.superOptions.includes('size=4k'), `${file?.superOptions}`)
  for (const flag of ['rw', 'nosuid', 'nodev']) t.true(state?.options.includes(flag), flag)
  t.false(state?.options.includes('noexec'), 'it was asked to be executable')

  // What was asked for on the host directory stays, with its owner as the host sees it; mountpoints do not.
  const shift = cell.map === undefined ? 0 : hostId(cell, owned)
  const made = (name: string) => lstatSync(join(image, name))
  t.is(made('made/deep').mode & 0o7777, 0o1751)
  t.is(made('made/deep').uid, cell.writesAs)
  t.is(made('made/owned').uid, cell.map === undefined ? owned : shift)
  t.is(readlinkSync(join(image, 'made/link')), '/made/deep')
  t.is(made('made/link').uid, cell.writesAs)
  const left = snapshotTree(image).filter((line) => !before.includes(line))
  const names = left.map((line) => line.split(' ')[0])
  const expected = ['/made', '/made/deep', '/made/link', '/made/owned']
  if (!bindsFifos(cell)) expected.push('/nodes', '/nodes/fifo')
  if (!bindsNodes(cell)) expected.push('/nodes/zero')
  t.deepEqual(names, expected)
  for (const line of before) t.true(snapshotTree(image).includes(line), line)
})

testCells("a host's node with another mode is a warning", async (t, cell, level) => {
  const job: Job = {
    root: await newImage(cell),
    calls: [
      ['defaults'],
      ['device', { path: '/nodes/narrow', type: 'c', major: 1, minor: 3, mode: 0o600 }],
      ['device', { path: '/nodes/same', type: 'c', major: 1, minor: 3, mode: 0o666 }],
    ],
    mode: 'prepare',
    commands: [{ command: '/bin/stat', args: ['-c', '%a', '/nodes/narrow', '/nodes/same'] }],
  }
  const outcome = await runInCell(cell, job, host, { level })
  const bound = cell.uid !== 0
  t.deepEqual(printed(t, outcome), [bound ? '666' : '600', '666'])
  const warnings = outcome.warnings!.filter(({ code }) => code === 'device-mode')
  const message = "/nodes/narrow is the host's node, which has mode 666; asked for was mode 600"
  t.deepEqual(
    warnings.map((warning) => warning.message),
    bound ? [message] : [],
  )
})

for (const level of levels) {
  testNeeding(['root', 'unshare', 'busybox'], level)(
    `${level}: a device has its own owner and mode, and not those of the directory`,
    async (t) => {
      const [cell] = cells
      const image = await newImage(cell!)
      const nodes = join(image, 'nodes')
      mkdirSync(nodes)
      chownSync(nodes, 0, 1234)
      chmodSync(nodes, 0o2755)
      const calls: Job['calls'] = [
        ['defaults'],
        ['device', { path: '/nodes/zero', type: 'c', major: 1, minor: 5 }],
        ['device', { path: '/nodes/full', type: 'c', major: 1, minor: 7, mode: 0o6640, uid: 5, gid: 6 }],
        ['device', { path: '/nodes/fifo', type: 'p', mode: 0o600, gid: 7 }],
      ]
      const script = `cd /nodes && stat -c '%n %a %u:%g %F' zero full fifo`
      const outcome = await runScript(cell!, image, calls, script, level)
      t.deepEqual(printed(t, outcome), [
        'zero 666 0:0 character special file',
        'full 6640 5:6 character special file',
        'fifo 600 0:7 fifo',
      ])
    },
  )
}

function hostId(cell: Cell, inside: number): number {
  for (const line of cell.map ?? []) {
    const [first = 0, outside = 0, size = 0] = line.trim().split(/\s+/).map(Number)
    if (inside >= first && inside < first + size) return outside + inside - first
  }
  return -1
}

testCells('what is there already is kept, and changed only as asked', async (t, cell, level) => {
  const image = await newImage(cell)
  mkdirSync(join(image, 'there'))
  symlinkSync('there', join(image, 'link'))
  const calls: Job['calls'] = [
    ['defaults'],
    // Not owned by anybody inside, where that can be: it takes the caller's rights to change it.
    ['directory', '/there', cell.uid === 0 ? { mode: 0o711 } : {}],
    ['directory', '/link/below'],
    ['symlink', 'there', '/link'],
    ['directory', '/etc'],
  ]
  const outcome = await runScript(cell, image, calls, 'stat -c %a /there; cd /link/below && pwd -P', level)
  if (cell.uid !== 0) {
    // The directory belongs to the host's root.
    t.is(outcome.error?.code, 'ERR_ROOTFS_MOUNT')
    t.is(outcome.error?.errnoName, 'EACCES')
    return
  }
  t.deepEqual(printed(t, outcome), ['711', '/there/below'])
  t.is(lstatSync(join(image, 'there')).mode & 0o7777, 0o711)
  t.is(lstatSync(join(image, 'there', 'below')).uid, cell.writesAs)
  t.is(readlinkSync(join(image, 'link')), 'there')
})

const obstacles: Array<
  [title: string, call: Job['calls'][number], code: string, errno: string, message: RegExp]
> = [
  ['a file for a directory', ['directory', '/etc/passwd'], 'ERR_ROOTFS_MOUNT', 'EEXIST', /is no directory/],
  ['a file for a link', ['symlink', 'x', '/etc/passwd'], 'ERR_ROOTFS_MOUNT', 'EEXIST', /is no symbolic link/],
  ['another link', ['symlink', 'other', '/bin/sh'], 'ERR_ROOTFS_MOUNT', 'EEXIST', /leads somewhere else/],
  ['a directory for a file', ['file', '/etc', ''], 'ERR_ROOTFS_MOUNT', 'EISDIR', /directory/],
  ['a file above a directory', ['directory', '/etc/passwd/x'], 'ERR_ROOTFS_MOUNT', 'ENOTDIR', /no directory/],
  [
    'a directory for a device',
    ['device', { path: '/etc', type: 'c', major: 1, minor: 3 }],
    'ERR_ROOTFS_DEVICE',
    'EEXIST',
    /\/etc/,
  ],
  [
    'a link for a device',
    ['device', { path: '/bin/sh', type: 'p' }],
    'ERR_ROOTFS_DEVICE',
    'EEXIST',
    /\/bin\/sh/,
  ],
]

for (const cell of cells) {
  for (const [title, call, code, errno, message] of obstacles) {
    testNeeding([...cell.needs, 'busybox'])(`${cell.name}: ${title} is in the way`, async (t) => {
      const image = await newImage(cell)
      const before = snapshotTree(image)
      const { error } = await runScript(cell, image, [call], 'true')
      t.is(error?.code, code)
      t.is(error?.errnoName, errno)
      t.regex(error?.message ?? '', message)
      t.deepEqual(snapshotTree(image), before)
    })
  }
}

for (const cell of cells.filter((cell) => !hasManyIds(cell))) {
  for (const call of [
    ['file', '/x', '', { uid: 5, gid: 5 }],
    ['directory', '/run/x', { uid: 5 }],
  ] as Array<Job['calls'][number]>) {
    testNeeding([...cell.needs, 'busybox'])(`${cell.name}: ${call[0]} of an owner without id`, async (t) => {
      const image = await newImage(cell)
      const { error } = await runScript(cell, image, [['tmpfs', '/run'], call], 'true')
      t.is(error?.code, 'ERR_ROOTFS_MOUNT')
      t.regex(error?.message ?? '', /is not mapped in the user namespace/)
    })
  }
}

const testHere = testNeeding(['root', 'busybox'])

testHere('content is binary and can be large', async (t) => {
  const bytes = randomBytes(20 << 20)
  const rootfs = new Rootfs(await newImage()).file('/blob', bytes)
  const { stdout, stderr } = await rootfs.run('/usr/bin/sha256sum', ['/blob'])
  t.is(stderr, '')
  t.is(stdout.split(' ')[0], createHash('sha256').update(bytes).digest('hex'))
})

testHere('too much content is an error, at the call or, all together, when it is used', async (t) => {
  const image = await newImage()
  const before = snapshotTree(image)
  t.throws(() => new Rootfs(image).file('/x', new Uint8Array((64 << 20) + 1)), {
    code: 'ERR_OUT_OF_RANGE',
    message: 'Expected at most 67108864 bytes for content but received a Uint8Array of 67108865 bytes',
  })
  const half = new Uint8Array(40 << 20)
  const error = await t.throwsAsync<RootfsError>(
    new Rootfs(image).file('/x', half).file('/y', half).run('/bin/true'),
  )
  t.is(error.code, 'ERR_ROOTFS_SPEC')
  t.regex(error.message, /at most 67108864 can be handed over/)
  t.deepEqual(snapshotTree(image), before)
})

testHere('each container has its own copy of a writable file, which can grow', async (t) => {
  const rootfs = new Rootfs(await newImage()).dev().file('/state', '0', { writable: true })
  await using one = await rootfs.prepare()
  await using other = await rootfs.prepare()
  const grow = 'dd if=/dev/zero of=/state bs=1M count=8 conv=notrunc 2>/dev/null; wc -c < /state'
  t.is((await one.run('/bin/sh', ['-c', grow])).stdout.trim(), `${8 << 20}`)
  t.is((await one.run('/bin/sh', ['-c', 'echo changed > /state; cat /state'])).stdout, 'changed\n')
  t.is((await other.run('/bin/cat', ['/state'])).stdout, '0')
})

testHere('an empty root is filled without the host', async (t) => {
  const rootfs = Rootfs.empty()
    .bind('/', '/host', { readonly: true })
    .directory('/bin')
    .symlink('/host/bin/busybox', '/bin/sh')
    .file('/etc/motd', 'hello\n')
    .symlink('etc', '/conf')
    .file('/conf/other', 'there\n')
  const { stdout, stderr } = await rootfs.run('/host/bin/busybox', ['cat', '/etc/motd', '/etc/other'])
  t.is(stderr, '')
  t.is(stdout, 'hello\nthere\n')
})

testHere('a read-only mount takes what is put into it before', async (t) => {
  const source = host.scratch('source')
  const rootfs = new Rootfs(await newImage())
    .bind(source, '/data', { readonly: true })
    .directory('/data/made')
    .symlink('made', '/data/link')
    .file('/data/file', 'x')
  const { stdout } = await rootfs.run('/bin/sh', [
    '-c',
    'ls /data; touch /data/made/x 2>/dev/null || echo ro',
  ])
  t.is(stdout, 'file\nlink\nmade\nro\n')
  t.deepEqual(
    snapshotTree(source).map((line) => line.split(' ')[0]),
    ['/', '/link', '/made'],
  )
  const codes = rootfs.plan().warnings.map(({ code }) => code)
  t.deepEqual(codes, ['writes-to-source'])
})

testHere('a file that is bound is a warning, since it may be replaced', async (t) => {
  const source = join(host.scratch('source'), 'file')
  writeFileSync(source, 'x')
  const { warnings } = await new Rootfs(await newImage())
    .bind(source, '/x')
    .bind('/dev/null', '/n')
    .run('/bin/true')
  t.deepEqual(
    warnings.map(({ code }) => code),
    ['nodev-device', 'single-file'],
  )
  t.is(readFileSync(source, 'utf8'), 'x')
})
