// Runs specs on an older kernel: Debian's user-mode Linux, a kernel that is a program. As root; needs Debian's apt and the
// package busybox-static. The host's files are below an overlay in it, so nothing is written to them.
//
//   npm run test:older [-- SPEC...]
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const checkout = resolve(import.meta.dirname, '..')
const kept = join(checkout, 'target', 'older-kernel')
const usual = ['destinations'].map((name) => `__test__/${name}.spec.ts`)
const specs = process.argv.slice(2).length > 0 ? process.argv.slice(2) : usual

function run(command: string, args: string[], options: { cwd?: string; timeout?: number } = {}): void {
  const { status, signal, error } = spawnSync(command, args, { stdio: 'inherit', ...options })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${command} ended with ${signal ?? status}`)
}

function find(directory: string, name: string): string {
  const found = readdirSync(directory, { recursive: true, encoding: 'utf8' }).find((path) =>
    path.endsWith(`/${name}`),
  )
  if (found === undefined) throw new Error(`${name} is not in the package user-mode-linux`)
  return join(directory, found)
}

if (process.getuid?.() !== 0) throw new Error('it has to run as root')
const unpacked = join(kept, 'unpacked')
if (!existsSync(unpacked)) {
  mkdirSync(kept, { recursive: true })
  run('apt-get', ['download', 'user-mode-linux'], { cwd: kept })
  for (const name of readdirSync(kept).filter((name) => name.endsWith('.deb')))
    run('dpkg', ['-x', join(kept, name), unpacked])
}
const kernel = find(unpacked, 'linux.uml')
const module = find(unpacked, 'overlay.ko')

// The only directory of the host that it writes to.
const share = mkdtempSync(join(tmpdir(), 'rootfs-older-kernel-'))
try {
  const command = ['node', 'node_modules/.bin/ava', ...specs].map((word) => `'${word}'`).join(' ')
  const path = 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root'
  writeFileSync(
    join(share, 'init'),
    `#!/bin/sh
${path}
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
busybox insmod ${module}
mkdir /run/upper /run/work /run/root
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root
cd /run/root
pivot_root . mnt
exec chroot . /bin/sh ${share}/begin
`,
    { mode: 0o755 },
  )
  writeFileSync(
    join(share, 'begin'),
    `${path}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
umount -l /mnt
mount -t hostfs -o ${share} share /mnt
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd '${checkout}'
{ echo "Linux $(uname -r)"; ${command}; echo "$?" >/mnt/status; } >/mnt/output 2>&1
echo o >/proc/sysrq-trigger
sleep 10
`,
  )
  const begin = [
    'mount --bind "$0" "$0"',
    'mount -o remount,bind,ro /',
    `exec ${kernel} mem=1500M root=/dev/root rootfstype=hostfs rootflags=/ ro init="$0/init" con=null con0=null,fd:1 </dev/null`,
  ].join(' && ')
  const console = spawnSync(
    'unshare',
    ['--mount', '--propagation', 'private', '--kill-child', '/bin/sh', '-c', begin, share],
    { stdio: ['ignore', 'pipe', 'pipe'], timeout: 30 * 60_000, encoding: 'utf8' },
  )
  const output = join(share, 'output')
  process.stdout.write(existsSync(output) ? readFileSync(output, 'utf8') : console.stdout)
  const status = join(share, 'status')
  process.exitCode = existsSync(status) ? Number(readFileSync(status, 'utf8')) : 1
} finally {
  rmSync(share, { recursive: true, force: true })
}
