// Made by `npm run build:addon` from the comments of crates/rootfs-napi and from src/api-header.d.ts. Do not edit.

import type { EventEmitter } from 'node:events'
import type { FileHandle } from 'node:fs/promises'
import type { Duplex, Readable, Writable } from 'node:stream'

/** A file name. Bytes (Uint8Array) are for names that are not UTF-8. A NUL byte is refused. */
export type PathLike = string | Uint8Array
/** Bytes as a number, or a string with a k, m or g suffix (powers of 1024). */
export type Size = number | string
/** How mount events pass between a mount and its peers; mount_namespaces(7). The words with r include all mounts below. */
export type Propagation =
  | 'private'
  | 'rprivate'
  | 'shared'
  | 'rshared'
  | 'slave'
  | 'rslave'
  | 'unbindable'
  | 'runbindable'

/** When a hook runs; OCI runtime-spec config.md, POSIX-platform Hooks. */
export type HookPoint =
  | 'prestart'
  | 'createRuntime'
  | 'createContainer'
  | 'startContainer'
  | 'poststart'
  | 'poststop'

/** A hook that is a function: it is awaited. What it throws, or rejects with, is the `cause` of the error. */
export type HookFunction = (state: HookState) => void | Promise<void>

/** What a hook function is told. */
export interface HookState {
  /** The host's pid of the container's first process; at `poststop` it has ended. */
  pid: number
  /**
   * Where the container's root is. At `prestart` and `createRuntime` in `mountNamespace`, where the mounts are there below it and the
   * host's tree is too; later the directory on the host. For a root that the host doesn't have (an overlay, or an empty one)
   * it is below `/proc/PID/root` at these, `/proc/PID/root` at `poststart`, and missing at `poststop`.
   */
  root?: string
  /** `/proc/PID/ns/mnt`, for tools that enter it, such as nsenter(1). At `poststop` it is gone. */
  mountNamespace: string
  /** Those of the OCI config. */
  annotations: Record<string, string>
}

/** How a root filesystem is prepared. */
export interface PrepareOptions {
  /** Ends the preparation, and what came of it, with an `AbortError`. */
  signal?: AbortSignal
  /**
   * The directory of a cgroup of version 2, in which the container is from its first instruction on; its cgroup namespace
   * begins there. It must take processes, and the caller be allowed to put some there: cgroups(7), Delegation. Without a
   * new pid namespace, all that is in the cgroup and below it is killed with the container (Linux 5.14), unless this
   * process is in it. It isn't removed.
   */
  cgroup?: PathLike
  /** Compare the kernel's mount table with the plan afterwards and fail if a flag or a mount differs. @default true */
  verify?: boolean
  /** Called when a step is done. What it throws is an uncaught exception and changes nothing about the preparation. */
  onStep?: (step: ExecutedStep) => void
}

/** Who a process is, as the container sees it. */
export interface User {
  /** From 0 to 4294967294. */
  uid: number
  /** From 0 to 4294967294. */
  gid: number
  /** Not possible where the user namespace maps one id: setgroups is denied there. @default [] */
  additionalGids?: readonly number[]
  /** File mode creation mask. @default 0o022, or that of the OCI config's process */
  umask?: number
}

/** Names such as `'CAP_KILL'` or `'KILL'`; capabilities(7). A set that is not named is empty. */
export interface CapabilitySets {
  /** What can ever be had. */
  bounding?: readonly string[]
  /** What is in force; a subset of `permitted`. */
  effective?: readonly string[]
  /** What may be put in force. */
  permitted?: readonly string[]
  /** What is kept when a file with inheritable capabilities is executed. */
  inheritable?: readonly string[]
  /** What is kept when any file is executed; a subset of `permitted` and `inheritable`. */
  ambient?: readonly string[]
}

/** A resource limit; getrlimit(2). `Infinity` is no limit. */
export interface Rlimit {
  /** Such as `'RLIMIT_NOFILE'`. */
  type: string
  /** What is in force. */
  soft: number
  /** How far the process may raise it. */
  hard: number
}

/**
 * How a command is started. Where the root filesystem is made from an OCI config that has a process, what isn't given is
 * that process's: `user`, `capabilities`, `noNewPrivileges`, `rlimits`, `cwd`, `env`, and `oomScoreAdj`, which is no option.
 */
export interface SpawnOptions {
  /** Absolute, in the container. Made if it is missing. @default '/' */
  cwd?: string
  /** Nothing is inherited. @default { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' } */
  env?: Record<string, string | undefined>
  /**
   * Where standard input, output and error go, and what further descriptors there are: the fourth element is 3 in the
   * command, and so on, where a pipe goes both ways. Numbers are file descriptors, duplicated before the call returns; a
   * directory or an `O_PATH` one is refused. With 'inherit' the process is still in a session of its own: no job
   * control. Nothing else is open in the command. At most 200. @default 'pipe', and 'ignore' from the fourth on
   */
  stdio?:
    | 'pipe'
    | 'inherit'
    | 'ignore'
    | readonly ('pipe' | 'inherit' | 'ignore' | number | null | undefined)[]
  /** @default { uid: 0, gid: 0 } */
  user?: User
  /**
   * One list for the bounding, effective and permitted set, or each by its name.
   * @default the OCI default set (AUDIT_WRITE, KILL, NET_BIND_SERVICE) for uid 0, none otherwise
   */
  capabilities?: readonly string[] | CapabilitySets
  /** Executing a file gives nothing that the process doesn't have; PR_SET_NO_NEW_PRIVS. @default true */
  noNewPrivileges?: boolean
  /** Others are inherited from this process. */
  rlimits?: readonly Rlimit[]
  /** A compiled classic-BPF filter; seccomp(2). */
  seccomp?: Uint8Array
  /** Kills the command. */
  signal?: AbortSignal
  /** Milliseconds after which the command is killed. @default none */
  timeout?: number
  /**
   * For timeout and abort. The first process of a pid namespace ignores SIGTERM unless it handles it.
   * @default 'SIGKILL'
   */
  killSignal?: NodeJS.Signals
}

/** How a command is run to its end. */
export interface RunOptions extends SpawnOptions {
  /** Written to the command's standard input, which is then closed. @default nothing: it is empty */
  input?: string | Uint8Array
  /** @default 'utf8' */
  encoding?: BufferEncoding | 'buffer'
  /**
   * How many bytes of standard output or error are taken. More kills the command and rejects with
   * `ERR_CHILD_PROCESS_STDIO_MAXBUFFER`. @default 1 MiB
   */
  maxBuffer?: number
}

/** How a command ended. A non-zero exit is a result and no error. */
export interface RunResult<T = string> {
  /** `null` when a signal ended it. */
  exitCode: number | null
  /** `null` when it ended by itself. */
  signal: NodeJS.Signals | null
  /** Whether it was killed because of `timeout`. */
  timedOut: boolean
  stdout: T
  stderr: T
  /** Microseconds from the call until everything was taken down. */
  durationUs: number
  /** Steps that were skipped, such as an optional bind whose source is missing. */
  skipped: readonly Step[]
  /** What one should know, such as a mountpoint that had to be left. */
  warnings: readonly Warning[]
}

/** The events of a `ContainerProcess`, with what their listeners are given. */
export interface ContainerProcessEvents {
  /** It runs, and has a `pid`. */
  spawn: []
  /** It could not be started, or was aborted. */
  error: [error: Error]
  /** It has ended. Its streams may still have something to read. */
  exit: [code: number | null, signal: NodeJS.Signals | null]
  /** It has ended, and so have its streams. */
  close: [code: number | null, signal: NodeJS.Signals | null]
}

/**
 * A command in a container, in the shape and with the events of node:child_process. It is returned at once: `pid` is
 * undefined until 'spawn', a `kill()` before that is queued (but `SIGKILL` ends what is being prepared), what fails before the command is executed is one 'error'
 * event with a `RootfsError`, and 'close' comes when its streams have ended and, for the first process of a container,
 * everything is taken down. Disposing it kills it and waits for 'close'.
 */
export interface ContainerProcess extends EventEmitter<ContainerProcessEvents>, AsyncDisposable {
  /** The host's pid. */
  readonly pid: number | undefined
  readonly stdin: Writable | null
  readonly stdout: Readable | null
  readonly stderr: Readable | null
  /** All of them, also those beyond the standard three. */
  readonly stdio: readonly [Writable | null, Readable | null, Readable | null, ...(Duplex | null)[]]
  /** The command as it was given. */
  readonly spawnfile: string
  /** The command and its arguments. */
  readonly spawnargs: readonly string[]
  readonly exitCode: number | null
  readonly signalCode: NodeJS.Signals | null
  /** Whether `kill()` has sent a signal. */
  readonly killed: boolean
  /** Sends a signal. `false` if the process has ended. @default 'SIGTERM', which a first process may ignore */
  kill(signal?: NodeJS.Signals | number): boolean
  /** Has Node stay alive until it ends, which is so at first. */
  ref(): void
  /** Has Node not stay alive because of it. When Node goes, it goes too. */
  unref(): void
}

/** How a template is made: `PrepareOptions`, but for the cgroup, which each container has of its own. */
export type TemplateOptions = Omit<PrepareOptions, 'cgroup'>

/**
 * What containers have in common, made once. The files that binds and the root directory are made from are opened when it is
 * made, and stay those, whatever their paths name later; directories of overlays are opened for each container.
 *
 * With `CAP_SYS_ADMIN` and Linux 6.15, and a directory as root, binds that are neither `shared` nor `unbindable` are mounted once
 * too, where nothing else of the plan is on, below or above them. Each container begins with a copy of that tree; what is in it
 * already is a step with `strategy: 'template'`. Everything else is made for each, so that two of them see nothing of each
 * other that they wouldn't see without a template. Mounts below those sources, and below the root directory, are those
 * of the time when the template was made, and stay in use.
 *
 * Containers that can write the root directory can rename or remove the directories that such mounts are on, for all that come
 * later: those fail then (`ERR_ROOTFS_VERIFY`, also with `verify: false`), until another template is made. `readonly()` prevents it, or a
 * root directory that belongs to nobody inside.
 *
 * An `unbindable` root, hooks before the start, `readonly({ recursive: true })`, a bind of `{ inRoot }`, a mount on `/`, and a mount or
 * user namespace that is joined need a tree of each container's own; so does a place that a link which leads nowhere, or a `..`, makes
 * unclear (warning `template-not-shared`). Then, and without privileges, only the open files are shared. Without
 * privileges they are found again by their paths, and must be the same (`ERR_ROOTFS_SOURCE`, `ERR_ROOTFS_ROOT`).
 *
 * A process of the supervisor's, the keeper, holds it. It ends with `close`, or with this process. Containers that live
 * go on; new ones are `ERR_ROOTFS_CLOSED`, also when the keeper was killed.
 */
export interface RootfsTemplate extends AsyncDisposable, Pick<Rootfs, 'prepare' | 'run' | 'spawn'> {
  /** What one should know. After `close`, mountpoints that had to be left too. */
  readonly warnings: readonly Warning[]
  /** Ends the keeper, and removes the mountpoints that it has made, unless a container that lives has some in the same tree. */
  close(): Promise<void>
}

/** A prepared root filesystem in its own namespaces. It ends with `close`, or with this process, however that ends. */
export interface PreparedRootfs extends AsyncDisposable {
  /** Host pid of the container's first process. */
  readonly pid: number
  /** What was done. */
  readonly steps: readonly ExecutedStep[]
  /** What was not, such as an optional bind whose source is missing. */
  readonly skipped: readonly Step[]
  /** What one should know. After `close`, mountpoints that had to be left too. */
  readonly warnings: readonly Warning[]
  /** The container's mount table. */
  mounts(): Promise<MountInfo[]>
  /** Starts a command. In a root that is closed already, that is an 'error' event, `ERR_ROOTFS_CLOSED`. */
  spawn(command: string, args?: readonly string[], options?: SpawnOptions): ContainerProcess
  /** Runs a command to its end. */
  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions): Promise<RunResult>
  /** Kills all that runs in it and takes everything down. Calling it again waits for the same. */
  close(): Promise<void>
}

/** An OCI runtime-spec configuration, as `config.json` has it; runtime-spec config.md. */
export type OciSpec = Record<string, unknown>

/** What takes a root filesystem's description further. */
export interface Rootfs {
  /**
   * The OCI config that says the same: reading it gives the same root filesystem. What OCI has no words for is
   * `ERR_ROOTFS_UNSUPPORTED` and named. Where the user namespace depends on the caller, it is that of this process.
   * `process` is that of the config it came from; what was ignored is not there.
   */
  toSpec(): OciSpec
  /**
   * A function that is awaited in this process: at `prestart` and `createRuntime` its failure fails the preparation and undoes
   * everything, at `poststart` it kills the container; both are `ERR_ROOTFS_HOOK`. At `poststop` its failure is a process
   * warning. At `poststart` and `poststop` functions come after programs.
   *
   * A promise of a function is waited for without a limit of time: as long as that of a `poststop` function is pending,
   * neither `run` nor `close` is over. Only at `prestart`, `createRuntime` and `poststart` an abort or `close` doesn't wait for
   * it. `createContainer` and `startContainer` are in the container's namespaces, where this process isn't: a function there is
   * `ERR_INVALID_ARG_TYPE`.
   */
  hook(when: 'prestart' | 'createRuntime' | 'poststart' | 'poststop', hook: HookFunction): this
  /** The ordered, typed steps that `prepare` would take. Reads nothing but the builder. */
  plan(): Plan
  /** Makes the root filesystem, and a first process in it that waits for commands. */
  prepare(options?: PrepareOptions): Promise<PreparedRootfs>
  /** Makes what containers of this description have in common, for many of them. A snapshot: later calls don't change it. */
  template(options?: TemplateOptions): Promise<RootfsTemplate>
  /**
   * prepare, run one command as the container's first process, close. The quickest way to run one thing. After `fromBundle`
   * and `fromSpec` a command of one's own is what the config's process is but for its words: user, capabilities,
   * noNewPrivileges, resource limits, cwd, environment and OOM score, unless options say otherwise.
   */
  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & PrepareOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions & PrepareOptions): Promise<RunResult>
  /**
   * Runs the process of the OCI config, in which options replace what they name; only after `fromBundle` and `fromSpec`
   * (`ERR_ROOTFS_SPEC` where the config has none).
   */
  run(options: RunOptions & PrepareOptions & { encoding: 'buffer' }): Promise<RunResult<Buffer>>
  run(options?: RunOptions & PrepareOptions): Promise<RunResult>
  /** The same without waiting for its end. */
  spawn(command: string, args?: readonly string[], options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(options?: SpawnOptions & PrepareOptions): ContainerProcess
}

/** The ordered, typed steps that make a root filesystem, in stages that only go forward. */
export interface Plan {
  readonly steps: readonly Step[]
  readonly warnings: readonly Warning[]
  /** A table for people. */
  toString(): string
  toJSON(): { steps: readonly Step[]; warnings: readonly Warning[] }
}

/** What went wrong, at which step, on what, and what to do about it. */
export class RootfsError extends Error {
  /** Errors are made by this package; one's own are for tests. */
  constructor(data: { code: RootfsErrorCode; message: string })
  /** What kind of failure it is. */
  readonly code: RootfsErrorCode
  /** Which step of the plan failed. */
  readonly step?: Step
  /** The system call that failed. */
  readonly syscall?: string
  /** Negative, as Node has it. */
  readonly errno?: number
  /** Such as 'EPERM'. */
  readonly errnoName?: string
  /** The source of the mount. */
  readonly source?: string
  /** The destination in the root. */
  readonly destination?: string
  /** What the destination was resolved to. */
  readonly resolved?: string
  /** The flags asked for. */
  readonly flags?: readonly string[]
  /** What the kernel itself said about a filesystem's options. */
  readonly kernelLog?: readonly string[]
  /** Which value of an OCI config is wrong; a JSON pointer (RFC 6901) such as '/linux/seccomp'. */
  readonly pointer?: string
  /** What to do about it. */
  readonly hint?: string
  /** What a hook function has thrown. */
  readonly cause?: unknown
}

/** What kind of failure it is; docs/errors.md. */
export type RootfsErrorCode =
  /** The description is wrong or contradicts itself. */
  | 'ERR_ROOTFS_SPEC'
  /** The root directory is missing, a symbolic link, or not a directory. */
  | 'ERR_ROOTFS_ROOT'
  /** A source is missing, can't be read, or changed while it was used. */
  | 'ERR_ROOTFS_SOURCE'
  /** A path or working directory would leave the root. */
  | 'ERR_ROOTFS_ESCAPE'
  /** A mount on or below /proc that is not allowed, or a /proc that was tampered with. */
  | 'ERR_ROOTFS_PROC'
  /** The kernel refused a mount or one of its attributes. */
  | 'ERR_ROOTFS_MOUNT'
  /** A mount flag that is locked by a more privileged mount namespace was to be cleared. */
  | 'ERR_ROOTFS_LOCKED'
  /** A device node could not be made, or one that exists is another device. */
  | 'ERR_ROOTFS_DEVICE'
  /** Something kept changing underneath; it may be tried again. */
  | 'ERR_ROOTFS_RACE'
  /** The kernel's mount table is not what was asked for. */
  | 'ERR_ROOTFS_VERIFY'
  /** A hook failed or ran out of time. */
  | 'ERR_ROOTFS_HOOK'
  /** The command could not be started. */
  | 'ERR_ROOTFS_EXEC'
  /** The policy of the host forbids it, or the caller has other rights than before. */
  | 'ERR_ROOTFS_DENIED'
  /** The kernel, the platform or this version lacks something. */
  | 'ERR_ROOTFS_UNSUPPORTED'
  /** The helper process is missing, can't be executed, is of another version, died, or takes no requests. */
  | 'ERR_ROOTFS_SUPERVISOR'
  /** The prepared root filesystem has been closed. */
  | 'ERR_ROOTFS_CLOSED'

/** What `probe()` tries; docs/kernels.md. */
export type HostFeature =
  /** Starting the helper process. */
  | 'supervisor'
  /** Executing the supervisor from memory, where nobody can change it; the sysctl vm.memfd_noexec below 2. */
  | 'memfdExec'
  /** Making and watching processes: `clone3` with a pidfd. */
  | 'pidfd'
  /** Every mount: `fsopen`, `open_tree`, `mount_setattr`, `move_mount`. */
  | 'mountApi'
  /** Mounting on detached mounts: assembling a tree that nobody sees (level `detached`). */
  | 'detachedMounts'
  /** Copying a mount with other attributes in one call. */
  | 'openTreeAttr'
  /** Comparing the mount table with the plan, by unique mount ids. */
  | 'statmount'
  /** Resolution inside the root. */
  | 'openat2'
  /** Entering a root without copying the host's mounts; needs CAP_SYS_ADMIN and CAP_SYS_CHROOT. */
  | 'stubNamespace'
  /** Beginning in a cgroup: `CLONE_INTO_CGROUP`, in a cgroup that the caller may write to. */
  | 'cloneIntoCgroup'
  /** `cgroup()` as one filesystem. */
  | 'cgroup2'
  /** Showing files under mapped owners; needs CAP_SYS_ADMIN. */
  | 'idmappedMounts'
  /** Overlay filesystems. */
  | 'overlay'
  /** Running without root. */
  | 'userNamespaces'
  /** Mapping more than one id: root, or newuidmap, newgidmap, /etc/subuid and /etc/subgid. */
  | 'idRanges'
  /** Overlay filesystems in a user namespace. */
  | 'overlayInUserNamespace'
  /** A proc of its own in a user namespace. */
  | 'procInUserNamespace'
  /** A sysfs of its own in a user and network namespace. */
  | 'sysfsInUserNamespace'
  /** `namespaces({ pid })` for this caller. */
  | 'pidNamespaces'
  /** `namespaces({ ipc })` for this caller. */
  | 'ipcNamespaces'
  /** `namespaces({ uts })` for this caller. */
  | 'utsNamespaces'
  /** `namespaces({ cgroup })` for this caller. */
  | 'cgroupNamespaces'
  /** `namespaces({ network })` for this caller. */
  | 'networkNamespaces'
  /** The option `seccomp`. */
  | 'seccomp'
  /** AppArmor is active. */
  | 'apparmor'
  /** SELinux is active: mount labels. */
  | 'selinux'

/** Whether this host allows something to this process. */
export interface FeatureSupport {
  readonly available: boolean
  /** What was tried, and what happened. */
  readonly reason?: string
  /** What to do about it. */
  readonly hint?: string
}

/** What this host allows. */
export interface HostSupport {
  /** The kernel's release. */
  readonly kernel: string
  readonly features: Readonly<Record<HostFeature, FeatureSupport>>
}

/**
 * Finds out what this host allows this process, and why not where it doesn't, with what to do about it. Kernel features are
 * tried, in processes that end afterwards; nothing is left. Takes some tens of milliseconds, none of them on this thread.
 * Never rejects.
 */
export function probe(): Promise<HostSupport>

/**
 * Opens `path` under the directory `root` so that no symbolic link leads out: `/`, and `..` at the top, mean `root`, and
 * magic links (such as /proc/self/root) are refused; openat2(2), RESOLVE_IN_ROOT, or its emulation where the kernel lacks that. The
 * file is opened once: there is no moment between looking and opening. It never waits for the other end of a named pipe, and
 * a terminal doesn't become this process's.
 *
 * `root` is absolute, and no symbolic link itself. `flags` are those of `fs.open`; files that are made get `mode`, less
 * the umask. Rejects with `ERR_ROOTFS_ROOT`, `ERR_ROOTFS_SOURCE` (`errnoName` says why), `ERR_ROOTFS_ESCAPE`, or `ERR_ROOTFS_RACE` when
 * something kept changing underneath. The caller closes the handle.
 * @default flags 'r', mode 0o666
 */
export function openInRoot(
  root: PathLike,
  path: PathLike,
  flags?: string | number,
  mode?: number,
): Promise<FileHandle>

/** Something that is taken down with `await using`. */
type AsyncDisposable = { [Symbol.asyncDispose](): Promise<void> }
