// The scripts that run in a machine, up to the tests.

/** Begins each line that is for the script outside. */
export const MARK = '@older-kernel'

/** Root of a machine: the host's files below an overlay, so that nothing is written to them. */
export const initOfEmulated = `#!/bin/busybox sh
b=/bin/busybox
for module in /modules/*; do $b insmod $module || $b echo "$module is not loaded"; done
$b mkdir /proc
$b mount -t proc proc /proc
for word in $($b cat /proc/cmdline); do case $word in script=*) script=\${word#script=} ;; esac; done
$b umount /proc
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /lower
$b mount -t tmpfs tmpfs /upper
$b mkdir /upper/upper /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /root
exec $b switch_root /root /bin/sh $script
`

/** The same where the root is the host's already. */
export function initOfProgram(overlay: string, script: string): string {
  return `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
busybox insmod '${overlay}'
mkdir /run/upper /run/work /run/root
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root
cd /run/root
pivot_root . mnt
exec chroot . /bin/sh '${script}'
`
}

export interface Suite {
  name: string
  command: string[]
}

const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`

/** Runs the suites, one after the other, by this user, and powers off. */
export function scriptOf(checkout: string, node: string, user: 'root' | 'user', suites: Suite[]): string {
  const identity =
    user === 'root' ? [] : ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']
  const runs = suites.map(({ name, command }) => {
    // The tests' own limits are for silence; this is for all of them.
    const words = ['timeout', '--kill-after=10', '900', ...identity, ...command].map(quoted).join(' ')
    return `echo; echo ${quoted(`${MARK} suite ${name}`)}; ${words}; status=$?; echo; echo "${MARK} status $status"`
  })
  return `export PATH=${quoted(node)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp PROPTEST_CASES=${process.env.PROPTEST_CASES ?? 6}
mount -t proc proc /proc
umount -l /mnt 2>/dev/null
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t tmpfs tmpfs /run
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox ip link set lo up
# What overlays are written to can't be on the overlay. The checkout may be below it.
cd ${quoted(checkout)}
mount -t tmpfs tmpfs /tmp
mkdir -p ${quoted(checkout)}
busybox mount -o bind . ${quoted(checkout)}
cd ${quoted(checkout)}
{
echo; echo "${MARK} kernel $(uname -r) $(uname -v)"
${runs.join('\n')}
echo "${MARK} end"
} 2>&1 </dev/null | cat
echo o >/proc/sysrq-trigger
while :; do :; done
`
}
