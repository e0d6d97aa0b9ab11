// What is set in the container's namespaces: domain name and kernel parameters. And a proc that can't be a new one.
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { type Cell, cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const newImage = (cell: Cell): Promise<string> =>
  busyboxImage(join(host.scratch('parameters'), 'image'), { owner: cell.owner })

const hostValue = (name: string): string => readFileSync(`/proc/sys/${name}`, 'utf8').trim()

function job(root: string, calls: Job['calls'], script: string, mode: Job['mode'] = 'run'): Job {
  return { root, calls, mode, commands: [{ command: '/bin/sh', args: ['-c', script] }] }
}

for (const level of levels) {
  for (const cell of cells) {
    const title = `${cell.name}, ${level}: what is set inside is not set outside`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const names = [
        'kernel/domainname',
        'kernel/hostname',
        'net/ipv4/ip_forward',
        'kernel/msgmax',
        'net/core/somaxconn',
      ]
      const before = names.map(hostValue)
      const calls: Job['calls'] = [
        ['defaults'],
        ['namespaces', { network: true }],
        ['hostname', 'inside'],
        ['domainname', 'example.org'],
        ['sysctl', 'net.ipv4.ip_forward', '0'],
        ['sysctl', 'net/ipv4/ip_forward', '1'],
        ['sysctl', 'net.core.somaxconn', '77'],
        ['sysctl', 'kernel.msgmax', '9999'],
      ]
      const script = `cd /proc/sys; cat ${names.join(' ')}`
      const outcome = await runInCell(cell, job(await newImage(cell), calls, script), host, { level })
      t.is(outcome.error, undefined)
      t.deepEqual(outcome.results[0]?.stdout.trim().split('\n'), ['example.org', 'inside', '1', '9999', '77'])
      t.deepEqual(names.map(hostValue), before)
      t.not(hostname(), 'inside')
    })
  }
}

for (const cell of cells) {
  const testHere = testNeeding([...cell.needs, 'busybox'])

  testHere(`${cell.name}: the domain name as a kernel parameter`, async (t) => {
    const calls: Job['calls'] = [['defaults'], ['sysctl', 'kernel.domainname', 'example.net']]
    const outcome = await runInCell(
      cell,
      job(await newImage(cell), calls, 'cat /proc/sys/kernel/domainname'),
      host,
    )
    t.is(outcome.results[0]?.stdout, 'example.net\n')
  })

  testHere(`${cell.name}: a parameter that can't be set is named`, async (t) => {
    const image = await newImage(cell)
    const before = snapshotTree(image)
    for (const [name, value, code, errno] of [
      ['net.core.no_such_parameter', '1', 'ERR_ROOTFS_UNSUPPORTED', 'ENOENT'],
      ['kernel.msgmax', 'many', 'ERR_ROOTFS_SPEC', 'EINVAL'],
    ] as const) {
      const calls: Job['calls'] = [
        ['namespaces', { network: true }],
        ['sysctl', name, value],
      ]
      const { error } = await runInCell(cell, job(image, calls, 'true'), host)
      t.is(error?.code, code)
      t.is(error?.errnoName, errno)
      t.regex(error?.message ?? '', new RegExp(`sysctl ${name.replaceAll('.', '\\.')}: `))
    }
    t.deepEqual(snapshotTree(image), before)
  })

  testHere(`${cell.name}: what an image has in place of /proc/sys is not asked`, async (t) => {
    // The image's own file would take what is written to that path in the root (CVE-2025-52881).
    const image = await newImage(cell)
    mkdirSync(join(image, 'proc', 'sys', 'kernel'), { recursive: true })
    writeFileSync(join(image, 'proc', 'sys', 'kernel', 'msgmax'), 'trap\n')
    chmodSync(join(image, 'proc', 'sys', 'kernel', 'msgmax'), 0o666)
    const calls: Job['calls'] = [
      ['proc', '/tmp'],
      ['sysctl', 'kernel.msgmax', '4242'],
    ]
    const script = 'cat /tmp/sys/kernel/msgmax /proc/sys/kernel/msgmax'
    const outcome = await runInCell(cell, job(image, calls, script), host)
    t.is(outcome.error, undefined)
    t.is(outcome.results[0]?.stdout, '4242\ntrap\n')
  })
}

testNeeding(['root', 'busybox'])(
  'a path to the namespace of the caller is not a namespace of its own',
  async (t) => {
    const image = await busyboxImage(join(host.scratch('parameters'), 'image'))
    const before = ['kernel/hostname', 'kernel/domainname', 'kernel/msgmax', 'net/core/somaxconn'].map(
      hostValue,
    )
    const joined = (name: string): Rootfs => {
      const path = `/proc/${process.pid}/ns/${name}`
      return new Rootfs(image).namespaces({ [name === 'net' ? 'network' : name]: { path } })
    }
    for (const rootfs of [
      joined('uts').hostname('inside'),
      joined('uts').domainname('inside'),
      joined('ipc').sysctl('kernel.msgmax', '4242'),
      joined('net').sysctl('net.core.somaxconn', '42'),
    ]) {
      await t.throwsAsync(rootfs.run('/bin/true'), {
        code: 'ERR_ROOTFS_SPEC',
        message: /the caller's own namespace/,
      })
    }
    t.deepEqual(
      ['kernel/hostname', 'kernel/domainname', 'kernel/msgmax', 'net/core/somaxconn'].map(hostValue),
      before,
    )
  },
)

// ---------------------------------------------------------------- a proc that is partly hidden, as in a container

/** What container runtimes do to /proc; a user namespace in there may not mount a new one. */
const hidePartOfProc = `
  mount --bind /dev/null /proc/version
  mount -t tmpfs -o ro none /proc/irq
`

for (const level of levels) {
  for (const cell of cells.filter(({ map }) => map !== undefined)) {
    const testHere = testNeeding([...cell.needs, 'busybox'])

    testHere(`${cell.name}, ${level}: where a new proc is denied, the error says why`, async (t) => {
      const options = { setup: hidePartOfProc, level }
      const { error } = await runInCell(cell, job(await newImage(cell), [['proc']], 'true'), host, options)
      t.is(error?.code, 'ERR_ROOTFS_DENIED')
      t.is(error?.errnoName, 'EPERM')
      t.regex(error?.hint ?? '', /fallback: 'bind'/)
    })

    testHere(`${cell.name}, ${level}: the caller's proc can be bound in its place`, async (t) => {
      const calls: Job['calls'] = [
        ['proc', '/proc', { fallback: 'bind', readonly: true }],
        ['mask', ['/proc/version', '/proc/keys']],
      ]
      const script = `
        grep -c . /proc/self/status > /dev/null && echo status
        wc -c < /proc/version; ls /proc/irq | wc -l
        readlink /proc/self/ns/user
        grep ' /proc ' /proc/self/mountinfo | cut -d ' ' -f 6
      `
      const options = { setup: hidePartOfProc, level }
      const outcome = await runInCell(
        cell,
        job(await newImage(cell), calls, script, 'prepare'),
        host,
        options,
      )
      t.is(outcome.error, undefined, JSON.stringify(outcome.error))
      const [status, version, fs, , flags] = outcome.results[0]!.stdout.trim().split('\n')
      t.is(outcome.results[0]!.stderr, '')
      t.deepEqual([status, version, fs], ['status', '0', '0'])
      for (const flag of ['ro', 'nosuid', 'nodev', 'noexec']) t.true(flags?.split(',').includes(flag), flags)
      t.is(outcome.steps?.find(({ destination }) => destination === '/proc')?.strategy, 'bind-fallback')
    })

    testHere(`${cell.name}, ${level}: a bound proc can't have options`, async (t) => {
      const calls: Job['calls'] = [['proc', '/proc', { fallback: 'bind', hidepid: 'invisible' }]]
      const options = { setup: hidePartOfProc, level }
      const { error } = await runInCell(cell, job(await newImage(cell), calls, 'true'), host, options)
      t.is(error?.code, 'ERR_ROOTFS_DENIED')
      t.regex(error?.hint ?? '', /leave out hidepid and subset/)
    })
  }
}

for (const cell of cells) {
  testNeeding([...cell.needs, 'busybox'])(
    `${cell.name}: where a new proc can be had, it is one`,
    async (t) => {
      const calls: Job['calls'] = [['proc', '/proc', { fallback: 'bind' }]]
      const outcome = await runInCell(
        cell,
        job(await newImage(cell), calls, 'ls -d /proc/[0-9]* | wc -l', 'prepare'),
        host,
      )
      t.is(outcome.error, undefined)
      t.is(outcome.steps?.find(({ destination }) => destination === '/proc')?.strategy, undefined)
      t.true(Number(outcome.results[0]?.stdout) <= 6)
    },
  )
}
