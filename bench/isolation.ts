// A mount namespace of its own for what measures, so that the machine's mounts stay as they are.

import { readlinkSync, statfsSync } from 'node:fs'

const CGROUP2_MAGIC = 0x63677270

/**
 * The prefix of a command that puts it into such a namespace. On a host with cgroup v1 the namespace shows version 2
 * only: there everything that is compared mounts the same. Nothing for an ordinary user.
 */
export function isolation(): string[] {
  if (process.getuid?.() !== 0) return []
  const unified = statfsSync('/sys/fs/cgroup').type === CGROUP2_MAGIC
  const script = `
    set -e
    [ "$(readlink /proc/self/ns/mnt)" != "$1" ] || { echo 'bench: no namespace of its own' >&2; exit 1; }
    shift
    ${unified ? '' : 'umount -R -l /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup'}
    exec "$@"`
  const namespace = readlinkSync('/proc/self/ns/mnt')
  return ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', namespace]
}
