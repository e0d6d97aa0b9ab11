// Hosts that lack something besides system calls, made in namespaces of their own: a container finds there what it finds on an
// ordinary host, nothing is left, and the host's mounts are as before.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type Cell, cells, openDirectory, runAllInCell } from './support/cells.ts'
import { guardHost, hostMounts, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { parseMountinfo } from './support/mountinfo.ts'
import { type Level, levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

interface DegradedHost {
  /** How the driver gets there, as words of the shell; what is executed is `"$@"`. */
  setup: string
  env?: Record<string, string>
  /** Another spec has it too, so that CI has fewer here. */
  elsewhere?: true
}

const hosts: Record<string, DegradedHost> = {
  // What container runtimes hide of it.
  'a /proc that is partly hidden': {
    setup: `
      for name in kcore keys timer_list version; do [ ! -e /proc/$name ] || mount --bind /dev/null /proc/$name; done
      for name in acpi irq; do [ ! -d /proc/$name ] || mount -t tmpfs -o ro none /proc/$name; done
      for name in bus fs sys; do mount --bind /proc/$name /proc/$name; mount -o remount,bind,ro /proc/$name; done`,
  },
  'a /proc with hidepid=2': { setup: 'mount -t proc -o hidepid=2 proc /proc' },
  // The sysctl is that of a pid namespace.
  'no executable memory files': {
    setup: `exec unshare --pid --fork --mount-proc sh -ec 'echo 2 > /proc/sys/vm/memfd_noexec; exec "$@"' sh "$@"`,
    env: {
      ROOTFS_SUPERVISOR_EXEC: join(checkout, 'packages', `linux-${process.arch}-gnu`, 'rootfs-supervisor'),
    },
  },
  'a user namespace around all': {
    setup: `
      ready=$(mktemp -u)
      mkfifo "$ready"
      exec 3<&0
      unshare --user --mount --propagation private sh -ec 'read -r line < "$0"; rm "$0"; exec "$@"' "$ready" "$@" <&3 &
      while [ "$(readlink /proc/$!/ns/user)" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
      for map in uid_map gid_map; do echo '0 0 1000000' > /proc/$!/$map; done
      chmod 777 "$ready"
      echo > "$ready"
      wait $!
      exit $?`,
  },
  'mounts that are all shared': { setup: 'mount --make-rshared /', elsewhere: true },
  'cgroups of version 2': {
    setup: 'umount -R /sys/fs/cgroup 2>/dev/null || true; mount -t cgroup2 cgroup2 /sys/fs/cgroup',
    elsewhere: true,
  },
  'cgroups of version 1': { setup: 'umount /sys/fs/cgroup/unified 2>/dev/null || true', elsewhere: true },
  'no cgroups': { setup: 'umount -R /sys/fs/cgroup 2>/dev/null || true' },
}

const script = `
  cat /proc/self/mountinfo
  echo ==
  grep -E '^(Uid|Gid|Cap|SigBlk|SigIgn|NoNew|Umask)' /proc/self/status
  ls /dev; id -u; hostname; pwd
  wc -c < /etc/secret-file; ls -A /etc/secret-directory
  cat /data/hello
  for path in /written /data/written /etc/frozen/file /proc/sys/kernel/domainname; do
    { echo x > $path; } 2>/dev/null && echo "$path is writable"
  done
  for device in null zero urandom; do head -c 1 /dev/$device | wc -c; done
  echo x > /dev/null && echo x > /tmp/written && cat /tmp/written
  ls /proc/self/fd | wc -l
`

interface Given {
  image: string
  data: string
  evidence: string
}

async function give(cell: Cell): Promise<Given> {
  const image = join(host.scratch('image'), 'image')
  await busyboxImage(image, { mountpoints: false, owner: cell.owner })
  const data = host.scratch('data')
  writeFileSync(join(data, 'hello'), 'hello from the host\n')
  return { image, data, evidence: openDirectory(host, 'evidence') }
}

function jobs({ image, data, evidence }: Given): Job[] {
  const hook = ['sh', '-c', `cat > /dev/null; echo ran >> '${evidence}/hook'`]
  const calls: Job['calls'] = [
    ['proc', '/proc', { fallback: 'bind' }],
    ['dev'],
    ['sysfs'],
    ['cgroup'],
    ['tmpfs', '/tmp'],
    ['bind', data, '/data', { readonly: true }],
    ['mask', ['/etc/secret-file', '/etc/secret-directory']],
    ['readonlyPaths', ['/etc/frozen', '/proc/sys']],
    ['readonly'],
    ['hostname', 'testbox'],
  ]
  const commands = [{ command: '/bin/sh', args: ['-c', script] }]
  const hooked: Job['calls'] = [...calls, ['hook', 'createRuntime', { path: '/bin/sh', args: hook }]]
  return [
    { root: image, calls, mode: 'run', commands },
    { root: image, calls: hooked, mode: 'prepare', commands },
  ]
}

/** What a container finds, without what is the kernel's or the host's own: parts of /proc and of cgroups, and nodes. */
function found({ error, results, left }: Outcome): unknown {
  const [table = '', rest = ''] = results[0]?.stdout.split('==\n') ?? []
  const mounts = parseMountinfo(table)
    .filter(
      ({ destination }) =>
        !/^\/(proc\/|sys\/|dev\/(null|zero|full|random|urandom|tty)$|etc\/secret-file$)/.test(destination),
    )
    .map(({ destination, type, options, propagation }) =>
      // What comes of the host's mounts may receive more, and never sends.
      [
        destination,
        type,
        options.filter((flag) => flag !== 'relatime').toSorted(),
        propagation.filter((word) => !word.startsWith('master:')),
      ].join(' '),
    )
  return {
    error,
    left,
    mounts,
    rest: rest.split('\n'),
    stderr: results[0]?.stderr,
    exitCode: results[0]?.exitCode,
  }
}

const ordinary = new Map<string, Promise<unknown[]>>()

/** What is found on this host itself. */
function onThisHost(cell: Cell, level: Level): Promise<unknown[]> {
  const key = `${cell.name} ${level}`
  const known =
    ordinary.get(key) ??
    give(cell)
      .then((given) => runAllInCell(cell, jobs(given), host, { level }))
      .then((outcomes) => outcomes.map(found))
  ordinary.set(key, known)
  return known
}

for (const [row, [name, { setup, env = {}, elsewhere = false }]] of Object.entries(hosts).entries()) {
  for (const [column, cell] of cells.entries()) {
    for (const [index, level] of levels.entries()) {
      // In CI each host with each cell, each cell at each level, and each level on each host.
      const pair = index === (row + column) % levels.length && !(elsewhere && column % 2 === 1)
      if (process.env.ROOTFS_TEST_FULL === undefined && !pair) continue
      testNeeding([...cell.needs, 'busybox'], level)(`${name}: ${cell.name}, ${level}`, async (t) => {
        const given = await give(cell)
        const before = { mounts: hostMounts(), tree: snapshotTree(given.image) }
        const outcomes = await runAllInCell(cell, jobs(given), host, { level, setup, env })
        for (const { error } of outcomes) t.is(error, undefined, `${error?.message}; ${error?.hint}`)
        t.deepEqual(outcomes.map(found), await onThisHost(cell, level))
        t.is(readFileSync(join(given.evidence, 'hook'), 'utf8'), 'ran\n')
        t.deepEqual({ mounts: hostMounts(), tree: snapshotTree(given.image) }, before)
      })
    }
  }
}
