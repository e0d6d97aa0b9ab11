// Finds programs of Debian packages, and installs what is missing where it may.
import { accessSync, constants, realpathSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { announce, tryRun } from './command.ts'
import { isStaticExecutable } from './elf.ts'

export interface Requirement {
  package: string
  program: string
  purpose: string
  /** Copied alone into an empty root, so it must need no loader and no library. */
  static?: boolean
}

// An ordinary user's PATH often lacks the last ones.
const searchPath = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']

function find(program: string): string | undefined {
  for (const directory of searchPath) {
    const path = join(directory, program)
    try {
      accessSync(path, constants.X_OK)
      return realpathSync(path)
    } catch {
      // Not in this one.
    }
  }
  return undefined
}

function isMissing(requirement: Requirement): boolean {
  const path = find(requirement.program)
  return path === undefined || (requirement.static === true && !isStaticExecutable(path))
}

function install(packages: string[]): void {
  announce(`installing ${packages.join(' ')} with apt-get`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  const args = ['install', '--yes', '--no-install-recommends', ...packages]
  if (tryRun('apt-get', args, { env }) === 0) return
  announce('apt-get could not install them; updating its lists and trying again')
  tryRun('apt-get', ['update'], { env })
  tryRun('apt-get', args, { env })
}

/** Installs the missing ones as root, else says which they are. Returns those that are missing still. */
export function provide(requirements: readonly Requirement[]): Requirement[] {
  let missing = requirements.filter(isMissing)
  if (missing.length > 0 && process.getuid?.() === 0 && find('apt-get') !== undefined) {
    install(missing.map((requirement) => requirement.package))
    missing = requirements.filter(isMissing)
  }
  for (const { package: name, program, purpose } of missing) {
    announce(`system packages: ${program} is missing (package ${name}; ${purpose})`)
  }
  return missing
}
