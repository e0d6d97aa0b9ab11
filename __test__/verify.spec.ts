// The mount table against the plan, on the real kernel: what a hook or another process changes is found, what is in order
// is listed, and many mounts take no longer each than few.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { type MountLine, parseMountinfo } from './support/mountinfo.ts'
import { findProgram } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const [asRoot, inUserNamespace] = cells as [(typeof cells)[number], (typeof cells)[number]]

const image = async (): Promise<string> => busyboxImage(join(host.scratch('image'), 'root'))

const show = { command: '/bin/cat', args: ['/proc/self/mountinfo'] }
const describe = (root: string, calls: Job['calls']): Job => ({
  root,
  calls: [['proc'], ...calls],
  mode: 'prepare',
  commands: [show],
})

/** A hook in the container's namespaces, whose working directory is the root. */
const hook = (script: string, point = 'createContainer'): Job['calls'][number] => [
  'hook',
  point,
  { path: '/bin/sh', args: ['sh', '-ec', script], env: [`PATH=${process.env.PATH}`] },
]

const extra = ({ warnings = [] }: Outcome): string[] =>
  warnings.filter(({ code }) => code === 'extra-mount').map(({ message }) => message)

function tableOf(t: ExecutionContext, { error, results, left }: Outcome): MountLine[] {
  if (error !== undefined) t.log(error)
  t.is(error, undefined)
  t.deepEqual(left, [])
  return parseMountinfo(results.at(-1)!.stdout)
}

const on = (table: MountLine[], destination: string): MountLine[] =>
  table.filter((mount) => mount.destination === destination)

for (const cell of [asRoot, inUserNamespace]) {
  const changes: Array<[what: string, script: string, message: RegExp]> = [
    ['makes a mount writable', 'mount -o remount,bind,rw data', /\/data: wanted ro, found rw/],
    ['adds a flag', 'mount -o remount,bind,ro,nosuid,nodev,noexec data', /\/data: wanted exec, found noexec/],
    ['shares a mount', 'mount --make-shared own', /\/own: wanted private, found shared/],
    ['unmounts one', 'umount -l own', /\/own: wanted a mount, found none/],
    [
      'moves one',
      'mkdir own/there; mount --move data own/there',
      /\/data: wanted it there, found it on \/own\/there/,
    ],
    [
      'does several of these',
      'umount -l tmp; mount -o remount,bind,rw data',
      /\/data: wanted ro, found rw; \/tmp: wanted a mount, found none/,
    ],
  ]
  for (const [what, script, message] of changes) {
    testNeeding([...cell.needs, 'busybox'])(`a hook that ${what} is an error, ${cell.name}`, async (t) => {
      const root = await image()
      const before = snapshotTree(root)
      const data = host.scratch('data')
      const calls: Job['calls'] = [
        ['bind', data, '/data', { readonly: true }],
        ['tmpfs', '/own'],
        ['tmpfs', '/tmp'],
      ]
      const { error, left } = await runInCell(cell, describe(root, [...calls, hook(script)]), host)
      t.is(error?.code, 'ERR_ROOTFS_VERIFY', error?.message)
      t.regex(error!.message, message)
      t.deepEqual(left, [])
      t.deepEqual(snapshotTree(root), before)
    })
  }
}

testNeeding([...asRoot.needs, 'busybox'])('what a hook mounts is in order, and is listed', async (t) => {
  const mountAll = 'mount -t tmpfs by-hook own; mount -t tmpfs by-hook tmp'
  const calls: Job['calls'] = [['tmpfs', '/own'], hook(mountAll)]
  const outcome = await runInCell(asRoot, describe(await image(), calls), host)
  const table = tableOf(t, outcome)
  t.is(on(table, '/own').length, 2)
  t.deepEqual(extra(outcome), ['a hook has mounted on /own, /tmp, which hides /own'])
})

testNeeding([...asRoot.needs, 'busybox'])(
  'without verification a hook may change what it likes',
  async (t) => {
    const job = describe(await image(), [['tmpfs', '/own'], hook('umount -l own')])
    job.prepare = { verify: false }
    const table = tableOf(t, await runInCell(asRoot, job, host))
    t.deepEqual(on(table, '/own'), [])
  },
)

for (const level of levels) {
  testNeeding([...asRoot.needs, 'busybox'], level)(
    `what binds and the root bring along is listed, ${level}`,
    async (t) => {
      const root = await image()
      const data = host.scratch('data')
      const setup = `
      mount --bind ${root} ${root}
      mount -t tmpfs below ${join(root, 'run')}
      mount -t tmpfs below ${data}
      mkdir ${data}/a ${data}/b
      mount -t tmpfs below ${data}/a
      mkdir ${data}/a/c
      mount -t tmpfs below ${data}/a/c
      mount -t tmpfs below ${data}/b
    `
      const outcome = await runInCell(asRoot, describe(root, [['bind', data, '/data']]), host, {
        level,
        setup,
      })
      const table = tableOf(t, outcome)
      t.is(on(table, '/data/a/c').length, 1)
      t.deepEqual(extra(outcome).toSorted(), [
        'what is mounted on / brings others along: /run',
        'what is mounted on /data brings others along: /data/a, /data/b, /data/a/c',
      ])
    },
  )

  // ---------------------------------------------------------------- mounts on / and from the tree itself

  testNeeding([...asRoot.needs, 'busybox'], level)(`a mount on / is the root, ${level}`, async (t) => {
    const [first, second] = [await image(), await image()]
    const busybox = findProgram('busybox')!
    const before = [first, second].map((root) => snapshotTree(root))
    const bound = describe(first, [
      ['tmpfs', '/own'],
      ['bind', second, '/', { readonly: true }],
      ['tmpfs', '/tmp'],
      ['proc'],
    ])
    const table = tableOf(t, await runInCell(asRoot, bound, host, { level }))
    t.is(on(table, '/').length, 1, 'nothing is on top of it')
    t.true(on(table, '/')[0]!.root.endsWith(second) || second.endsWith(on(table, '/')[0]!.root))
    t.true(on(table, '/')[0]!.options.includes('ro'))
    t.deepEqual(on(table, '/own'), [])
    t.deepEqual(table.map((mount) => mount.destination).toSorted(), ['/', '/proc', '/tmp'])

    const empty = describe(first, [['tmpfs', '/', { mode: 0o711 }], ['bind', busybox, '/bin/cat'], ['proc']])
    const outcome = await runInCell(asRoot, empty, host, { level })
    const found = tableOf(t, outcome)
    t.deepEqual(found.map((mount) => mount.destination).toSorted(), ['/', '/bin/cat', '/proc'])
    t.is(on(found, '/')[0]!.type, 'tmpfs')
    t.true(on(found, '/')[0]!.superOptions.includes('mode=711'))
    t.deepEqual(
      [first, second].map((root) => snapshotTree(root)),
      before,
    )
  })

  testNeeding([...asRoot.needs, 'busybox'], level)(
    `a source can be an earlier mount, ${level}`,
    async (t) => {
      const data = host.scratch('data')
      writeFileSync(join(data, 'file'), 'content\n')
      mkdirSync(join(data, 'deep'))
      const inRoot = (path: string) => ({ inRoot: path })
      const job = describe(await image(), [
        ['bind', data, '/data', { noexec: true }],
        ['tmpfs', '/data/deep'],
        ['directory', '/data/deep/er'],
        ['bind', inRoot('/data'), '/again', { readonly: true }],
        ['bind', inRoot('/again/file'), '/file', { readonly: true }],
        ['bind', inRoot('/data/deep/er'), '/er', { recursive: false }],
        ['mount', { destination: '/exact', source: `${data}`, options: ['bind', 'ro'] }],
      ])
      job.commands.unshift(
        { command: '/bin/sh', args: ['-c', 'cat /again/file /file'] },
        { command: '/bin/sh', args: ['-c', 'echo no > /file'] },
        { command: '/bin/sh', args: ['-c', 'mkdir /er/inner && ls /data/deep/er'] },
        { command: '/bin/sh', args: ['-c', 'mkdir /again/deep/no'] },
      )
      const outcome = await runInCell(asRoot, job, host, { level })
      const table = tableOf(t, outcome)
      const [read, write, shared, below] = outcome.results
      t.is(read!.stdout, 'content\ncontent\n')
      t.not(write!.exitCode, 0)
      t.is(shared!.stdout, 'inner\n')
      t.not(below!.exitCode, 0)
      for (const path of ['/again', '/again/deep', '/file'])
        t.true(on(table, path)[0]!.options.includes('ro'), path)
      // What a bind keeps: the flags of the mount that it is a copy of.
      t.true(on(table, '/again')[0]!.options.includes('noexec'))
      t.false(on(table, '/er')[0]!.options.includes('ro'))
    },
  )

  testNeeding([...asRoot.needs, 'busybox'], level)(`a file is bound read-only, ${level}`, async (t) => {
    const data = host.scratch('data')
    writeFileSync(join(data, 'file'), 'content\n', { mode: 0o666 })
    const file = join(data, 'file')
    const job = describe(await image(), [
      ['bind', file, '/etc/one', { readonly: true }],
      ['mount', { destination: '/etc/two', type: 'bind', source: file, options: ['bind', 'ro'] }],
      ['mount', { destination: '/etc/three', type: 'none', source: file, options: ['rbind', 'rro'] }],
    ])
    job.commands.unshift({
      command: '/bin/sh',
      args: ['-c', 'for n in one two three; do echo no > /etc/$n || cat /etc/$n; done'],
    })
    const outcome = await runInCell(asRoot, job, host, { level })
    tableOf(t, outcome)
    t.is(outcome.results[0]!.stdout, 'content\n'.repeat(3))
  })

  testNeeding([...asRoot.needs, 'busybox'], level)(
    `what is mounted below a read-only bind keeps its own flags, ${level}`,
    async (t) => {
      const data = host.scratch('data')
      for (const name of ['brought', 'missing']) mkdirSync(join(data, name))
      const setup = `mount -t tmpfs brought ${data}/brought; mkdir ${data}/brought/deep`
      const job = describe(await image(), [
        ['bind', data, '/data', { readonly: true }],
        ['tmpfs', '/data/missing/made'],
        ['tmpfs', '/data/brought/deep'],
        ['tmpfs', '/data/frozen', { readonly: true }],
      ])
      const table = tableOf(t, await runInCell(asRoot, job, host, { level, setup }))
      const readonly = table
        .filter(({ options }) => options.includes('ro'))
        .map(({ destination }) => destination)
      t.deepEqual(readonly.toSorted(), ['/data', '/data/brought', '/data/frozen'])
    },
  )

  // ---------------------------------------------------------------- many

  testNeeding([...asRoot.needs, 'busybox'], level)(`10,000 mounts, ${level}`, async (t) => {
    t.timeout(120_000)
    const data = host.scratch('data')
    const count = 10_000
    const root = { empty: { size: '1g' } }
    const calls = (many: number): Job['calls'] => [
      ['bind', findProgram('busybox'), '/busybox'],
      ['proc'],
      ...Array.from({ length: many }, (_, index): [string, ...unknown[]] => [
        'bind',
        data,
        `/many/${Math.trunc(index / 100)}/${index}`,
        { readonly: true },
      ]),
    ]
    const countAll = { command: '/busybox', args: ['grep', '-c', ' /many/', '/proc/self/mountinfo'] }
    const took = async (many: number): Promise<number> => {
      const job: Job = { root, calls: calls(many), mode: 'prepare', commands: [countAll] }
      const outcome = await runInCell(asRoot, job, host, { level })
      t.is(outcome.error, undefined)
      t.is(outcome.results[0]!.stdout, `${many}\n`)
      return outcome.steps!.reduce((sum, step) => sum + (step.durationUs ?? 0), 0)
    }
    const few = await took(count / 10)
    const all = await took(count)
    t.log(`${count / 10}: ${Math.round(few)} us; ${count}: ${Math.round(all)} us`)
    // Ten times as many, and not a hundred times as long: the machine may be busy.
    t.true(all < 40 * few, `${all} us for ${count}, ${few} us for a tenth of them`)
  })
}
