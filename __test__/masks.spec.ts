// Masks of paths that aren't there: what each choice does, and what a process inside can do about it, in every cell and at
// both levels.
import { chownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree as snapshot } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** Without the programs, so that a difference can be read. */
const snapshotTree = (image: string): string[] =>
  snapshot(image).filter((line) => !line.endsWith('/bin/busybox'))

const newImage = (cell: Cell): Promise<string> =>
  busyboxImage(join(host.scratch('masks'), 'image'), { mountpoints: false, owner: cell.owner })

/**
 * As root of the container, with what lets it get past permissions, but not CAP_SYS_ADMIN: everything by which a name can
 * come to be. Prints those that worked.
 */
const capabilities = ['DAC_OVERRIDE', 'FOWNER', 'CHOWN', 'MKNOD', 'SYS_CHROOT']
const attempts = (path: string, ancestors: string[], usable = '/usable'): string => {
  const creations: Record<string, string> = {
    write: `echo x > ${path}`,
    append: `: >> ${path}`,
    mkdir: `mkdir ${path}`,
    'mkdir -p': `mkdir -p ${path}/below`,
    symlink: `ln -s /bin ${path}`,
    link: `ln ${usable} ${path}`,
    rename: `mv -T ${usable} ${path}`,
    mkfifo: `mkfifo ${path}`,
    mknod: `mknod ${path} c 1 3`,
  }
  const removals = [path, ...ancestors].map((name) => [
    `rename ${name}`,
    `mv ${name} ${name}.away && mv ${name}.away ${name}`,
  ])
  for (const name of [path, ...ancestors])
    removals.push([`remove ${name}`, `[ -e ${name} ] && rm -rf ${name}`])
  const all = [...Object.entries(creations), ...removals]
  return `
    (echo usable > ${usable}) 2>/dev/null
    try() { (eval "$2") 2>/dev/null && echo "$1"; }
    ${all.map(([name, command]) => `try '${name}' '${command}'`).join('\n')}
    rm -f ${usable} 2>/dev/null
    :
  `
}

async function runScript(
  cell: Cell,
  image: string | { empty: object },
  calls: Job['calls'],
  script: string,
  level?: Level,
): Promise<Outcome> {
  const command = { command: '/bin/sh', args: ['-c', script], options: { capabilities } }
  const root = image as Job['root']
  return runInCell(
    cell,
    { root, calls, mode: 'prepare', commands: [command] },
    host,
    level === undefined ? {} : { level },
  )
}

function printed(t: ExecutionContext, outcome: Outcome): string[] {
  if (outcome.error !== undefined) t.log(outcome.error)
  t.is(outcome.error, undefined)
  t.is(outcome.results[0]?.exitCode, 0)
  return (outcome.results[0]?.stdout ?? '').split('\n').filter((line) => line !== '')
}

const strategies = (outcome: Outcome, path: string): Array<string | undefined> =>
  (outcome.steps ?? [])
    .filter(({ type, destination }) => type === 'mask' && destination === path)
    .map(({ strategy }) => strategy)

function testCells(title: string, body: (t: ExecutionContext, cell: Cell, level: Level) => Promise<void>) {
  for (const level of levels) {
    for (const cell of cells) {
      const full = `${cell.name}, ${level}: ${title}`
      testNeeding([...cell.needs, 'busybox'], level)(full, (t) => body(t, cell, level))
    }
  }
}

const tmpfs: Job['calls'][number] = ['tmpfs', '/run', { mode: 0o755 }]

testCells('without a mask, the attempts work', async (t, cell, level) => {
  // The control: a script of attempts that fail by themselves would prove nothing.
  const image = await newImage(cell)
  const calls: Job['calls'] = [['defaults'], tmpfs, ['directory', '/run/a/b']]
  const script = attempts('/run/a/b/c', ['/run/a/b', '/run/a'], '/run/usable')
  const worked = printed(t, await runScript(cell, image, calls, script, level))
  for (const expected of ['write', 'append', 'remove /run/a/b/c', 'rename /run/a'])
    t.true(worked.includes(expected), expected)
})

testCells("'deny-create' on a tmpfs of ours: it can't be created", async (t, cell, level) => {
  const image = await newImage(cell)
  const before = snapshotTree(image)
  const path = '/run/a/b/c'
  const calls: Job['calls'] = [
    ['defaults'],
    tmpfs,
    ['directory', '/run/a/b'],
    ['mask', path, { missing: 'deny-create' }],
    ['mask', '/run/new/deep/er', { missing: 'deny-create' }],
    // An existing path is hidden as ever.
    ['mask', '/run/a/d', { missing: 'deny-create' }],
    ['file', '/run/a/d', 'secret'],
  ]
  const script = attempts(path, ['/run/a/b', '/run/a'], '/run/usable')
  const again = attempts('/run/new/deep/er', ['/run/new/deep', '/run/new'], '/run/usable')
  const outcome = await runScript(
    cell,
    image,
    calls,
    `${script}${again}cat /run/a/d; echo free > /run/a/b/other && cat /run/a/b/other`,
    level,
  )
  // The missing directories above it are not there either, and can't be made.
  t.deepEqual(printed(t, outcome), ['free'])
  t.deepEqual(strategies(outcome, path), ['placeholder'])
  t.deepEqual(strategies(outcome, '/run/a/d'), ['null-device'])
  t.deepEqual(snapshotTree(image), before, 'nothing is left on the host')
})

testCells("'deny-create' on an empty root", async (t, cell, level) => {
  const calls: Job['calls'] = [
    ['bind', '/', '/host', { readonly: true }],
    ['directory', '/bin'],
    ['symlink', '/host/bin/busybox', '/bin/sh'],
    ['mask', '/secret', { missing: 'deny-create' }],
  ]
  const script = `
    /bin/sh -c 'echo x > /secret' 2>/dev/null && echo written
    /host/bin/busybox mkdir /secret 2>/dev/null && echo made
    /host/bin/busybox rmdir /secret 2>/dev/null && echo removed
    /host/bin/busybox mkdir /other && echo other
  `
  const outcome = await runScript(cell, { empty: {} }, calls, script, level)
  t.deepEqual(printed(t, outcome), ['other'])
})

testCells("'deny-create' on a host directory names the choices", async (t, cell, level) => {
  const image = await newImage(cell)
  const before = snapshotTree(image)
  const calls: Job['calls'] = [['defaults'], ['mask', '/etc/none', { missing: 'deny-create' }]]
  const { error } = await runScript(cell, image, calls, 'true', level)
  t.is(error?.code, 'ERR_ROOTFS_UNSUPPORTED')
  t.regex(error?.message ?? '', /\/etc\/none/)
  t.regex(error?.hint ?? '', /'readonly-parent'.*'stub'/)
  t.deepEqual(snapshotTree(image), before)
})

testCells('where the directory is read-only already, nothing more is done', async (t, cell, level) => {
  const image = await newImage(cell)
  const before = snapshotTree(image)
  for (const missing of ['deny-create', 'readonly-parent']) {
    const calls: Job['calls'] = [['defaults'], ['readonly'], ['mask', '/etc/none', { missing }]]
    const outcome = await runScript(cell, image, calls, attempts('/etc/none', ['/etc']), level)
    t.deepEqual(printed(t, outcome), [])
    t.deepEqual(strategies(outcome, '/etc/none'), ['read-only'])
  }
  t.deepEqual(snapshotTree(image), before)
})

testCells("'readonly-parent': the directory is read-only, and stays where it is", async (t, cell, level) => {
  const image = await newImage(cell)
  mkdirSync(join(image, 'own', 'sub', 'tmp'), { recursive: true })
  for (const name of ['own', 'own/sub', 'own/sub/tmp'])
    chownSync(join(image, name), cell.writesAs, cell.writesAs)
  const before = snapshotTree(image)
  const calls: Job['calls'] = [
    ['defaults'],
    ['tmpfs', '/own/sub/tmp'],
    ['mask', '/own/sub/none', { missing: 'readonly-parent' }],
  ]
  const script = attempts('/own/sub/none', ['/own/sub', '/own'], '/own/usable')
  const outcome = await runScript(
    cell,
    image,
    calls,
    `${script}touch /own/sub/other 2>/dev/null && echo other; touch /own/sub/tmp/x && echo tmp; touch /free && rm /free && echo free`,
    level,
  )
  t.deepEqual(printed(t, outcome), ['tmp', 'free'])
  t.deepEqual(strategies(outcome, '/own/sub/none'), ['readonly-parent'])
  t.deepEqual(snapshotTree(image), before)
})

testCells("'readonly-parent' of a name in the root makes the root read-only", async (t, cell, level) => {
  const image = await newImage(cell)
  const calls: Job['calls'] = [['defaults'], ['mask', '/none', { missing: 'readonly-parent' }]]
  const outcome = await runScript(cell, image, calls, attempts('/none', []), level)
  t.deepEqual(printed(t, outcome), [])
  t.deepEqual(strategies(outcome, '/none'), ['readonly-parent'])
})

testCells("'stub': an empty name while the container runs, and none after", async (t, cell, level) => {
  const image = await newImage(cell)
  const before = snapshotTree(image)
  const path = '/private/deep/none'
  for (const readonly of [false, true]) {
    const calls: Job['calls'] = [['defaults'], ['mask', path, { missing: 'stub' }]]
    if (readonly) calls.push(['readonly'])
    const script = attempts(path, ['/private/deep', '/private'])
    const outcome = await runScript(cell, image, calls, `${script}cat ${path} && echo empty`, level)
    // What is written to the mask succeeds and vanishes.
    t.deepEqual(printed(t, outcome), ['write', 'append', 'empty'])
    t.deepEqual(strategies(outcome, path), ['null-device'])
    t.true(outcome.steps?.some(({ type, destination }) => type === 'stub' && destination === path))
    t.deepEqual(snapshotTree(image), before, 'the name is gone')
  }
})

testCells("'stub' in a read-only bind: there is nothing to do", async (t, cell, level) => {
  const image = await newImage(cell)
  const before = snapshotTree(image)
  const source = host.scratch('source')
  const calls: Job['calls'] = [
    ['defaults'],
    ['bind', source, '/data', { readonly: true }],
    ['mask', '/data/none', { missing: 'stub' }],
  ]
  const outcome = await runScript(cell, image, calls, attempts('/data/none', ['/data']), level)
  t.deepEqual(printed(t, outcome), [])
  t.deepEqual(strategies(outcome, '/data/none'), ['read-only'])
  t.deepEqual(snapshotTree(image), before)
  t.deepEqual(snapshotTree(source).length, 1)
})

testCells('a link on the way that could be replaced is an error', async (t, cell, level) => {
  const image = await newImage(cell)
  symlinkSync('etc', join(image, 'conf'))
  const before = snapshotTree(image)
  for (const missing of ['readonly-parent', 'stub']) {
    const calls: Job['calls'] = [['defaults'], ['mask', '/conf/none', { missing }]]
    const { error } = await runScript(cell, image, calls, 'true', level)
    t.is(error?.code, 'ERR_ROOTFS_UNSUPPORTED')
    t.regex(error?.message ?? '', /symbolic link conf, which could be replaced/)
  }
  const calls: Job['calls'] = [
    ['defaults'],
    ['readonly'],
    ['mask', '/conf/none', { missing: 'readonly-parent' }],
  ]
  t.is((await runScript(cell, image, calls, 'true', level)).error, undefined)
  t.deepEqual(snapshotTree(image), before)
})

for (const cell of cells) {
  testNeeding([...cell.needs, 'busybox'])(`${cell.name}: 'error' and 'skip' of a missing path`, async (t) => {
    const image = await newImage(cell)
    const { error } = await runScript(cell, image, [['mask', '/none', { missing: 'error' }]], 'true')
    t.is(error?.code, 'ERR_ROOTFS_MOUNT')
    t.is(error?.errnoName, 'ENOENT')
    const skipped = await runScript(
      cell,
      image,
      [['mask', '/none']],
      'echo x > /none && cat /none && rm /none',
    )
    t.deepEqual(printed(t, skipped), ['x'])
  })
}

testNeeding(['root', 'busybox'])(
  'masks that a process can remove are a warning about that process',
  async (t) => {
    const rootfs = new Rootfs(await busyboxImage(join(host.scratch('masks'), 'image'))).defaults()
    const codes = (warnings: readonly { code: string }[]) => warnings.map(({ code }) => code)
    t.deepEqual(codes((await rootfs.run('/bin/true')).warnings), [])
    const options = { capabilities: ['SYS_ADMIN'] }
    t.deepEqual(codes((await rootfs.run('/bin/true', [], options)).warnings), ['mask-removable'])
    await using box = await rootfs.prepare()
    t.deepEqual(codes(box.warnings), [])
    t.deepEqual(codes((await box.run('/bin/true')).warnings), [])
    t.deepEqual(codes((await box.run('/bin/true', [], options)).warnings), ['mask-removable'])
    const unmasked = await new Rootfs(await busyboxImage(join(host.scratch('masks'), 'image'))).run(
      '/bin/true',
      [],
      options,
    )
    t.deepEqual(codes(unmasked.warnings), [])
  },
)

testNeeding(['root', 'busybox'])('what is mounted through a link is masked by the name it has', async (t) => {
  const image = await busyboxImage(join(host.scratch('linked'), 'root'))
  const secrets = host.scratch('secrets')
  writeFileSync(join(secrets, 'secret'), 'shown')
  const { stdout, stderr } = await new Rootfs(image)
    .defaults()
    .tmpfs('/run')
    .tmpfs('/run/data')
    .symlink('/run/data', '/run/link')
    .bind(secrets, '/run/link')
    .mask('/run/data/secret')
    .run('/bin/cat', ['/run/data/secret'])
  t.deepEqual([stdout, stderr], ['', ''])
})
