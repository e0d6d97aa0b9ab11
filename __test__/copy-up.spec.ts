// A tmpfs that starts with a copy of what the root has at its place: the copy is complete, and the original is untouched.
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job } from './support/job.ts'
import { mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })

/** An image with a directory that has one of everything, owned by who owns the image. */
async function makeImage(cell: Cell): Promise<string> {
  const image = await busyboxImage(join(host.scratch('image'), 'image'), {
    mountpoints: false,
    owner: cell.owner,
  })
  const copied = join(image, 'copied')
  mkdirSync(join(copied, 'below'), { recursive: true })
  writeFileSync(join(copied, 'below', 'file'), 'content\n')
  linkSync(join(copied, 'below', 'file'), join(copied, 'hard'))
  symlinkSync('../../../etc/passwd', join(copied, 'link'))
  writeFileSync(join(copied, 'sparse'), '')
  truncateSync(join(copied, 'sparse'), 64 << 20)
  await mustRun('mkfifo', [join(copied, 'fifo')])
  await mustRun('chown', ['-hR', `${cell.writesAs}:${cell.writesAs}`, copied])
  chmodSync(join(copied, 'below', 'file'), 0o4750)
  chmodSync(join(copied, 'below'), 0o2751)
  chmodSync(copied, 0o1755)
  lutimesSync(join(copied, 'link'), 1_000_000, 1_000_000)
  utimesSync(join(copied, 'below', 'file'), 1_000_000, 2_000_000)
  utimesSync(join(copied, 'below'), 1_000_000, 3_000_000)
  utimesSync(copied, 1_000_000, 4_000_000)
  return image
}

const look = sh(
  'cd /copied && stat -c "%n|%F|%a|%u:%g|%h|%s|%Y" . below below/file hard link sparse fifo && readlink link && ' +
    'cat hard && stat -c %b sparse',
)

const expected = `\
.|directory|1755|0:0|3|*|4000000
below|directory|2751|0:0|2|*|3000000
below/file|regular file|4750|0:0|2|8|2000000
hard|regular file|4750|0:0|2|8|2000000
link|symbolic link|777|0:0|1|19|1000000
sparse|regular file|644|0:0|1|67108864|*
fifo|fifo|644|0:0|1|0|*
../../../etc/passwd
content
0
`

/** Without what a filesystem chooses itself, and what the test has not set. */
const comparable = (text: string) =>
  text.replace(/(directory(?:\|[^|]*){3})\|\d+\|/g, '$1|*|').replace(/^((?:sparse|fifo)\|.*\|)\d+$/gm, '$1*')

for (const cell of cells) {
  for (const level of levels) {
    const testHere = testNeeding([...cell.needs, 'busybox'], level)
    for (const how of ['the builder', 'the OCI word'] as const) {
      testHere(
        `${cell.name}, ${level}: all is copied, and the original is left alone, by ${how}`,
        async (t) => {
          const image = await makeImage(cell)
          const before = snapshotTree(image)
          const job: Job = {
            root: image,
            calls: [
              how === 'the builder'
                ? ['tmpfs', '/copied', { copyUp: true }]
                : ['mount', { destination: '/copied', type: 'tmpfs', options: ['nosuid', 'tmpcopyup'] }],
            ],
            mode: 'prepare',
            commands: [look, sh('rm -r /copied/below && echo new > /copied/new && ls /copied')],
          }
          const outcome = await runInCell(cell, job, host, { level })
          t.is(outcome.error, undefined)
          t.is(outcome.results[0]?.stderr, '')
          t.is(comparable(outcome.results[0]!.stdout), expected)
          t.is(outcome.results[1]?.stdout, 'fifo\nhard\nlink\nnew\nsparse\n')
          t.deepEqual(outcome.warnings, [])
          t.deepEqual(snapshotTree(image), before)
        },
      )
    }

    testHere(`${cell.name}, ${level}: what can't be copied as it is, is told`, async (t) => {
      const image = await makeImage(cell)
      const copied = join(image, 'copied')
      writeFileSync(join(copied, 'stranger'), 'of nobody here\n')
      chownSync(join(copied, 'stranger'), 4_000_000, 4_000_000)
      chmodSync(join(copied, 'stranger'), 0o6755)
      await mustRun('mknod', [join(copied, 'null'), 'c', '1', '3'])
      mkdirSync(join(copied, 'mountpoint'))
      chmodSync(join(copied, 'mountpoint'), 0o755)
      const job: Job = {
        root: image,
        calls: [
          ['tmpfs', '/copied/mountpoint'],
          ['tmpfs', '/copied', { copyUp: true }],
        ],
        mode: 'prepare',
        commands: [sh('cd /copied && stat -c %u:%a stranger && cat stranger; ls; ls mountpoint')],
      }
      const outcome = await runInCell(cell, job, host, { level })
      t.is(outcome.error, undefined)
      const told = outcome.warnings?.find(({ code }) => code === 'copy-up')?.message ?? ''
      const own = cell.name === 'root'
      // Where ranges are mapped there is the id that an unmapped owner seems to be.
      const ranges = /ranges|subordinate/.test(cell.name)
      t.is(outcome.results[0]?.stdout.split('\n')[0], own ? '4000000:6755' : ranges ? '65534:755' : '0:755')
      t.is(outcome.results[0]?.stdout.split('\n')[1], 'of nobody here')
      t.is(/\bnull\b/.test(outcome.results[0]!.stdout), own)
      t.regex(
        told,
        /^the copy in \/copied differs: .*1 mountpoints are there, without what is mounted on them/,
      )
      t.is(/1 files have owners that are not mapped/.test(told), !own && !ranges)
      t.is(/1 device nodes can't be made in a user namespace/.test(told), !own)
    })
  }
}

const asRoot = testNeeding(['root', 'unshare', 'busybox'])
const [root] = cells as [Cell]

asRoot('what is copied does not fit', async (t) => {
  const image = await makeImage(root)
  writeFileSync(join(image, 'copied', 'large'), Buffer.alloc(1 << 20))
  const before = snapshotTree(image)
  for (const options of [{ size: '64k' }, { inodes: 4 }]) {
    const rootfs = new Rootfs(image).tmpfs('/copied', { ...options, copyUp: true })
    const error = await t.throwsAsync(rootfs.run('/bin/true'), { code: 'ERR_ROOTFS_MOUNT' })
    t.regex(error.message, /the tmpfs is too small for a copy of it: \w+\(".*"\): No space left/)
    t.regex((error as Error & { hint?: string }).hint ?? '', /larger size, or more inodes/)
  }
  t.deepEqual(snapshotTree(image), before)
})

for (const level of levels) {
  testNeeding(['root', 'unshare', 'busybox', 'python3'], level)(
    `${level}: devices, sockets, extended attributes and owners are copied`,
    async (t) => {
      const image = await makeImage(root)
      const copied = join(image, 'copied')
      for (const [name, kind, ...numbers] of [
        ['character', 'c', '1', '5'],
        ['block', 'b', '7', '200'],
      ])
        await mustRun('mknod', ['-m', '640', join(copied, name!), kind!, ...numbers])
      chownSync(join(copied, 'character'), 12, 34)
      const attributes = `
import os, socket, sys
top = sys.argv[1]
os.chdir(top)
socket.socket(socket.AF_UNIX).bind("socket")
os.setxattr("below/file", "user.one", b"1\\0\\xff")
os.setxattr("below", "user.two", b"")
os.setxattr("below/file", "trusted.three", b"3")
os.setxattr("sparse", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
`
      await mustRun('python3', ['-c', attributes, copied])
      const before = snapshotTree(image)
      const read = `
import os, sys
os.chdir(sys.argv[1])
for path in [".", "below", "below/file", "sparse"]:
    print(path, [(name, os.getxattr(path, name).hex()) for name in sorted(os.listxattr(path))])
`
      const python = { command: '/usr/bin/python3', args: ['-c', read, '/copied'] }
      const job: Job = {
        root: image,
        calls: [
          ['tmpfs', '/copied', { copyUp: true }],
          // A program of the host that can read them.
          ...['/usr', '/lib', '/lib64'].flatMap((path): Job['calls'] =>
            existsSync(path) ? [['bind', path, path, { readonly: true }]] : [],
          ),
        ],
        mode: 'prepare',
        commands: [
          {
            command: '/bin/sh',
            args: ['-c', 'cd /copied && stat -c "%n|%F|%a|%u:%g|%t:%T" character block socket'],
          },
          { ...python, options: { capabilities: ['CAP_SYS_ADMIN', 'CAP_DAC_OVERRIDE'] } },
        ],
      }
      const outcome = await runInCell(root, job, host, { level })
      t.is(outcome.error, undefined, outcome.error?.message)
      t.deepEqual(outcome.results[0]!.stdout.trim().split('\n'), [
        'character|character special file|640|12:34|1:5',
        'block|block special file|640|0:0|7:c8',
        'socket|socket|755|0:0|0:0',
      ])
      t.is(
        outcome.results[1]!.stdout,
        await mustRun('python3', ['-c', read, copied]),
        outcome.results[1]!.stderr,
      )
      t.deepEqual(outcome.warnings, [])
      t.deepEqual(snapshotTree(image), before)
    },
  )
}

asRoot('what the container may not read is not read for it', async (t) => {
  const cell = cells.find(({ name }) => name === 'root with ranges in a user namespace')!
  const image = await makeImage(cell)
  writeFileSync(join(image, 'copied', 'secret'), 'of the host\n')
  chmodSync(join(image, 'copied', 'secret'), 0o600)
  const job: Job = {
    root: image,
    calls: [['tmpfs', '/copied', { copyUp: true }]],
    mode: 'run',
    commands: [look],
  }
  const outcome = await runInCell(cell, job, host)
  t.is(outcome.error?.code, 'ERR_ROOTFS_MOUNT')
  t.regex(outcome.error!.message, /a file in it can't be read to be copied: openat\("secret"\)/)
  t.is(outcome.error?.errnoName, 'EACCES')
})

asRoot('where there was nothing, and where it is a file', async (t) => {
  const image = await makeImage(root)
  const { stdout } = await new Rootfs(image)
    .tmpfs('/new', { copyUp: true })
    .run('/bin/sh', ['-c', 'ls -a /new'])
  t.is(stdout, '.\n..\n')
  const onFile = new Rootfs(image).tmpfs('/etc/passwd', { copyUp: true })
  const error = await t.throwsAsync(onFile.run('/bin/true'), { code: 'ERR_ROOTFS_MOUNT' })
  t.is((error as Error & { errnoName?: string }).errnoName, 'ENOTDIR')
})

asRoot('owner and mode that are given are kept', async (t) => {
  const rootfs = new Rootfs(await makeImage(root)).tmpfs('/copied', {
    copyUp: true,
    mode: 0o700,
    uid: 5,
    gid: 6,
  })
  const { stdout } = await rootfs.run('/bin/stat', ['-c', '%a %u:%g', '/copied'])
  t.is(stdout, '700 5:6\n')
})

asRoot('a link as destination: what it leads to in the root is copied and covered', async (t) => {
  const image = await makeImage(root)
  symlinkSync('/copied/below', join(image, 'way'))
  const { stdout } = await new Rootfs(image)
    .tmpfs('/way', { copyUp: true })
    .run('/bin/sh', ['-c', 'cat /copied/below/file; echo x > /copied/below/new; ls /way'])
  t.is(stdout, 'content\nfile\nnew\n')
})

asRoot('read-only once it is filled', async (t) => {
  const rootfs = new Rootfs(await makeImage(root)).tmpfs('/copied', { copyUp: true, readonly: true })
  const { stdout, stderr } = await rootfs.run('/bin/sh', ['-c', 'cat /copied/hard; echo x > /copied/new'])
  t.is(stdout, 'content\n')
  t.regex(stderr, /Read-only file system/)
})
