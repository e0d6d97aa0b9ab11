// Sees to the Debian packages that the tests need: installs the missing ones as root, else names them.
import { announce, fail } from './command.ts'
import { provide, type Requirement } from './debian-packages.ts'

const requirements: readonly Requirement[] = [
  { package: 'runc', program: 'runc', purpose: 'comparison of mount tables and times' },
  { package: 'crun', program: 'crun', purpose: 'comparison of mount tables and times' },
  { package: 'bubblewrap', program: 'bwrap', purpose: 'comparison of times' },
  { package: 'busybox-static', program: 'busybox', purpose: 'the small test root', static: true },
  { package: 'debootstrap', program: 'debootstrap', purpose: 'the Debian test root' },
  { package: 'python3', program: 'python3', purpose: 'a racer that exchanges names' },
  { package: 'uidmap', program: 'newuidmap', purpose: 'user namespaces with ranges of ids' },
]

const missing = provide(requirements)
if (missing.length === 0) {
  announce(`system packages: ${requirements.map((requirement) => requirement.package).join(' ')} are there`)
} else {
  const command = `apt-get install ${missing.map((requirement) => requirement.package).join(' ')}`
  if (process.env.CI) fail(`CI needs all of them; as root: ${command}`)
  announce(`tests that need them are skipped; to run those too, as root: ${command}`)
}
