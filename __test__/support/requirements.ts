// What a test needs from the machine. Something missing is a failure in CI and a skip that says why elsewhere.
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import test, { type Implementation } from 'ava'
import { findProgram } from './program.ts'

/** Programs the tests use, and the Debian package each comes from. */
const packages = {
  busybox: 'busybox-static',
  cc: 'gcc',
  crun: 'crun',
  debootstrap: 'debootstrap',
  flock: 'util-linux',
  newgidmap: 'uidmap',
  newuidmap: 'uidmap',
  prlimit: 'util-linux',
  python3: 'python3',
  runc: 'runc',
  setpriv: 'util-linux',
  unshare: 'util-linux',
} as const

export type Need = keyof typeof packages | 'root'
export type Level = 'detached' | 'attached' | 'classic'
export const levels: readonly Level[] = ['detached', 'attached', 'classic']

/** A dynamically linked program names its loader in the first page; a static one has none. */
function isStatic(path: string): boolean {
  return !/\/ld-(linux|musl)/.test(readFileSync(path).subarray(0, 4096).toString('latin1'))
}

function problem(need: Need): string | undefined {
  if (need === 'root') return process.getuid?.() === 0 ? undefined : 'it has to run as root'
  const path = findProgram(need)
  if (!path) return `Debian package ${packages[need]} is not installed (no ${need})`
  if (need === 'busybox' && !isStatic(path))
    return `${path} is not static: install Debian package busybox-static`
  return undefined
}

/** Why these needs are not met, or undefined. */
export function unmet(needs: readonly Need[]): string | undefined {
  return needs.map(problem).find((reason) => reason !== undefined)
}

/**
 * Declares a test that needs something of the machine, or a level of mounts, which the kernel of a CI runner may lack. Tests are serial: what they compare (mounts, processes,
 * fds) belongs to the whole process.
 */
export function testNeeding(needs: readonly Need[], level?: Level) {
  return (title: string, implementation: Implementation<[]>): void => {
    const reason = unmet(needs)
    const tooOld = level === undefined ? undefined : levelUnavailable(level)
    if (tooOld !== undefined) test.serial.skip(`${title} (skipped: ${tooOld})`, implementation)
    else if (reason === undefined) test.serial(title, implementation)
    else if (process.env.CI) test.serial(title, (t) => t.fail(`cannot run: ${reason}`))
    else test.serial.skip(`${title} (skipped: ${reason})`, implementation)
  }
}

/** The kernel that first has what a level needs. Only the tests go by version; the library probes. */
const firstKernel: Record<Level, [number, number]> = {
  detached: [6, 15],
  attached: [5, 12],
  classic: [5, 4],
}

/** Why this kernel cannot do a level, or undefined. An older kernel is no failure in CI: its runner chose it. */
export function levelUnavailable(level: Level): string | undefined {
  const [major = 0, minor = 0] = release().split('.').map(Number)
  const [needMajor, needMinor] = firstKernel[level]
  if (major > needMajor || (major === needMajor && minor >= needMinor)) return undefined
  return `level ${level} needs Linux ${needMajor}.${needMinor}, this is ${release()}`
}
