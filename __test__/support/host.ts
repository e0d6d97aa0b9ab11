// The host around the tests: its mount table, the trees the library works on, and a scratch directory.
import { createHash } from 'node:crypto'
import { chmodSync, lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext, TestFn } from 'ava'
import { isWithin, parseMountinfo } from './mountinfo.ts'
import { eventually } from './processes.ts'

/** The host's mount table, byte for byte. */
export function hostMounts(): string {
  return readFileSync('/proc/self/mountinfo', 'utf8')
}

/**
 * Removes a directory of ours. A mount left below it would make this delete what is mounted there, so then nothing
 * is removed.
 */
export function removeTree(directory: string): void {
  const left = parseMountinfo(hostMounts()).filter((mount) => isWithin(directory, mount.destination))
  if (left.length > 0) {
    throw new Error(
      `not removing ${directory}: mounted below it: ${left.map((m) => m.destination).join(', ')}`,
    )
  }
  rmSync(directory, { recursive: true, force: true })
}

export interface Host {
  /** A new directory that everyone may enter; gone after the spec. */
  scratch(name: string): string
}

/**
 * For each spec: the host's mount table is the same after all its tests as before, whatever they did, and the
 * scratch directories are removed.
 */
export function guardHost(test: TestFn): Host {
  let directory: string | undefined
  const before = hostMounts()
  test.after.always('the host has the mounts it had before', (t) => {
    t.is(hostMounts(), before)
  })
  test.after.always('the scratch directory is removed', (t) => {
    if (directory !== undefined) removeTree(directory)
    t.pass()
  })
  return {
    scratch(name) {
      if (directory === undefined) {
        directory = mkdtempSync(join(tmpdir(), 'rootfs-test-'))
        chmodSync(directory, 0o755)
      }
      const made = mkdtempSync(join(directory, `${name}-`))
      chmodSync(made, 0o755)
      return made
    },
  }
}

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/**
 * Every name below a directory with its type, mode, owner, device number, link target and content: one line each, so
 * that a difference can be read. The time stamps of directories in which mountpoints came and went are not part.
 */
export function snapshotTree(directory: string, options: { content?: boolean } = {}): string[] {
  const lines: string[] = []
  const visit = (path: string, name: string): void => {
    const stat = lstatSync(path, { throwIfNoEntry: false })
    // Removed since its directory was read, as a mountpoint is at any moment.
    if (stat === undefined) return
    const facts = [
      name,
      (stat.mode & 0o170000).toString(8),
      (stat.mode & 0o7777).toString(8),
      `${stat.uid}:${stat.gid}`,
    ]
    if (stat.isSymbolicLink()) facts.push(readlinkSync(path))
    else if (stat.isCharacterDevice() || stat.isBlockDevice()) facts.push(`rdev ${stat.rdev}`)
    else if (stat.isFile()) {
      facts.push(`${stat.size} bytes`)
      if (options.content !== false) facts.push(createHash('sha256').update(readFileSync(path)).digest('hex'))
    }
    lines.push(facts.join(' '))
    if (stat.isDirectory()) {
      for (const entry of entriesOf(path)) visit(join(path, entry), `${name === '/' ? '' : name}/${entry}`)
    }
  }
  visit(directory, '/')
  return lines
}

/** Asserts that a tree becomes again what it was, within this time. */
export async function becomesAgain(
  t: ExecutionContext,
  directory: string,
  tree: string[],
  milliseconds?: number,
): Promise<void> {
  const now = await eventually(
    () => snapshotTree(directory),
    (names) => names.length === tree.length,
    milliseconds,
  )
  t.deepEqual(now, tree)
}
