// A mount namespace of its own for what measures, so that the machine's mounts stay as they are.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readlinkSync, statfsSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'

const CGROUP2_MAGIC = 0x63677270

/**
 * The prefix of a command that puts it into such a namespace. On a host with cgroup v1 the namespace shows version 2
 * only: there everything that is compared mounts the same. Nothing for an ordinary user.
 */
function isolation(): string[] {
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

/** Runs a script of this directory with a file as its argument, in such a namespace, and begun by `launcher` there. */
export async function runIsolated(
  script: string,
  file: string,
  launcher: readonly string[] = [],
): Promise<void> {
  const [command, ...args] = [
    ...isolation(),
    ...launcher,
    process.execPath,
    ...process.execArgv,
    join(import.meta.dirname, script),
    file,
  ]
  const child = spawn(command!, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  const [code, signal] = await once(child, 'close')
  if (code !== 0) throw new Error(`${script}, which measures, ended with ${code ?? signal}`)
}

/** What is measured on. */
export function machine() {
  return {
    date: new Date().toISOString(),
    kernel: release(),
    architecture: process.arch,
    cpu: cpus()[0]?.model,
    cpus: cpus().length,
    memory: totalmem(),
    node: process.version,
  }
}
