// The packages as users get them: packed, installed into an empty project, and run by more than one Node.js.
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkout } from './images.ts'
import { mustRun, type ProgramOptions } from './program.ts'

const platforms = ['linux-x64-gnu', 'linux-arm64-gnu', 'linux-x64-musl', 'linux-arm64-musl']

/** The package of this platform. */
export const platform = `linux-${process.arch}-gnu`

interface Manifest {
  version: string
  files: string[]
  [property: string]: unknown
}

export const manifest = (directory: string): Manifest =>
  JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))

const npm = (args: string[], cwd: string, options: ProgramOptions = {}): Promise<string> =>
  // Nothing of the npm that runs the tests; what the user has configured about registries and caches stays.
  mustRun('npm', [...args, '--no-audit', '--no-fund', '--no-update-notifier'], {
    cwd,
    timeout: 240_000,
    ...options,
  })

async function pack(directory: string, destination: string): Promise<string> {
  mkdirSync(destination, { recursive: true })
  await npm(['pack', '--ignore-scripts', '--pack-destination', destination], directory)
  return join(destination, readdirSync(destination).find((name) => name.endsWith('.tgz'))!)
}

export interface Tarballs {
  root: string
  platform: string
}

/** Both tarballs. The root's manifest gets what a release adds to it: the platforms' packages, as optional dependencies. */
export async function packBoth(directory: string): Promise<Tarballs> {
  const staged = join(directory, 'staged')
  mkdirSync(staged)
  const { files, version, ...rest } = manifest(checkout)
  for (const name of files) cpSync(join(checkout, name), join(staged, name), { recursive: true })
  const optionalDependencies = Object.fromEntries(platforms.map((name) => [`rootfs-${name}`, version]))
  writeFileSync(
    join(staged, 'package.json'),
    JSON.stringify({ ...rest, version, files, optionalDependencies }),
  )
  return {
    root: await pack(staged, join(directory, 'root')),
    platform: await pack(join(checkout, 'packages', platform), join(directory, 'platform')),
  }
}

/** An empty project with these tarballs installed, without the network. */
export async function install(directory: string, tarballs: string[]): Promise<string> {
  writeFileSync(join(directory, 'package.json'), '{ "private": true }\n')
  await npm(['install', '--offline', ...tarballs], directory)
  return directory
}

/** The same project once more, to be broken. */
export function copyProject(project: string, directory: string): string {
  cpSync(project, directory, { recursive: true })
  return directory
}

/** What a file is, in a word. */
export const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

const cache = join(checkout, 'target', 'node-versions')
const DAY = 24 * 3600 * 1000

/** The newest Node.js with an even number that npm has; looked up once a day, and kept. */
export async function newestNode(): Promise<string> {
  const name = `node-linux-${process.arch}`
  const directory = join(cache, name)
  const program = join(directory, 'node_modules', name, 'bin', 'node')
  const checked = join(directory, 'checked')
  if (
    existsSync(program) &&
    Date.now() - (statSync(checked, { throwIfNoEntry: false })?.mtimeMs ?? 0) < DAY
  ) {
    return program
  }
  mkdirSync(directory, { recursive: true })
  let versions: string[]
  try {
    versions = JSON.parse(await npm(['view', name, 'versions', '--json'], directory)) as string[]
  } catch (error) {
    // Without the network, yesterday's will do.
    if (existsSync(program)) return program
    throw error
  }
  const numbers = versions
    .filter((version) => /^\d+\.\d+\.\d+$/.test(version))
    .map((version) => version.split('.').map(Number) as [number, number, number])
    .filter(([major]) => major % 2 === 0)
    .sort((one, other) => one[0] - other[0] || one[1] - other[1] || one[2] - other[2])
  const newest = numbers.at(-1)!.join('.')
  writeFileSync(join(directory, 'package.json'), '{ "private": true }\n')
  await npm(['install', '--no-save', `${name}@${newest}`], directory)
  writeFileSync(checked, `${newest}\n`)
  return program
}
