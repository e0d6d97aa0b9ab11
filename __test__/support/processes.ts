// Processes, threads and open files, as /proc shows them; and waiting for a condition instead of for a time.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

export interface ProcessInfo {
  pid: number
  parentPid: number
  state: string
  command: string
  /** Clock ticks after boot: with the pid it names a process for good. */
  startTime: number
}

/** Something that ended while it was being read is not there. */
function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM') return undefined
    throw error
  }
}

export function processInfo(pid: number): ProcessInfo | undefined {
  return unlessGone(() => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name is in parentheses and may hold parentheses and spaces itself.
    const end = stat.lastIndexOf(')')
    const fields = stat.slice(end + 2).split(' ')
    const [state = '?', parentPid] = fields
    const command = stat.slice(stat.indexOf('(') + 1, end)
    return { pid, parentPid: Number(parentPid), state, command, startTime: Number(fields[19]) }
  })
}

export function allProcesses(): ProcessInfo[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => processInfo(Number(name)))
    .filter((info) => info !== undefined)
}

/** The processes below one, its supervisor and containers among them, by ancestry. */
export function descendants(pid: number = process.pid): ProcessInfo[] {
  const all = allProcesses()
  const found: ProcessInfo[] = []
  let parents = new Set([pid])
  while (parents.size > 0) {
    const children = all.filter((info) => parents.has(info.parentPid))
    found.push(...children)
    parents = new Set(children.map((info) => info.pid))
  }
  return found
}

/** A first process that waits for a container to be asked for, and what holds its memory. */
const WAITING = ['rootfs-spare', 'rootfs-holder']

/** The processes of containers: not the supervisor, nor what waits for a container to be asked for. */
export function containers(pid: number = process.pid): ProcessInfo[] {
  return descendants(pid).filter(({ parentPid, command }) => parentPid !== pid && !WAITING.includes(command))
}

/** Processes with this text in their arguments or environment; a zombie has neither any more. */
export function processesMarked(marker: string): ProcessInfo[] {
  return allProcesses().filter(
    ({ pid }) =>
      pid !== process.pid &&
      ['cmdline', 'environ'].some((file) =>
        unlessGone(() => readFileSync(`/proc/${pid}/${file}`, 'latin1'))?.includes(marker),
      ),
  )
}

/** What the open fds of a process are, sorted; sockets and pipes without their numbers. */
export function openFiles(pid: number | 'self' = 'self'): string[] {
  return (
    readdirSync(`/proc/${pid}/fd`)
      .map((fd) => unlessGone(() => readlinkSync(`/proc/${pid}/fd/${fd}`)))
      .filter((target) => target !== undefined)
      // The directory being read here, and which of several alike it is, say nothing.
      .filter((target) => !/^\/proc\/\d+\/fd$/.test(target))
      .map((target) => target.replace(/:\[\d+\]$/, ''))
      .sort()
  )
}

export function threadCount(pid: number | 'self' = 'self'): number {
  return readdirSync(`/proc/${pid}/task`).length
}

/** Calls `read` until `wanted` accepts what it gives, and returns that; after the deadline, whatever it was last. */
export async function eventually<T>(
  read: () => T | Promise<T>,
  wanted: (value: T) => boolean,
  milliseconds = 5000,
) {
  const deadline = performance.now() + milliseconds
  for (;;) {
    const value = await read()
    if (wanted(value) || performance.now() > deadline) return value
    await delay(10)
  }
}
