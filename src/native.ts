// Finds and loads the addon of this platform, and says what to do when there is none.
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type {
  ExecutedStep,
  HookPoint,
  MountInfo,
  OciHook,
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
  pointer?: string
  hint?: string
  /** What a function of the caller has thrown. */
  cause?: unknown
}

/** News of a container (`child` 0) or of a command in one. */
export interface News {
  container: number
  child: number
  kind: 'step' | 'ready' | 'spawn' | 'error' | 'exit' | 'closed' | 'mounts' | 'function' | 'finished'
  function?: number
  root?: string
  failures?: ErrorData[]
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
type Builder = Omit<PublicRootfs, 'plan' | 'prepare' | 'template' | 'run' | 'spawn' | 'hook' | 'toSpec'>

export interface NativeRootfs extends Builder {
  hook(when: HookPoint, hook: OciHook): this
  /** Its place among the hooks of that point. */
  functionHook(when: unknown, number: number, name: string): number
  /** The same description, which doesn't change when this one does. */
  snapshot(): object
  facts(): { root: string; content: number }
  hookFacts(): { root?: string; annotations: [string, string][] }
  makePlan(): { steps: Step[]; warnings: Warning[]; text: string }
  /** JSON. */
  makeSpec(): string
  /** Of the config's process, if there is one. */
  configuredArgs(): string[] | null
  /** NAME=value each, of the config's process, if there is one. */
  configuredEnv(): string[] | null
}

export interface Native {
  /** The release that the addon is of. */
  version(): string
  Rootfs: {
    new (directory: PathLike): NativeRootfs
    empty(options?: object): NativeRootfs
    /** `config` is the content of config.json. Makes a builder, though the class that extends this one says otherwise. */
    fromBundle(directory: PathLike, options: object | undefined, config: Uint8Array): object
    /** `config` is JSON. */
    fromSpec(config: unknown, options?: object): NativeRootfs
    overlay(options: object): NativeRootfs
  }
  initialize(makeError: (data: ErrorData) => Error, tell: (news: News) => void, supervisor: string): void
  /** With `aborted` the arguments are checked, and nothing is begun. */
  prepare(
    rootfs: NativeRootfs,
    options: object | undefined,
    aborted: boolean,
    /** The number of its keeper. */
    template: number | undefined,
  ): Launched
  /** Begins the keeper of a template. */
  keep(rootfs: NativeRootfs, options: object | undefined, aborted: boolean): Launched
  launch(
    rootfs: NativeRootfs,
    command: unknown,
    args: unknown,
    process: object | undefined,
    options: object | undefined,
    collect: Collect | undefined,
    aborted: boolean,
    template: number | undefined,
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
  /** Ends a command with what it has begun; nothing else that holds its streams is waited for. False if nobody was reached. */
  end(container: number, child: number, signal: number): boolean
  /** With a message, it failed. */
  answerFunction(container: number, failure?: string): void
  close(container: number): void
  /** Each feature; one without a reason is there. */
  probe(): Promise<{ name: string; reason?: string; hint?: string }[]>
  /** Has the descriptor `target` become the file. */
  openInRoot(
    root: unknown,
    path: unknown,
    flags: unknown,
    mode: unknown,
    target: number,
  ): Promise<ErrorData | null | undefined>
}

const require = createRequire(import.meta.url)
const PLATFORMS = ['linux-x64-gnu', 'linux-arm64-gnu', 'linux-x64-musl', 'linux-arm64-musl'] as const

/** Whether this Node.js was built with glibc; else it is musl, the other C library there are packages for. */
function libc(): 'gnu' | 'musl' {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return report.header?.glibcVersionRuntime === undefined ? 'musl' : 'gnu'
}

/** What is wrong with the installation: what was tried, and what to do. `tried` is a property too. */
function loadError(
  code: 'ERR_ROOTFS_UNSUPPORTED' | 'ERR_ROOTFS_SUPERVISOR',
  what: string,
  tried: readonly string[],
  hints: readonly string[],
  cause?: unknown,
): Error {
  const lines = [
    `rootfs: ${what}`,
    ...tried.map((place) => `  tried ${place}`),
    ...hints.map((hint) => `  - ${hint}`),
  ]
  const error = new Error(lines.join('\n'), cause === undefined ? undefined : { cause })
  return Object.assign(error, { code, tried })
}

function manifestOf(name: string): string | undefined {
  try {
    return require.resolve(`${name}/package.json`)
  } catch {
    return undefined
  }
}

const INSTALL_AGAIN = [
  'install again on this machine: node_modules and lock files made on another platform lack its packages',
  'optional dependencies must not be left out (npm install --omit=optional, --no-optional)',
]

/** The folder with the addon and the supervisor. */
function findPackage(platform: string): string {
  const name = `rootfs-${platform}`
  // In a checkout the package is beside us and has just been built.
  const beside = join(dirname(dirname(fileURLToPath(import.meta.url))), 'packages', platform)
  if (existsSync(join(beside, `rootfs.${platform}.node`))) {
    return beside
  }
  const manifest = manifestOf(name)
  if (manifest !== undefined) {
    return dirname(manifest)
  }
  const others = PLATFORMS.filter(
    (other) => other !== platform && manifestOf(`rootfs-${other}`) !== undefined,
  )
  const found = others.map((other) => {
    const [, cpu] = other.split('-')
    return cpu === process.arch
      ? `rootfs-${other} is installed, which is for the other C library: the installation was made by another Node.js, or in another image`
      : `rootfs-${other} is installed, which is for another processor: the installation was made on another machine`
  })
  throw loadError(
    'ERR_ROOTFS_UNSUPPORTED',
    `the package ${name} is not installed`,
    [beside, `the package ${name}, from ${fileURLToPath(import.meta.url)}`],
    [...found, ...INSTALL_AGAIN],
  )
}

/** The supervisor is read, and copied to memory: that its file is executable only matters to those who name its path. */
function findSupervisor(directory: string): string {
  const supervisor = join(directory, 'rootfs-supervisor')
  const fail = (what: string, hint: string, cause?: unknown): Error =>
    loadError('ERR_ROOTFS_SUPERVISOR', `the supervisor ${what}`, [supervisor], [hint], cause)
  if (!statSync(supervisor, { throwIfNoEntry: false })?.isFile()) {
    throw fail(
      'is missing beside the addon',
      'install the package again: its file rootfs-supervisor was left out, or removed',
    )
  }
  try {
    accessSync(supervisor, constants.R_OK)
  } catch (cause) {
    throw fail("can't be read", 'the file must be readable for this user: chmod 755', cause)
  }
  return supervisor
}

function load(): { native: Native; supervisor: string } {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    throw loadError(
      'ERR_ROOTFS_UNSUPPORTED',
      `it works on Linux on x64 and arm64, and not on ${process.platform} ${process.arch}`,
      [],
      ['on other systems, run the program in a virtual machine, or in a container, with Linux'],
    )
  }
  const platform = `linux-${process.arch}-${libc()}`
  const directory = findPackage(platform)
  const supervisor = findSupervisor(directory)
  const addon = join(directory, `rootfs.${platform}.node`)
  let native: Native
  try {
    native = require(addon) as Native
  } catch (cause) {
    throw loadError(
      'ERR_ROOTFS_UNSUPPORTED',
      `the addon can't be loaded: ${(cause as Error).message}`,
      [addon],
      [
        'where a version such as GLIBC_2.34 is not found, this system is too old',
        'otherwise the file is damaged, or of another platform: install the package again',
      ],
      cause,
    )
  }
  const { version } = require('../package.json') as { version: string }
  const found = typeof native.version === 'function' ? native.version() : 'another version'
  if (found !== version) {
    throw loadError(
      'ERR_ROOTFS_SUPERVISOR',
      `the package rootfs is version ${version}, and the addon ${found}`,
      [addon],
      [`install rootfs-${platform} of version ${version}: both packages are released together`],
    )
  }
  return { native, supervisor }
}

export const { native, supervisor } = load()
