// What level classic, mount(2) only, does in its own way: flags below a bind, locked flags, commas, and what it refuses
// before anything is mounted. That it gives what the other levels give is in the specs of those things.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Command, Job } from './support/job.ts'
import { isWithin, parseMountinfo } from './support/mountinfo.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const level = 'classic'

const sh = (script: string): Command => ({ command: '/bin/sh', args: ['-c', script] })
const table = sh('cat /proc/self/mountinfo')

async function jobFor(cell: Cell, calls: Job['calls'], commands: Command[] = [table]): Promise<Job> {
  const root = await busyboxImage(join(host.scratch('image'), 'image'), { owner: cell.owner })
  return { root, calls, mode: 'run', commands }
}

/** A tree of mounts, made in the driver's private mount namespace. One of them is covered by another. */
function makeTree(): { data: string; setup: string } {
  const data = host.scratch('data')
  mkdirSync(join(data, 'one'))
  const setup = `
    mount -t tmpfs -o mode=755,noatime one '${data}/one'
    mkdir '${data}/one/two' '${data}/one/stack'
    mount -t tmpfs -o mode=755,nosuid,nodiratime two '${data}/one/two'
    mkdir '${data}/one/two/three'
    mount -t tmpfs -o mode=755,ro,strictatime three '${data}/one/two/three'
    mount -t tmpfs -o mode=755 lower '${data}/one/stack'
    mount -t tmpfs -o mode=755 upper '${data}/one/stack'
  `
  return { data, setup }
}

for (const cell of cells) {
  const testHere = testNeeding([...cell.needs, 'busybox'])

  testHere(
    `${cell.name}: a flag for a whole tree reaches each mount, and leaves the others as they are`,
    async (t) => {
      const { data, setup } = makeTree()
      const job = await jobFor(cell, [
        ['defaults'],
        ['mount', { type: 'bind', source: data, destination: '/tree', options: ['rbind', 'rro', 'rnodev'] }],
      ])
      const { error, results } = await runInCell(cell, job, host, { level, setup })
      t.is(error, undefined)
      const below = parseMountinfo(results[0]!.stdout).filter((mount) => isWithin('/tree', mount.destination))
      const found = new Map(
        below.map((mount) => [mount.source === 'lower' ? 'covered' : mount.destination, mount.options]),
      )
      t.deepEqual([...found.keys()].sort(), [
        '/tree',
        '/tree/one',
        '/tree/one/stack',
        '/tree/one/two',
        '/tree/one/two/three',
        'covered',
      ])
      for (const [destination, options] of found) {
        if (destination === 'covered') continue
        t.true(options.includes('ro'), `${destination}: ${options}`)
        t.true(options.includes('nodev'), `${destination}: ${options}`)
      }
      t.true(found.get('/tree/one')!.includes('noatime'))
      t.true(found.get('/tree/one/two')!.includes('nodiratime'))
      t.true(found.get('/tree/one/two')!.includes('relatime'))
      t.true(found.get('/tree/one/two')!.includes('nosuid'))
      t.false(found.get('/tree/one')!.includes('nosuid'))
      t.false(found.get('/tree/one/two/three')!.some((option) => option.endsWith('atime')))
    },
  )

  testHere(`${cell.name}: what mount(2) can not do is refused before anything is mounted`, async (t) => {
    const data = host.scratch('data')
    const hook = { path: '/bin/sh', args: ['sh', '-c', `echo ran > '${data}/ran'`] }
    for (const [call, reason] of [
      [
        ['mount', { type: 'tmpfs', destination: '/x', options: ['mpol=bind:0,2'] }],
        /comma in the option "mpol"/,
      ],
      [
        ['mount', { type: 'tmpfs', destination: '/x', options: [`mpol=${'x'.repeat(5000)}`] }],
        /more than 4095 bytes of options/,
      ],
      [
        [
          'bind',
          data,
          '/x',
          {
            idMap: {
              uids: [{ containerId: 0, hostId: 5, size: 1 }],
              gids: [{ containerId: 0, hostId: 5, size: 1 }],
            },
          },
        ],
        /idmapped mounts need Linux 5\.12/,
      ],
    ] as const) {
      const calls = [['defaults'], call, ['hook', 'createRuntime', hook]] as unknown as Job['calls']
      const { error } = await runInCell(cell, await jobFor(cell, calls), host, { level })
      t.is(error?.code, 'ERR_ROOTFS_UNSUPPORTED', error?.message)
      t.regex(error!.message, reason)
      t.is(error!.destination, '/x')
    }
    t.throws(() => readFileSync(join(data, 'ran')), { code: 'ENOENT' })
  })

  testHere(
    `${cell.name}: nothing but the root can be reached from inside, and nothing is left to mount on`,
    async (t) => {
      const job = await jobFor(
        cell,
        [['defaults']],
        [
          sh(
            'ls -a /../.. | tr "\\n" " "; cd /..; pwd; ls -di / /.. | sed "s/ *\\([0-9]*\\).*/\\1/" | uniq | wc -l',
          ),
          table,
        ],
      )
      const { error, results } = await runInCell(cell, job, host, { level })
      t.is(error, undefined)
      t.regex(results[0]!.stdout, /\betc\b.*\n?\/\n1\n$/s)
      const mounts = parseMountinfo(results[1]!.stdout)
      t.deepEqual(
        mounts.filter(({ destination }) => /^\/\d+$/.test(destination) || destination === '/host'),
        [],
      )
      // One mount for each destination: no place for mounts is on any.
      t.is(mounts.filter(({ destination }) => destination === '/').length, 1)
    },
  )
}

const unprivileged = cells.find(({ name }) => name === 'unprivileged')!
const root = cells[0]!
const ranges = cells.find(({ name }) => name === 'root with ranges in a user namespace')!

for (const cell of [unprivileged, ranges]) {
  testNeeding([...cell.needs, 'busybox'])(`${cell.name}: a flag of the host's mount is locked`, async (t) => {
    const data = host.scratch('data')
    const setup = `mount -t tmpfs -o mode=755,noexec,nosuid data '${data}'`
    const bind = (options: string[]): Job['calls'] => [
      ['defaults'],
      ['mount', { type: 'bind', source: data, destination: '/data', options }],
    ]
    const refused = await runInCell(cell, await jobFor(cell, bind(['rbind', 'exec'])), host, { level, setup })
    t.is(refused.error?.code, 'ERR_ROOTFS_LOCKED', refused.error?.message)
    // What isn't asked to go stays, and others can be added.
    const kept = await runInCell(cell, await jobFor(cell, bind(['rbind', 'nodev'])), host, { level, setup })
    t.is(kept.error, undefined)
    const mount = parseMountinfo(kept.results[0]!.stdout).find(({ destination }) => destination === '/data')
    for (const flag of ['nosuid', 'noexec', 'nodev']) t.true(mount?.options.includes(flag), flag)
  })
}

testNeeding(['root', 'unshare', 'busybox'])(
  'root: a shared bind shares with the host, and others do not',
  async (t) => {
    const data = host.scratch('data')
    for (const name of ['shared', 'other']) mkdirSync(join(data, name))
    const setup = `
    for name in shared other; do
      mount -t tmpfs -o mode=755 $name '${data}'/$name
      mount --make-shared '${data}'/$name
      mkdir '${data}'/$name/below
    done
  `
    const seen = join(data, 'seen')
    const script = `cat > /dev/null; grep -o '${data}/[a-z]*/below' /proc/self/mountinfo > '${seen}' || true`
    const hook = { path: '/bin/sh', args: ['sh', '-c', script], env: ['PATH=/usr/bin:/bin'] }
    const caps = { capabilities: ['CAP_SYS_ADMIN'] }
    const job = await jobFor(
      root,
      [
        ['defaults'],
        [
          'mount',
          {
            type: 'bind',
            source: join(data, 'shared'),
            destination: '/shared',
            options: ['rbind', 'rshared'],
          },
        ],
        ['bind', join(data, 'other'), '/other'],
        ['hook', 'poststop', hook],
      ],
      [
        {
          ...sh(
            'mount -t tmpfs none /shared/below; mount -t tmpfs none /other/below; cat /proc/self/mountinfo',
          ),
          options: caps,
        },
      ],
    )
    const { error, results } = await runInCell(root, job, host, { level, setup })
    t.is(error, undefined)
    const mounts = parseMountinfo(results[0]!.stdout)
    const propagation = (path: string) => mounts.find(({ destination }) => destination === path)!.propagation
    t.true(propagation('/shared').some((word) => word.startsWith('shared:')))
    t.false(propagation('/other').some((word) => word.startsWith('shared:')))
    t.deepEqual(mounts.filter(({ destination }) => destination.endsWith('/below')).length, 2)
    t.is(readFileSync(seen, 'utf8').trim(), join(data, 'shared', 'below'))
  },
)

testNeeding(['root', 'unshare', 'busybox'])(
  'root: a file that is bound on a file, and a device',
  async (t) => {
    const data = host.scratch('data')
    writeFileSync(join(data, 'file'), 'bound\n')
    const job = await jobFor(
      root,
      [
        ['defaults'],
        ['bind', join(data, 'file'), '/etc/bound', { readonly: true }],
        ['mount', { type: 'bind', source: '/dev/zero', destination: '/etc/zero', options: ['bind'] }],
      ],
      [sh('cat /etc/bound; echo x > /etc/bound; head -c 2 /etc/zero | od -An -tx1')],
    )
    const { error, results } = await runInCell(root, job, host, { level })
    t.is(error, undefined)
    t.is(results[0]!.stdout.trim().replace(/\s+/g, ' '), 'bound 00 00')
    t.regex(results[0]!.stderr, /read-only/i)
  },
)
