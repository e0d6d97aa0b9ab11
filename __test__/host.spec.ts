// The host's mount table: no container changes it, in no cell, also on a host whose mounts are shared.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { cells, openDirectory, runInCell } from './support/cells.ts'
import { guardHost, hostMounts } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job } from './support/job.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** Mounts of every kind, and mounts made by the command itself where it may. */
function busyJob(image: string, data: string, mode: Job['mode']): Job {
  return {
    root: image,
    calls: [
      ['defaults'],
      ['tmpfs', '/tmp'],
      ['bind', data, '/data'],
      ['bind', data, '/again', { readonly: true, propagation: 'rslave' }],
      ['mask', ['/etc/secret-file', '/etc/secret-directory']],
      ['readonlyPaths', '/etc/frozen'],
      ['readonly'],
    ],
    mode,
    commands: [
      { command: '/bin/true' },
      {
        command: '/bin/sh',
        args: ['-c', 'mount -t tmpfs inner /data && mount -t tmpfs inner /tmp && echo mounted'],
        options: { capabilities: ['CAP_SYS_ADMIN'] },
      },
    ],
  }
}

for (const cell of cells) {
  const testHere = testNeeding([...cell.needs, 'busybox'])

  for (const mode of ['run', 'prepare'] as const) {
    testHere(`${cell.name}, ${mode}: the mounts of the host are as before`, async (t) => {
      const image = join(host.scratch('image'), 'image')
      await busyboxImage(image, { mountpoints: false, owner: cell.owner })
      const before = hostMounts()
      const outcome = await runInCell(cell, busyJob(image, openDirectory(host, 'data'), mode), host)
      t.is(outcome.error, undefined)
      t.deepEqual(
        outcome.results.map(({ exitCode, stdout }) => [exitCode, stdout]),
        [
          [0, ''],
          [0, 'mounted\n'],
        ],
      )
      t.is(hostMounts(), before)
    })
  }

  testHere(`${cell.name}: also where all mounts are shared`, async (t) => {
    const image = join(host.scratch('image'), 'image')
    await busyboxImage(image, { mountpoints: false, owner: cell.owner })
    const tables = openDirectory(host, 'tables')
    const data = openDirectory(host, 'data')
    // The host's place is taken by a mount namespace whose mounts are all shared; a sentinel in it, which outlives
    // the driver, writes its table down before and after.
    const setup = `
      mount --make-rshared /
      mount -t tmpfs -o mode=1777 data '${data}'
      cat /proc/self/mountinfo > '${tables}/before'
      "$@" || exit $?
      cat /proc/self/mountinfo > '${tables}/after'
      exit 0
    `
    const outcome = await runInCell(cell, busyJob(image, data, 'run'), host, { setup })
    t.is(outcome.error, undefined)
    t.is(outcome.results[1]?.stdout, 'mounted\n')
    const table = (name: string): string => readFileSync(join(tables, name), 'utf8')
    t.regex(table('before'), /shared:/)
    t.is(table('after'), table('before'))
  })
}
