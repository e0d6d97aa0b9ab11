// Finds and loads the addon of this platform, and says what to do when there is none.
import { existsSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type {
  ExecutedStep,
  MountInfo,
  PathLike,
  Rootfs as PublicRootfs,
  RootfsErrorCode,
  Step,
  Warning,
} from '../index.js'

/** An error as the addon tells it. */
export interface ErrorData {
  code: RootfsErrorCode | `ERR_INVALID_ARG_${'TYPE' | 'VALUE'}` | 'ERR_OUT_OF_RANGE'
  message: string
  step?: Step
  syscall?: string
  errno?: number
  errnoName?: string
  source?: string
  destination?: string
  resolved?: string
  flags?: string[]
  kernelLog?: string[]
  hint?: string
}

/** News of a container (`child` 0) or of a command in one. */
export interface News {
  container: number
  child: number
  kind: 'step' | 'ready' | 'spawn' | 'error' | 'exit' | 'closed' | 'mounts' | 'finished'
  pid?: number
  exitCode?: number
  signal?: number
  error?: ErrorData
  steps?: ExecutedStep[]
  skipped?: Step[]
  warnings?: Warning[]
  mounts?: MountInfo[]
  stdout?: Buffer
  stderr?: Buffer
  overflow?: 'stdout' | 'stderr'
}

/** A container or command that has been asked for: its number, and our ends of its pipes. 0 for one that was aborted before. */
export interface Launched {
  id: number
  streams: (number | null)[]
}

/** How the output of a command is collected by the addon, in one piece. */
export interface Collect {
  input?: string | Uint8Array
  maxBuffer: number
}

/** The builder methods that the addon has itself. */
type Builder = Omit<PublicRootfs, 'plan' | 'prepare' | 'run' | 'spawn'>

export interface NativeRootfs extends Builder {
  makePlan(): { steps: Step[]; warnings: Warning[]; text: string }
}

export interface Native {
  Rootfs: {
    new (directory: PathLike): NativeRootfs
    empty(options?: object): NativeRootfs
    overlay(options: object): NativeRootfs
  }
  initialize(makeError: (data: ErrorData) => Error, tell: (news: News) => void, supervisor: string): void
  /** With `aborted` the arguments are checked, and nothing is begun. */
  prepare(rootfs: NativeRootfs, options: object | undefined, aborted: boolean): Launched
  launch(
    rootfs: NativeRootfs,
    command: unknown,
    args: unknown,
    process: object | undefined,
    options: object | undefined,
    collect: Collect | undefined,
    aborted: boolean,
  ): Launched
  spawn(
    container: number,
    command: unknown,
    args: unknown,
    process: object | undefined,
    collect: Collect | undefined,
    aborted: boolean,
  ): Launched
  mounts(container: number): number
  kill(container: number, child: number, signal: number): boolean
  close(container: number): void
}

const require = createRequire(import.meta.url)

/** Whether this Node.js was built with glibc; else it is musl, the other C library there are packages for. */
function libc(): 'gnu' | 'musl' {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return report.header?.glibcVersionRuntime === undefined ? 'musl' : 'gnu'
}

function loadError(what: string, tried: readonly string[], hints: readonly string[], cause?: unknown): Error {
  const lines = [what, ...tried.map((place) => `  tried ${place}`), ...hints.map((hint) => `  - ${hint}`)]
  const error = new Error(lines.join('\n'), cause === undefined ? undefined : { cause })
  return Object.assign(error, { code: 'ERR_ROOTFS_UNSUPPORTED' })
}

/** The folder with the addon and the supervisor. */
function findPackage(platform: string): string {
  const name = `rootfs-${platform}`
  const tried: string[] = []
  // In a checkout the package is beside us and has just been built.
  const beside = join(dirname(dirname(fileURLToPath(import.meta.url))), 'packages', platform)
  if (existsSync(join(beside, `rootfs.${platform}.node`))) {
    return beside
  }
  tried.push(beside)
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch (cause) {
    tried.push(`the package ${name}`)
    const other = platform.endsWith('gnu')
      ? platform.replace(/gnu$/, 'musl')
      : platform.replace(/musl$/, 'gnu')
    const hints = [
      `run npm install again: optional dependencies such as ${name} must not be left out (--omit=optional)`,
      'a lock file or node_modules made on another platform has to be made again on this one',
    ]
    try {
      require.resolve(`rootfs-${other}/package.json`)
      hints.unshift(
        `the package for the other C library, rootfs-${other}, is installed: it was installed by another Node.js`,
      )
    } catch {
      // That one is not there either.
    }
    throw loadError(`rootfs: there is no addon for ${platform}`, tried, hints, cause)
  }
}

function load(): { native: Native; supervisor: string } {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    throw loadError(
      `rootfs works on Linux on x64 and arm64, and not on ${process.platform} ${process.arch}`,
      [],
      [],
    )
  }
  const platform = `linux-${process.arch}-${libc()}`
  const directory = findPackage(platform)
  const supervisor = join(directory, 'rootfs-supervisor')
  if (!statSync(supervisor, { throwIfNoEntry: false })?.isFile()) {
    throw loadError(
      'rootfs: the supervisor is missing beside the addon',
      [supervisor],
      ['install the package again: its file rootfs-supervisor must not be left out'],
    )
  }
  const addon = join(directory, `rootfs.${platform}.node`)
  try {
    return { native: require(addon) as Native, supervisor }
  } catch (cause) {
    throw loadError(`rootfs: the addon can't be loaded: ${(cause as Error).message}`, [addon], [], cause)
  }
}

export const { native, supervisor } = load()
