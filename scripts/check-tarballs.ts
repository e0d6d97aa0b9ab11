// Packs the root package and this platform's, and checks what users would get: content, modes, and that it loads.
//
//   --all   packs and checks the packages of every platform (before a release)
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { announce, capture, fail, root, run } from './command.ts'
import { isStaticExecutable } from './elf.ts'
import { hostPlatform, packageDirectory, platforms } from './platform.ts'

interface Packed {
  /** Of the tarball. */
  file: string
  /** Of its unpacked content. */
  directory: string
}

const problems: string[] = []
const scratch = mkdtempSync(join(tmpdir(), 'rootfs-tarballs-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const host = hostPlatform()
const version = manifest(root).version

const rootPackage = pack('root', root)
const modules = readdirSync(join(root, 'dist'), { recursive: true, encoding: 'utf8' })
checkFiles('rootfs', rootPackage, [
  'CHANGELOG.md',
  'LICENSE',
  'README.md',
  'THIRD-PARTY-NOTICES.md',
  'dist/index.js',
  'index.d.ts',
  'package.json',
  ...modules.filter((name) => name.endsWith('.js') && name !== 'index.js').map((name) => `dist/${name}`),
])

let hostPackage: Packed | undefined
for (const platform of process.argv.includes('--all') ? platforms : [host]) {
  const packed = pack(platform.name, packageDirectory(platform))
  const name = `rootfs-${platform.name}`
  const addon = `rootfs.${platform.name}.node`
  checkFiles(name, packed, [
    'LICENSE',
    'README.md',
    'THIRD-PARTY-NOTICES.md',
    'package.json',
    addon,
    'rootfs-supervisor',
  ])
  checkManifest(name, packed)
  checkSupervisor(name, packed)
  if (platform === host) hostPackage = packed
}
if (problems.length > 0) fail(`the tarballs are not as they should be:\n  ${problems.join('\n  ')}`)
if (hostPackage !== undefined) checkLoads(hostPackage)
announce('tarballs: content and modes are right, and the installed package loads')

/** What `npm pack` makes of a folder, and that unpacked. */
function pack(name: string, directory: string): Packed {
  announce(`packing ${name}`)
  const destination = join(scratch, name)
  run('mkdir', ['-p', join(destination, 'content')])
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', destination]
  capture('npm', args, { cwd: directory })
  const tarball = readdirSync(destination).find((entry) => entry.endsWith('.tgz'))
  if (tarball === undefined) fail(`npm pack made no tarball of ${directory}`)
  const file = join(destination, tarball)
  // With the modes that are in the tarball, whoever unpacks it.
  run('tar', ['-xpzf', file, '-C', join(destination, 'content')])
  return { file, directory: join(destination, 'content', 'package') }
}

/** npm leaves out what `files` names and isn't there, without a word. */
function checkFiles(name: string, packed: Packed, expected: string[]): void {
  const files = readdirSync(packed.directory, { recursive: true, encoding: 'utf8', withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(packed.directory.length + 1))
  for (const file of expected) {
    if (!files.includes(file)) problems.push(`${name}: ${file} is missing`)
    else if (statSync(join(packed.directory, file)).size === 0) problems.push(`${name}: ${file} is empty`)
  }
  for (const file of files) {
    if (!expected.includes(file)) problems.push(`${name}: ${file} does not belong there`)
  }
}

function checkManifest(name: string, packed: Packed): void {
  const found = manifest(packed.directory)
  if (found.name !== name) problems.push(`${name}: its package.json has the name ${found.name}`)
  if (found.version !== version) problems.push(`${name}: version ${found.version}, but rootfs is ${version}`)
}

function checkSupervisor(name: string, packed: Packed): void {
  const path = join(packed.directory, 'rootfs-supervisor')
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return
  const mode = stat.mode & 0o7777
  if (mode !== 0o755) problems.push(`${name}: rootfs-supervisor has mode ${mode.toString(8)}, not 755`)
  if (!isStaticExecutable(path)) problems.push(`${name}: rootfs-supervisor is not a static executable`)
}

/** Installs the tarballs into an empty project and imports the package there. */
function checkLoads(platformPackage: Packed): void {
  announce('installing the tarballs into an empty project')
  const project = join(scratch, 'project')
  run('mkdir', ['-p', project])
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }\n')
  const install = ['install', '--offline', '--no-audit', '--no-fund', rootPackage.file, platformPackage.file]
  run('npm', install, { cwd: project })
  const program = "import { Rootfs } from 'rootfs'; Rootfs.empty().plan()"
  run(process.execPath, ['--input-type=module', '--eval', program], { cwd: project })
}

function manifest(directory: string): { name: string; version: string } {
  return JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
}
