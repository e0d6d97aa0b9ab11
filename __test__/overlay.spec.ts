// Overlays, as root and as mounts: what is written goes where it should, and the lower directories stay as they are.
import {
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job, Outcome } from './support/job.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })

/** A directory that container root can write to. */
function owned(cell: Cell, path: string): string {
  mkdirSync(path)
  chownSync(path, cell.writesAs, cell.writesAs)
  return path
}

interface Tree {
  image: string
  /** On top of the image. */
  top: string
  upper: string
  work: string
}

async function makeTree(cell: Cell): Promise<Tree> {
  const directory = host.scratch('overlay')
  const image = await busyboxImage(join(directory, 'image'), { mountpoints: false, owner: cell.owner })
  const top = owned(cell, join(directory, 'top'))
  writeFileSync(join(top, 'from-top'), 'top\n')
  chownSync(join(top, 'from-top'), cell.writesAs, cell.writesAs)
  mkdirSync(join(top, 'etc'))
  chownSync(join(top, 'etc'), cell.writesAs, cell.writesAs)
  return {
    image,
    top,
    upper: owned(cell, join(directory, 'upper')),
    work: owned(cell, join(directory, 'work')),
  }
}

const succeeded = ({ results, error }: Outcome) => ({
  error,
  statuses: results.map(({ exitCode, stderr }) => [exitCode, stderr]),
})
const allFine = (count: number) => ({
  error: undefined,
  statuses: Array.from({ length: count }, () => [0, '']),
})

const change = sh(
  'cat /from-top && echo changed > /from-top && rm /etc/frozen/file && rm -r /etc/secret-directory && ' +
    'mkdir /etc/secret-directory && echo new > /etc/secret-directory/new && ls /etc/secret-directory',
)

for (const cell of cells) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)
    testHere(`${cell.name}, ${level}: without upper nothing of what is written stays`, async (t) => {
      const { image, top } = await makeTree(cell)
      const before = [snapshotTree(image), snapshotTree(top)]
      const job: Job = {
        root: { overlay: { lower: [top, image] } },
        calls: [['defaults'], ['tmpfs', '/made/on/the/way']],
        mode: 'prepare',
        commands: [change, sh('cat /from-top; ls /etc/frozen'), sh('stat -c %u:%a /')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.deepEqual(succeeded(outcome), allFine(3))
      const [first, second, third] = outcome.results.map(({ stdout }) => stdout)
      t.is(first, 'top\nnew\n')
      t.is(second, 'changed\n')
      // The root looks like the topmost lower directory.
      t.is(third, '0:755\n')
      t.deepEqual([snapshotTree(image), snapshotTree(top)], before)
      const root = outcome.mounts?.find((mount) => mount.destination === '/')
      t.is(root?.type, 'overlay')

      const again = await runInCell(cell, { ...job, commands: [sh('cat /from-top')] }, host, { level })
      t.is(again.results[0]?.stdout, 'top\n')
    })

    testHere(`${cell.name}, ${level}: with upper all stays but the mountpoints`, async (t) => {
      const { image, top, upper, work } = await makeTree(cell)
      const before = [snapshotTree(image), snapshotTree(top)]
      const job: Job = {
        root: { overlay: { lower: [top, image], upper, work } },
        calls: [['defaults'], ['tmpfs', '/made/on/the/way'], ['tmpfs', '/etc/made']],
        mode: 'prepare',
        commands: [change],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.deepEqual(succeeded(outcome), allFine(1))
      t.deepEqual([snapshotTree(image), snapshotTree(top)], before)
      t.deepEqual(readdirSync(upper).sort(), ['etc', 'from-top'])
      t.deepEqual(readdirSync(join(upper, 'etc')).sort(), ['frozen', 'secret-directory'])
      t.is(readFileSync(join(upper, 'from-top'), 'utf8'), 'changed\n')
      t.is(lstatSync(join(upper, 'from-top')).uid, cell.writesAs)
      t.true(lstatSync(join(upper, 'etc', 'frozen', 'file')).isCharacterDevice(), 'a whiteout')

      const again = await runInCell(cell, { ...job, commands: [sh('cat /from-top; ls /etc')] }, host, {
        level,
      })
      t.deepEqual(succeeded(again), allFine(1))
      t.true(again.results[0]?.stdout.startsWith('changed\n'))
      // It was there only while the container lived.
      t.deepEqual(readdirSync(join(upper, 'etc')).sort(), ['frozen', 'secret-directory'])
    })

    testHere(`${cell.name}, ${level}: mounts of overlays`, async (t) => {
      const { image, top, upper, work } = await makeTree(cell)
      const other = owned(cell, `${upper}-other`)
      writeFileSync(join(other, 'from-other'), 'other\n')
      const closed = [`upperdir=${owned(cell, `${upper}-closed`)}`, `workdir=${owned(cell, `${work}-closed`)}`]
      const job: Job = {
        root: image,
        calls: [
          ['proc'],
          ['mount', { destination: '/closed', type: 'overlay', options: [`lowerdir=${top}`, ...closed, 'ro'] }],
          ['tmpfs', '/closed/below'],
          ['overlay', '/written', { lower: [top, other], upper, work }],
          ['overlay', '/read', { lower: [top, other] }],
          ['tmpfs', '/written/below'],
          [
            'mount',
            { destination: '/oci', type: 'overlay', options: [`lowerdir=${top}:${other}`, 'nosuid'] },
          ],
        ],
        mode: 'prepare',
        commands: [
          sh('cat /written/from-top /read/from-other /oci/from-other && echo kept > /written/new'),
          sh('echo x > /read/new'),
          sh('echo x > /oci/new'),
          sh('echo x > /closed/new'),
          sh('echo x > /closed/below/new && grep " /closed " /proc/self/mountinfo'),
        ],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.is(outcome.error, undefined)
      t.is(outcome.results[0]?.stdout, 'top\nother\nother\n')
      t.is(outcome.results[0]?.exitCode, 0)
      for (const result of outcome.results.slice(1, 4)) t.regex(result.stderr, /Read-only file system/)
      const [shown] = parseMountinfo(outcome.results[4]!.stdout)
      // Where the caller's rights were needed to make it, nobody in the container has rights over it.
      const own = !cell.name.startsWith('root with')
      t.deepEqual([shown?.options.includes('ro'), shown?.superOptions.includes('ro')], [true, own])
      t.deepEqual(readdirSync(upper), ['new'])
      const flags = (destination: string) =>
        outcome.mounts?.find((mount) => mount.destination === destination)?.options as string[]
      t.true(
        ['nosuid', 'nodev', 'ro'].every((flag) => flags('/read').includes(flag)),
        `${flags('/read')}`,
      )
      t.true(['nosuid', 'nodev', 'rw'].every((flag) => flags('/written').includes(flag)))
      t.deepEqual([flags('/oci').includes('nosuid'), flags('/oci').includes('nodev')], [true, false])
    })

    testHere(`${cell.name}, ${level}: the tmpfs has the size that was asked for`, async (t) => {
      const { image, top } = await makeTree(cell)
      const job: Job = {
        root: { overlay: { lower: [top, image], size: '1m' } },
        calls: [],
        mode: 'run',
        commands: [sh('dd if=/bin/busybox of=/big bs=1k count=2048')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.is(outcome.error, undefined)
      t.regex(outcome.results[0]!.stderr, /No space left on device/)
    })
  }
}

const asRoot = testNeeding(['root', 'unshare', 'busybox'])
const [root] = cells as [Cell]

for (const level of levels) {
  const asRootHere = testNeeding(['root', 'unshare', 'busybox'], level)

  asRootHere(`${level}: names that need care`, async (t) => {
    const { image, upper, work } = await makeTree(root)
    const directory = host.scratch('odd')
    const names = ['a:b', 'a,b', 'a\\b', 'a b', 'a\nb', '"quoted"', 'x'.repeat(255), '::', '\\:', '=']
    const lower = names.map((name, number) => {
      const path = join(directory, name)
      mkdirSync(path)
      writeFileSync(join(path, `file-${number}`), name)
      return path
    })
    const job: Job = {
      root: image,
      calls: [
        ['overlay', '/odd', { lower, upper, work }],
        [
          'mount',
          { destination: '/oci', type: 'overlay', options: [`lowerdir=${directory}/a\\:b:${directory}/a,b`] },
        ],
      ],
      mode: 'run',
      commands: [sh('ls /odd | wc -l; cat /oci/file-0; cat /oci/file-1')],
    }
    const outcome = await runInCell(root, job, host, { level })
    t.deepEqual(succeeded(outcome), allFine(1))
    t.is(outcome.results[0]?.stdout, `${names.length}\na:ba,b`)
  })

  asRootHere(`${level}: a hundred layers, the first on top`, async (t) => {
    const { image } = await makeTree(root)
    const directory = host.scratch('layers')
    const lower = Array.from({ length: 100 }, (_, number) => {
      const path = join(directory, `${number}`)
      mkdirSync(path)
      writeFileSync(join(path, 'which'), `${number}`)
      writeFileSync(join(path, `only-${number}`), '')
      return path
    })
    const job: Job = {
      root: { overlay: { lower: [...lower, image] } },
      calls: [],
      mode: 'run',
      commands: [sh('cat /which; ls / | grep -c only-')],
    }
    const outcome = await runInCell(root, job, host, { level })
    t.deepEqual(succeeded(outcome), allFine(1))
    t.is(outcome.results[0]?.stdout, '0100\n')
  })
}

asRoot('a name that is not UTF-8', async (t) => {
  const { image, top } = await makeTree(root)
  const name = Buffer.concat([Buffer.from(`${host.scratch('bytes')}/`), Buffer.from([0xff, 0xfe])])
  mkdirSync(name)
  writeFileSync(Buffer.concat([name, Buffer.from('/inner')]), 'bytes')
  const { stdout } = await Rootfs.overlay({ lower: [new Uint8Array(name), top, image] }).run('/bin/cat', [
    '/inner',
  ])
  t.is(stdout, 'bytes')
})

asRoot('a relative directory is taken from the cwd at the call', async (t) => {
  const { image } = await makeTree(root)
  const before = process.cwd()
  process.chdir(image)
  let rootfs: Rootfs
  try {
    rootfs = Rootfs.overlay({ lower: ['.'] })
  } finally {
    process.chdir(before)
  }
  t.is((await rootfs.run('/bin/cat', ['/etc/secret-file'])).stdout, 'for the host only\n')
})

asRoot('a volatile overlay says so in the mount table', async (t) => {
  const { image, upper, work } = await makeTree(root)
  const rootfs = Rootfs.overlay({ lower: [image], upper, work, volatile: true })
  await using box = await rootfs.prepare()
  const mounted = (await box.mounts()).find((mount) => mount.destination === '/')
  // Later kernels call it `fsync=volatile`.
  t.true(
    mounted?.superOptions.some((option) => /^(fsync=)?volatile$/.test(option)),
    mounted?.superOptions.join(),
  )
})

asRoot('a read-only root and masks on an overlay', async (t) => {
  const { image, top } = await makeTree(root)
  const rootfs = Rootfs.overlay({ lower: [top, image] })
    .mask('/etc/secret-file')
    .readonly()
  const { stdout, stderr } = await rootfs.run('/bin/sh', ['-c', 'cat /etc/secret-file; echo x > /new'])
  t.is(stdout, '')
  t.regex(stderr, /Read-only file system/)
})

asRoot('hooks see the overlay', async (t) => {
  const { image, top } = await makeTree(root)
  const evidence = join(host.scratch('hook'), 'found')
  const script = `pwd=$(sed 's/.*"root":"\\([^"]*\\)".*/\\1/'); pid=1; cat from-top > ${evidence}`
  const rootfs = Rootfs.overlay({ lower: [top, image] }).hook('createContainer', {
    path: '/bin/sh',
    args: ['sh', '-ec', script],
    env: ['PATH=/usr/bin:/bin'],
  })
  t.is((await rootfs.run('/bin/true')).exitCode, 0)
  t.is(readFileSync(evidence, 'utf8'), 'top\n')
})

interface Failing {
  title: string
  calls: (tree: Tree) => Job['calls']
  code: string
  message: RegExp
  errnoName?: string
  hint?: RegExp
  /** What the kernel says about the option. */
  log?: RegExp
  setup?: (tree: Tree) => string
}

const failing: Failing[] = [
  {
    title: 'a lower directory that is missing',
    calls: ({ top, image }) => [['overlay', '/x', { lower: [top, `${image}-missing`] }]],
    code: 'ERR_ROOTFS_SOURCE',
    message: /image-missing: the lower directory of the overlay does not exist/,
    errnoName: 'ENOENT',
  },
  {
    title: 'an upper directory that is a file',
    calls: ({ top, image, work }) => [
      ['overlay', '/x', { lower: [image], upper: join(top, 'from-top'), work }],
    ],
    code: 'ERR_ROOTFS_SOURCE',
    message: /the upper directory of the overlay is no directory/,
    errnoName: 'ENOTDIR',
  },
  {
    title: 'a directory that is given twice under two names',
    calls: ({ top, image }) => [['overlay', '/x', { lower: [top, image, `${image}-link`] }]],
    code: 'ERR_ROOTFS_SOURCE',
    message: /the same directory is given to the overlay as .*image/,
  },
  {
    title: 'work on another filesystem than upper',
    calls: ({ image, upper, work }) => [['overlay', '/x', { lower: [image], upper, work }]],
    setup: ({ work }) => `mount -t tmpfs none '${work}'`,
    code: 'ERR_ROOTFS_SOURCE',
    message: /work directory of an overlay must be on the same mount as the upper one/,
  },
  {
    title: 'work inside upper',
    calls: ({ image, upper }) => [['overlay', '/x', { lower: [image], upper, work: join(upper, 'work') }]],
    setup: ({ upper }) => `mkdir '${upper}/work'`,
    code: 'ERR_ROOTFS_MOUNT',
    message: /overlay/,
    errnoName: 'EINVAL',
    hint: /neither inside the other/,
  },
  {
    title: 'a lower directory inside another',
    calls: ({ image, top }) => [['overlay', '/x', { lower: [image, top, join(image, 'etc')] }]],
    code: 'ERR_ROOTFS_MOUNT',
    message: /overlay/,
    errnoName: 'ELOOP',
    hint: /inside another/,
  },
  {
    title: 'an option that the filesystem does not know',
    calls: ({ image, top }) => [
      ['mount', { destination: '/x', type: 'overlay', options: [`lowerdir=${image}:${top}`, 'nonsense=1'] }],
    ],
    code: 'ERR_ROOTFS_MOUNT',
    message: /"nonsense=1" is refused/,
    errnoName: 'EINVAL',
    log: /overlay: Unknown parameter 'nonsense'/,
  },
]

for (const { title, calls, code, message, errnoName, hint, log, setup } of failing) {
  asRoot(title, async (t) => {
    const tree = await makeTree(root)
    symlinkSync(tree.image, `${tree.image}-link`)
    const before = [snapshotTree(tree.image), snapshotTree(tree.top)]
    const job: Job = { root: tree.image, calls: calls(tree), mode: 'run', commands: [sh('true')] }
    const outcome = await runInCell(root, job, host, setup ? { setup: setup(tree) } : {})
    t.is(outcome.error?.code, code, outcome.error?.message)
    t.regex(outcome.error!.message, message)
    t.is(outcome.error?.errnoName, errnoName)
    t.true(outcome.error?.isRootfsError)
    if (hint) t.regex(outcome.error!.hint ?? '', hint)
    if (log) {
      const lines = outcome.error?.kernelLog as string[] | undefined
      t.true(
        lines?.some((line) => log.test(line)),
        `kernelLog: ${lines}`,
      )
    }
    t.deepEqual([snapshotTree(tree.image), snapshotTree(tree.top)], before)
    t.deepEqual(outcome.left, [])
  })
}

asRoot('two containers on the same lower directories share nothing', async (t) => {
  const { image, top } = await makeTree(root)
  const rootfs = Rootfs.overlay({ lower: [top, image] })
  await using one = await rootfs.prepare()
  await using two = await rootfs.prepare()
  await one.run('/bin/sh', ['-c', 'echo one > /from-top'])
  t.is((await two.run('/bin/cat', ['/from-top'])).stdout, 'top\n')
})

test('an overlay root and its directories are in the plan', (t) => {
  const rootfs = Rootfs.overlay({ lower: ['/a', '/b'], upper: '/u', work: '/w' }).overlay('/x', {
    lower: ['/c', '/d'],
  })
  const { steps } = rootfs.plan()
  const found = steps.filter((step) => step.source === 'overlay')
  t.deepEqual(
    found.map(({ type, destination }) => [type, destination]),
    [
      ['root', '/'],
      ['mount', '/x'],
    ],
  )
  t.deepEqual(found[0]?.flags?.slice(0, 4), ['lowerdir=/a', 'lowerdir=/b', 'upperdir=/u', 'workdir=/w'])
})

for (const cell of cells) {
  const testHere = testNeeding([...cell.needs, 'busybox'])

  testHere(
    `${cell.name}: hooks, a read-only overlay with a mount on it, and what was mounted before`,
    async (t) => {
      const { image, top, upper, work } = await makeTree(cell)
      mkdirSync(join(top, 'mountpoint'))
      const job: Job = {
        root: { overlay: { lower: [top, image] } },
        calls: [
          ['overlay', '/read', { lower: [top, image] }],
          ['tmpfs', '/read/mountpoint'],
          [
            'mount',
            {
              destination: '/oci',
              type: 'overlay',
              options: [`lowerdir=${top}`, `upperdir=${upper}`, `workdir=${work}`, 'ro'],
            },
          ],
          ['tmpfs', '/oci/mountpoint'],
          ['hook', 'createContainer', { path: '/bin/sh', args: ['sh', '-c', 'test -f from-top'] }],
        ],
        mode: 'run',
        commands: [
          sh(
            'echo x > /read/mountpoint/new && echo x > /oci/mountpoint/new; ls /read /oci | grep -c from-top',
          ),
          sh('echo x > /read/new || echo x > /oci/new'),
        ],
      }
      const outcome = await runInCell(cell, job, host)
      t.is(outcome.error, undefined, outcome.error?.message)
      t.deepEqual([outcome.results[0]?.stdout, outcome.results[0]?.stderr], ['2\n', ''])
      t.is(outcome.results[1]?.stderr.match(/Read-only file system/g)?.length, 2)
      t.deepEqual(readdirSync(upper), [])
    },
  )
}

for (const name of ['root', 'root with ranges in a user namespace', 'unprivileged']) {
  const cell = cells.find((other) => other.name === name)!
  testNeeding([...cell.needs, 'busybox'])(`${name}: two containers can't write to one upper`, async (t) => {
    const { image, upper, work } = await makeTree(cell)
    // Twice in one container is twice, too; and after a failure nothing is held.
    const calls: Job['calls'] = [1, 2].map((number) => [
      'overlay',
      `/${number}`,
      { lower: [image], upper, work },
    ])
    const commands = [sh('true')]
    const both = await runInCell(cell, { root: image, calls, mode: 'run', commands }, host)
    t.is(both.error?.code, 'ERR_ROOTFS_SOURCE', both.error?.message)
    t.regex(both.error!.message, /work: the work directory is in use by another container's overlay/)
    t.regex(both.error!.hint ?? '', /upper and work of its own/)
    const one = await runInCell(cell, { root: image, calls: calls.slice(1), mode: 'run', commands }, host)
    t.deepEqual(succeeded(one), allFine(1))
  })
}

asRoot('one builder with upper, one container after the other', async (t) => {
  const { image, upper, work } = await makeTree(root)
  const rootfs = Rootfs.overlay({ lower: [image], upper, work })
  for (let count = 1; count <= 20; count++) {
    const { stdout, stderr } = await rootfs.run('/bin/sh', ['-c', 'echo x >> /count; wc -l < /count'])
    t.deepEqual([stdout, stderr], [`${count}\n`, ''])
  }
  {
    await using box = await rootfs.prepare()
    t.is((await box.run('/bin/true')).exitCode, 0)
    await t.throwsAsync(rootfs.run('/bin/true'), { code: 'ERR_ROOTFS_SOURCE' })
  }
  t.is((await rootfs.run('/bin/true')).exitCode, 0)
})
