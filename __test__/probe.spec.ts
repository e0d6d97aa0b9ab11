// probe(): what is found is true, in each cell, and nothing is left of finding out.
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { type HostFeature, type HostSupport, probe } from 'rootfs'
import { cells, runProbe } from './support/cells.ts'
import { type Call, filtered } from './support/filter.ts'
import { guardHost, hostMounts } from './support/host.ts'
import { checkout } from './support/images.ts'
import { containers, eventually } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const run = promisify(execFile)

const openFds = (): string[] => readdirSync('/proc/self/fd')

function isWellFormed({ kernel, features }: HostSupport): string[] {
  const problems = kernel === release() ? [] : [`kernel ${kernel}`]
  for (const [name, { available, reason, hint, ...rest }] of Object.entries(features)) {
    if (available && (reason !== undefined || hint !== undefined)) problems.push(`${name} needs no reason`)
    if (!available && !reason) problems.push(`${name} has no reason`)
    if (Object.keys(rest).length > 0) problems.push(`${name} has more than it should`)
  }
  return problems
}

test.serial('every documented feature is told, each that is not there with its reason', async (t) => {
  const support = await probe()
  t.deepEqual(isWellFormed(support), [])
  const table = readFileSync(join(checkout, 'docs', 'kernels.md'), 'utf8')
  const documented = [...table.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name!)
  t.deepEqual(Object.keys(support.features), documented)
})

test.serial('nothing is left, and this thread is not held up', async (t) => {
  await probe()
  const mounts = hostMounts()
  const fds = openFds()
  let ticks = 0
  const timer = setInterval(() => (ticks += 1), 1)
  await Promise.all([probe(), probe(), probe()])
  clearInterval(timer)
  t.true(ticks > 1)
  t.is(hostMounts(), mounts)
  t.deepEqual(openFds(), fds)
  t.deepEqual(
    await eventually(
      () => containers(),
      (left) => left.length === 0,
      1000,
    ),
    [],
  )
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8')
  t.is(children.trim().split(' ').filter(Boolean).length <= 1, true, `children: ${children}`)
})

// ---------------------------------------------------------------- the cells

const byRoot: HostFeature[] = [
  'supervisor',
  'mountApi',
  'pidNamespaces',
  'networkNamespaces',
  'idRanges',
  'idmappedMounts',
]
const byUser: HostFeature[] = [
  'supervisor',
  'mountApi',
  'userNamespaces',
  'pidNamespaces',
  'networkNamespaces',
]

const root = cells.find(({ name }) => name === 'root')!
const unprivileged = cells.find(({ name }) => name === 'unprivileged')!
const granted = cells.find(({ name }) => name === 'unprivileged with subordinate ids')!

testNeeding(root.needs)('root: what containers use is there', async (t) => {
  const support = await runProbe(root, host)
  t.deepEqual(isWellFormed(support), [])
  t.deepEqual(
    byRoot.filter((name) => !support.features[name].available),
    [],
  )
})

testNeeding(unprivileged.needs)('an ordinary user: what needs root is not there, and says why', async (t) => {
  const support = await runProbe(unprivileged, host)
  t.deepEqual(isWellFormed(support), [])
  t.deepEqual(
    byUser.filter((name) => !support.features[name].available),
    [],
  )
  t.like(support.features.stubNamespace, { available: false })
  t.regex(support.features.stubNamespace.reason!, /CAP_SYS_ADMIN/)
  t.regex(support.features.stubNamespace.hint!, /only saves time/)
  t.like(support.features.idmappedMounts, { available: false })
  t.regex(support.features.idmappedMounts.reason!, /mount_setattr\(.*MOUNT_ATTR_IDMAP.*\(EPERM\)/)
  t.regex(support.features.idmappedMounts.hint!, /CAP_SYS_ADMIN/)
  t.like(support.features.idRanges, { available: false })
  t.regex(support.features.idRanges.hint!, /\/etc\/subuid/)
})

testNeeding(granted.needs)('an ordinary user with subordinate ids can map ranges', async (t) => {
  const { features } = await runProbe(granted, host)
  t.deepEqual(features.idRanges, { available: true })
})

testNeeding(root.needs)('user namespaces that are switched off: the sysctl is named', async (t) => {
  // The limit belongs to a user namespace, so the machine's own stays as it is.
  const script = `echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"`
  const code = `import { probe } from 'rootfs'; console.log(JSON.stringify(await probe()))`
  const args = [
    '--user',
    '--map-root-user',
    'sh',
    '-ec',
    script,
    'sh',
    process.execPath,
    '--input-type=module',
    '--eval',
    code,
  ]
  const { stdout } = await run('unshare', args, { cwd: checkout })
  const support = JSON.parse(stdout) as HostSupport
  t.deepEqual(isWellFormed(support), [])
  const { userNamespaces, procInUserNamespace, pidNamespaces } = support.features
  t.regex(userNamespaces.reason!, /^clone3\(.*CLONE_NEWUSER.*\(ENOSPC\)$/)
  t.regex(userNamespaces.hint!, /user\.max_user_namespaces is 0/)
  t.false(procInUserNamespace.available)
  t.true(pidNamespaces.available, 'this caller has CAP_SYS_ADMIN there')
})

// ---------------------------------------------------------------- a supervisor that can't start

test.serial('a supervisor that cannot be started is a feature that is not there', async (t) => {
  const code = `import { probe } from 'rootfs'; console.log(JSON.stringify(await probe()))`
  const env = { PATH: process.env.PATH, ROOTFS_SUPERVISOR_EXEC: '/no/such/supervisor' }
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', code], {
    cwd: checkout,
    env,
  })
  const support = JSON.parse(stdout) as HostSupport
  t.deepEqual(isWellFormed(support), [])
  t.regex(support.features.supervisor.reason!, /\/no\/such\/supervisor.*ENOENT/)
  t.true(support.features.memfdExec.available)
  t.true(support.features.mountApi.available, 'the rest is still found out')
})

// ---------------------------------------------------------------- kernels and runtimes that lack something

async function probeFiltered(calls: readonly Call[], how: 'EPERM' | 'ENOSYS' | 'kill'): Promise<HostSupport> {
  const code = "import { probe } from 'rootfs'; console.log(JSON.stringify(await probe()))"
  const [command, ...args] = [
    ...filtered(calls, how),
    process.execPath,
    '--input-type=module',
    '--eval',
    code,
  ]
  const { stdout } = await run(command!, args, { cwd: checkout })
  return JSON.parse(stdout) as HostSupport
}

const lacking: Array<
  [calls: Call[], how: 'EPERM' | 'ENOSYS' | 'kill', missing: Partial<Record<HostFeature, RegExp>>]
> = [
  [['openat2'], 'ENOSYS', { openat2: /openat2\(.*\(ENOSYS\)/ }],
  [['openat2'], 'EPERM', { openat2: /openat2\(.*\(EPERM\)/ }],
  [['statmount', 'open_tree_attr'], 'ENOSYS', { statmount: /ENOSYS/, openTreeAttr: /ENOSYS/ }],
  [['statmount'], 'kill', { statmount: /seccomp filter kills the process.*SIGSYS/ }],
  [['fsopen'], 'ENOSYS', { mountApi: /fsopen\("tmpfs"\).*ENOSYS/, detachedMounts: /ENOSYS/ }],
  [['mount_setattr'], 'EPERM', { mountApi: /mount_setattr\(.*EPERM/ }],
]
for (const [calls, how, missing] of lacking) {
  testNeeding(['root', 'python3'])(
    `${calls.join(' and ')} answering ${how}: told, with the reason`,
    async (t) => {
      const [support, whole] = await Promise.all([probeFiltered(calls, how), probe()])
      t.deepEqual(isWellFormed(support), [])
      for (const [name, reason] of Object.entries(missing)) {
        t.regex(support.features[name as HostFeature].reason ?? 'it is there', reason)
      }
      // Level classic makes them too.
      t.is(support.features.overlay.available, whole.features.overlay.available)
      if (missing.mountApi) t.regex(support.features.mountApi.hint!, /Linux 5\.12/)
      else {
        // And nothing else is.
        const others = Object.keys(whole.features).filter((name) => !(name in missing)) as HostFeature[]
        t.deepEqual(
          others.filter((name) => support.features[name].available !== whole.features[name].available),
          [],
        )
      }
    },
  )
}
