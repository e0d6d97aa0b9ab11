// Sees to the Debian packages that the tests need: installs the missing ones as root, else names them.
import { accessSync, constants, realpathSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { announce, fail, tryRun } from './command.ts'
import { isStaticExecutable } from './elf.ts'

interface Requirement {
  package: string
  program: string
  purpose: string
  /** Copied alone into an empty root, so it must need no loader and no library. */
  static?: boolean
}

const requirements: readonly Requirement[] = [
  { package: 'runc', program: 'runc', purpose: 'comparison of mount tables and times' },
  { package: 'crun', program: 'crun', purpose: 'comparison of mount tables and times' },
  { package: 'bubblewrap', program: 'bwrap', purpose: 'comparison of times' },
  { package: 'busybox-static', program: 'busybox', purpose: 'the small test root', static: true },
  { package: 'debootstrap', program: 'debootstrap', purpose: 'the Debian test root' },
  { package: 'python3', program: 'python3', purpose: 'a racer that exchanges names' },
  { package: 'uidmap', program: 'newuidmap', purpose: 'user namespaces with ranges of ids' },
]

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

let missing = requirements.filter(isMissing)
if (missing.length > 0 && process.getuid?.() === 0 && find('apt-get') !== undefined) {
  install(missing.map((requirement) => requirement.package))
  missing = requirements.filter(isMissing)
}
if (missing.length === 0) {
  announce(`system packages: ${requirements.map((requirement) => requirement.package).join(' ')} are there`)
} else {
  for (const { package: name, program, purpose } of missing) {
    announce(`system packages: ${program} is missing (package ${name}; ${purpose})`)
  }
  const command = `apt-get install ${missing.map((requirement) => requirement.package).join(' ')}`
  if (process.env.CI) fail(`CI needs all of them; as root: ${command}`)
  announce(`tests that need them are skipped; to run those too, as root: ${command}`)
}
