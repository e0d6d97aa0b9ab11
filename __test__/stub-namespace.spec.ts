// A root that is entered through the stub namespace is to everybody what pivot_root would have given: to the container's own
// processes, to those that try to leave, and to those that come from outside.
import { join } from 'node:path'
import test from 'ava'
import { type PreparedRootfs, Rootfs } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { eventually } from './support/processes.ts'
import { mustRun } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** Rights over the mounts, and what a way out could take. */
const options = { capabilities: ['CAP_SYS_ADMIN', 'CAP_SYS_CHROOT', 'CAP_DAC_OVERRIDE'] }

const strategy = ({ steps }: PreparedRootfs): string | undefined =>
  steps.find(({ type }) => type === 'pivot')?.strategy

/** A mount table without the numbers that differ with each container. */
function table(mountinfo: string): string[] {
  const mounts = parseMountinfo(mountinfo)
  const place = new Map(mounts.map(({ id }, index) => [id, `${index}`]))
  return mounts.map(({ id: _, parentId, ...mount }) =>
    JSON.stringify({ on: place.get(parentId) ?? 'nothing', ...mount }).replace(/"device":"[\d:]+"/, ''),
  )
}

/** What everybody finds. */
async function observe(box: PreparedRootfs): Promise<Record<string, unknown>> {
  const inside = async (command: string, ...args: string[]): Promise<string> =>
    (await box.run(command, args, options)).stdout
  const entered = (...command: string[]): Promise<string> =>
    mustRun('nsenter', ['--target', `${box.pid}`, '--mount', ...command])
  return {
    'mount table': table(await inside('/bin/cat', '/proc/self/mountinfo')),
    'mounts()': (await box.mounts()).map(({ destination, type, options }) => [destination, type, options]),
    'mount table for the host': table(await mustRun('cat', [`/proc/${box.pid}/mountinfo`])),
    'mount table after setns': table(await entered('/bin/busybox', 'cat', '/proc/1/mountinfo')),
    'root after setns': await entered('/bin/busybox', 'stat', '-c', '%i %h', '/', '/..'),
    'root by its link': await mustRun('stat', ['-L', '-c', '%i', `/proc/${box.pid}/root/`]),
    'mount table in a user namespace': table(
      await inside('/bin/busybox', 'unshare', '-U', '-m', '-r', '/bin/cat', '/proc/self/mountinfo'),
    ),
    attempts: (await inside('/bin/escape')).split('\n'),
    'attempts in a namespace without a root': (await inside('/bin/escape', 'detach')).split('\n'),
    'what is left': (await inside('/bin/ls', '-a', '/')).split('\n'),
  }
}

testNeeding(['root', 'busybox', 'cc', 'unshare'], 'detached')(
  'the stub namespace gives what pivot_root gives',
  async (t) => {
    const root = join(host.scratch('image'), 'root')
    await busyboxImage(root)
    const source = join(checkout, '__test__', 'support', 'escape.c')
    await mustRun('cc', ['-static', '-o', join(root, 'bin', 'escape'), source])
    const rootfs = new Rootfs(root).defaults().tmpfs('/tmp', { mode: 0o1777 })
    // The first container of a supervisor finds no stub namespace yet.
    const first = await rootfs.prepare()
    t.is(strategy(first), 'pivot_root')
    const wanted = await observe(first)
    await first.close()
    const prepared = async (): Promise<PreparedRootfs> => {
      const box = await rootfs.prepare()
      if (strategy(box) !== 'stub-namespace') await box.close()
      return box
    }
    await using box = await eventually(prepared, (made) => strategy(made) === 'stub-namespace')
    const found = await observe(box)
    for (const [what, result] of Object.entries(wanted)) t.deepEqual(found[what], result, what)
    // All of them were made, and what is up from anywhere is the root itself.
    const attempts = found.attempts as string[]
    t.is(attempts.filter((line) => line.startsWith('-- ')).length, 10)
    const inode = /^root: inode (\d+)/m.exec(attempts.join('\n'))?.[1]
    const up = attempts.filter((line) => line.startsWith('up from the root'))
    t.is(up.length, 3)
    for (const line of up) t.regex(line, new RegExp(`inode ${inode}, up ${inode},`))
  },
)
