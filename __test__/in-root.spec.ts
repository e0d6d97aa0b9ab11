// What is bound from the tree itself, and how paths are found where the kernel, or the root, lacks something for it.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rootfs } from 'rootfs'
import { cells, runInCell } from './support/cells.ts'
import { filtered } from './support/filter.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import type { Job } from './support/job.ts'
import { mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

// ---------------------------------------------------------------- mountpoints in a bind of a part of the tree

for (const level of levels) {
  for (const cell of cells) {
    const title = `${cell.name}, ${level}: what is made for mounts in a part that is bound elsewhere is removed again`
    testNeeding([...cell.needs, 'busybox'], level)(title, async (t) => {
      const image = await busyboxImage(join(host.scratch('bound'), 'image'), { owner: cell.owner })
      const data = host.scratch('data')
      for (const name of ['part', 'part/below']) mkdirSync(join(data, name))
      await mustRun('chown', ['-R', `${cell.writesAs}:${cell.writesAs}`, data])
      const before = [...snapshotTree(image), ...snapshotTree(data)]
      const calls: Job['calls'] = [
        ['defaults'],
        // Of the root, of a bind, and of a bind of that again.
        ['bind', { inRoot: '/etc' }, '/data'],
        ['tmpfs', '/data/frozen/made/deeper'],
        ['bind', data, '/own'],
        ['bind', { inRoot: '/own/part' }, '/run'],
        ['tmpfs', '/run/below/one'],
        ['bind', { inRoot: '/run/below' }, '/tmp'],
        ['tmpfs', '/tmp/two/three'],
      ]
      const script =
        'mkdir /data/frozen/made/deeper/x && ls -d /etc/frozen/made/deeper /own/part/below/one /own/part/below/two/three'
      const commands = [{ command: '/bin/sh', args: ['-c', script] }]
      const { error, results } = await runInCell(
        cell,
        { root: image, calls, mode: 'prepare', commands },
        host,
        { level },
      )
      t.is(error, undefined, error?.message)
      t.is(results[0]?.stdout, '/etc/frozen/made/deeper\n/own/part/below/one\n/own/part/below/two/three\n')
      t.deepEqual([...snapshotTree(image), ...snapshotTree(data)], before)
    })
  }
}

testNeeding(['root', 'busybox'])(
  'what is made in a part of an overlay that is bound elsewhere is removed from the upper directory',
  async (t) => {
    const directory = host.scratch('overlay')
    const image = await busyboxImage(join(directory, 'image'))
    const [upper, work] = ['upper', 'work'].map((name) => join(directory, name)) as [string, string]
    for (const path of [upper, work]) mkdirSync(path)
    const rootfs = Rootfs.overlay({ lower: [image], upper, work })
      .defaults()
      .bind({ inRoot: '/etc' }, '/data')
      .tmpfs('/data/frozen/made/deeper')
    const { stdout } = await rootfs.run('/bin/ls', ['/etc/frozen'])
    t.is(stdout, 'file\nmade\n')
    t.deepEqual(
      snapshotTree(upper).filter((line) => line.includes('made')),
      [],
    )
  },
)

testNeeding(['root', 'busybox'])(
  "'deny-create' on an overlay without an upper directory of the host's",
  async (t) => {
    const directory = host.scratch('overlay')
    const image = await busyboxImage(join(directory, 'image'))
    const script =
      'echo x > /etc/none 2>/dev/null; mkdir /etc/none 2>/dev/null; echo y > /etc/other && cat /etc/other'
    const options = { capabilities: ['DAC_OVERRIDE', 'FOWNER'] }
    const overlay = Rootfs.overlay({ lower: [image] })
      .defaults()
      .mask('/etc/none', { missing: 'deny-create' })
    t.is(
      (await overlay.run('/bin/sh', ['-c', `${script}; [ -f /etc/none ] && echo written; :`], options))
        .stdout,
      'y\n',
    )
    const [upper, work] = ['upper', 'work'].map((name) => join(directory, name)) as [string, string]
    for (const path of [upper, work]) mkdirSync(path)
    const kept = Rootfs.overlay({ lower: [image], upper, work })
      .defaults()
      .mask('/etc/none', { missing: 'deny-create' })
    await t.throwsAsync(kept.run('/bin/true'), { code: 'ERR_ROOTFS_UNSUPPORTED' })
  },
)

// ---------------------------------------------------------------- without openat2, and without /proc

for (const how of ['ENOSYS', 'EPERM'] as const) {
  for (const level of levels) {
    const title = `where openat2 answers ${how}, ${level}: paths that are missing in a root without /proc`
    testNeeding(['root', 'busybox', 'python3'], level)(title, async (t) => {
      const image = await busyboxImage(join(host.scratch('no-proc'), 'image'))
      const before = snapshotTree(image)
      const program = `
        import { Rootfs } from 'rootfs'
        for (const namespaces of [{}, { user: true }]) {
          const rootfs = new Rootfs(${JSON.stringify(image)}).namespaces(namespaces)
            .tmpfs('/made/by/us')
            .mask(['/etc/secret-file', '/etc/none', '/none/at/all'])
            .readonlyPaths(['/etc/frozen', '/etc/none/either', '/nowhere'])
          const command = 'cat /etc/secret-file; touch /etc/frozen/x 2>&- || echo frozen; ls /made/by; ls /proc'
          const { stdout, stderr } = await rootfs.run('/bin/sh', ['-c', command])
          console.log(JSON.stringify(stdout + stderr))
        }`
      const [command, ...args] = [
        ...filtered(['openat2'], how),
        process.execPath,
        '--input-type=module',
        '--eval',
        program,
      ]
      const env = { PATH: process.env.PATH ?? '', ROOTFS_TEST_LEVEL: level }
      const said = await mustRun(command!, args, { cwd: checkout, env })
      t.is(said, '"frozen\\nus\\n"\n'.repeat(2))
      t.deepEqual(snapshotTree(image), before)
    })
  }
}
