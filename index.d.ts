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

/**
 * Describes a root filesystem. Methods append in call order, check their arguments at once (the error is thrown at the
 * line that is wrong) and return `this`. Nothing touches the system until `prepare`, `run` or `spawn`; those take a
 * snapshot, so a builder can be used again.
 */
export declare class Rootfs {
  /**
   * An existing directory as root. Absolute; the last component may not be a symlink (`ERR_ROOTFS_ROOT` when it is
   * used). Missing mountpoints are made in that directory, and removed again; what `directory`, `symlink` and `device`
   * make outside a tmpfs is made in it too, and stays. `Rootfs.overlay({ lower: [directory] })` shows the same and writes
   * nothing to it; `Rootfs.empty` is a root of parts.
   */
  constructor(directory: PathLike)
  /** A new, empty tmpfs as root: put `bind`, `tmpfs` … into it. Nothing is written on the host. */
  static empty(options?: EmptyOptions): Rootfs
  /**
   * An overlay as root; `mount(8)`, overlay. Without `upper`, changes go to a tmpfs that is gone afterwards, and nothing is
   * written on the host. With `upper` they stay there, but for mountpoints, which are removed again; directories that
   * the kernel copied there to make one stay. All are directories of the host, or symbolic links to some, opened before anything is mounted
   * (`ERR_ROOTFS_SOURCE`); mounts below a lower directory are not seen. Owner and mode of the root are those of `upper`,
   * else of the first lower directory. Without privileges it needs Linux 5.11, and what is hidden and replaced is
   * written in `user.overlay.` attributes; root's overlays are made with root's rights, for user namespaces too.
   */
  static overlay(options: OverlayRootOptions): Rootfs
  /**
   * What an OCI runtime gives every container, as the configuration that `runc spec` writes has it: /proc, /dev
   * (`dev()`), /sys and /sys/fs/cgroup read-only, the usual masked and read-only paths.
   */
  defaults(options?: DefaultsOptions): this
  /**
   * Makes a file or directory of the host visible. A relative path is taken from the cwd at this call. `{ fd }`: a
   * directory, file or `O_PATH` descriptor, duplicated at this call (not a memfd; without privileges it is found
   * again by its path and must be the same inode). `{ inRoot }`: a path in the tree being built.
   */
  bind(source: PathLike | FdSource | InRootSource, destination: PathLike, options?: BindOptions): this
  /** A new tmpfs, always nosuid and nodev; tmpfs(5). */
  tmpfs(destination: PathLike, options?: TmpfsOptions): this
  /**
   * A new proc of the container's pid namespace, always nosuid, nodev and noexec; proc(5).
   * @param destination @default '/proc'
   */
  proc(destination?: PathLike, options?: ProcOptions): this
  /**
   * A new sysfs of the container's network namespace, always nosuid, nodev and noexec; sysfs(5). In a user namespace
   * without a network namespace of its own, the host's /sys is bound read-only instead (`strategy: 'bind-fallback'`).
   * @param destination @default '/sys'
   */
  sysfs(destination?: PathLike, options?: ReadonlyOptions): this
  /**
   * The cgroup filesystem, always nosuid, nodev and noexec: version 2, or on other hosts a directory for each
   * hierarchy of version 1; cgroups(7).
   * @param destination @default '/sys/fs/cgroup'
   */
  cgroup(destination?: PathLike, options?: ReadonlyOptions): this
  /**
   * A tmpfs on /dev with null, zero, full, tty, random and urandom, links fd, stdin, stdout, stderr, ptmx and core,
   * and devpts, shm and mqueue in it.
   */
  dev(options?: DevOptions): this
  /**
   * An overlay, always nosuid and nodev; `mount(8)`, overlay. Without `upper` it is read-only, and needs two lower
   * directories or more: for one, use `bind`. All are directories of the host, opened before anything is mounted;
   * mounts below them are not seen. For other options of the filesystem use `mount({ type: 'overlay' })`.
   */
  overlay(destination: PathLike, options: OverlayOptions): this
  /** Any mount in OCI form: option words keep their OCI meaning exactly. */
  mount(mount: OciMount): this
  /**
   * A file with the given content, on a private mount of its own: always nosuid and nodev, and noexec unless `mode` has an
   * execute bit. It and its filesystem are read-only unless `writable`; then it can grow to 16 MiB beyond the content.
   * On a directory root its mountpoint is made like any other: links are followed inside the root, and an existing file
   * is covered. A directory there is `ERR_ROOTFS_MOUNT` (`EISDIR`). Text is written as UTF-8. All that is handed over for
   * a container, the content of files included, is at most 64 MiB.
   */
  file(destination: PathLike, content: string | Uint8Array, options?: FileOptions): this
  /**
   * A directory, made where its turn comes among the mounts; missing ones above it are made too, with mode 0o755. On a host
   * directory (not on a tmpfs) it stays. An existing directory is kept, and gets the mode and owner that are given;
   * anything else there is `ERR_ROOTFS_MOUNT` (`EEXIST`). Links are followed inside the root; mkdir(2).
   */
  directory(destination: PathLike, options?: DirectoryOptions): this
  /**
   * A symbolic link at `path` that says `target`, made where its turn comes among the mounts; missing directories above it
   * are made too. On a host directory (not on a tmpfs) it stays. The same link is kept; anything else there is
   * `ERR_ROOTFS_MOUNT` (`EEXIST`). What it says is not looked at; symlink(2).
   */
  symlink(target: PathLike, path: PathLike): this
  /**
   * A device node or fifo, anywhere in the root; missing directories above it are made. On a host directory (not on a
   * tmpfs) it stays. An existing node is kept if it is the same device; anything else there is `ERR_ROOTFS_DEVICE`
   * (`EEXIST`). For root in a user namespace it is made elsewhere and bound on a mountpoint. Without privileges the
   * host's node is bound, with the host's own mode and owner. The warning `device-mode` says where the mode is another
   * than the one that was asked for, and without a user namespace the owner too. With `dev()`, `/dev/ptmx` is always the
   * link to the container's own terminals. `/dev/console` is `ERR_ROOTFS_UNSUPPORTED`: it is the container's terminal,
   * and there is none. mknod(2); runtime-spec config-linux.md, Devices.
   */
  device(node: DeviceNode): this
  /**
   * Hides paths: files read as empty, directories are empty and read-only. `missing` says what is done about a path that
   * isn't there.
   */
  mask(paths: PathLike | readonly PathLike[], options?: MaskOptions): this
  /** Makes paths read-only, with all mounts below them. A missing one is skipped. */
  readonlyPaths(paths: PathLike | readonly PathLike[]): this
  /** Makes the root read-only; `recursive` also covers what the root directory brought along. */
  readonly(options?: ReadonlyRootOptions): this
  /**
   * How mount events pass between the container's mounts and the host's; `mount_namespaces(7)`.
   * @param mode @default 'rslave'
   */
  propagation(mode: Propagation): this
  /** Which namespaces the container has to itself. Those that are not named stay as they are. */
  namespaces(options: NamespaceOptions): this
  /** The host name inside; needs a uts namespace of the container's own. At most 64 bytes; sethostname(2). */
  hostname(name: string): this
  /**
   * The SELinux context of the files of new filesystems: tmpfs, devpts, overlays, what masks directories, message queues.
   * Files of binds, proc, sysfs and cgroup keep their own. Without SELinux on the host it has no effect. 1 to 255 bytes;
   * `mount(8)`, `context`.
   */
  mountLabel(label: string): this
  /** The NIS domain name inside; needs a uts namespace of the container's own. At most 64 bytes; setdomainname(2). */
  domainname(name: string): this
  /**
   * A kernel parameter, set in the container's namespaces when the root has been entered. Its name is written with dots
   * (`net.ipv4.ip_forward`) or slashes, as sysctl(8) has it; the last value of a name wins. Only what belongs to a
   * namespace that the container has to itself can be set: `net.*` (network), `kernel.msg*`, `kernel.sem`,
   * `kernel.shm*` and `fs.mqueue.*` (ipc), `kernel.domainname` (uts). Without a network namespace, which may be asked for
   * after this call, `net.*` is `ERR_ROOTFS_SPEC` when the builder is used. What the kernel refuses names the parameter:
   * `ERR_ROOTFS_UNSUPPORTED` where there is none of that name, `ERR_ROOTFS_SPEC` for a value, else `ERR_ROOTFS_DENIED`.
   * `proc_sys(5)`; runtime-spec config-linux.md, Sysctl.
   */
  sysctl(name: string, value: string): this
  /**
   * An OCI hook: a program that runs at a point of the container's life. `prestart`, `createRuntime`, `poststart` and
   * `poststop` run in the caller's namespaces, `createContainer` and `startContainer` in the container's. When one fails,
   * everything is undone and the error is `ERR_ROOTFS_HOOK`; `poststop` runs when everything is taken down, and its
   * failure is a process warning.
   *
   * A `startContainer` program is one of the image, and is what the command is: its user and groups, its capabilities,
   * `noNewPrivileges`, resource limits, seccomp filter and label; its working directory is `/`. With `prepare`, which has
   * no command yet, it is what a command is when nothing is said: the process of the OCI config, or without one root of the
   * container with `CAP_AUDIT_WRITE`, `CAP_KILL` and `CAP_NET_BIND_SERVICE`, and `noNewPrivileges`. Programs at the other
   * points are the caller's, with all rights that the caller has (`createContainer`: over the container). runtime-spec
   * config.md, POSIX-platform Hooks.
   */
  hook(when: HookPoint, hook: OciHook): this
  /**
   * An OCI bundle: its `config.json` gives root, mounts, devices, paths, namespaces, hooks and process. Every field is
   * enforced, or refused with `ERR_ROOTFS_SPEC` or `ERR_ROOTFS_UNSUPPORTED` and its JSON pointer in the error's
   * `pointer`; docs/oci.md has the table. Rejects with `ERR_ROOTFS_SOURCE` where the file can't be read.
   */
  static fromBundle(directory: PathLike, options?: SpecOptions): Promise<Rootfs>
  /**
   * The same from an OCI runtime-spec object; relative paths are taken from `bundle`, which is the working directory
   * when it isn't given. Numbers that JavaScript's don't hold can be bigints.
   */
  static fromSpec(spec: OciSpec, options?: SpecOptions & { bundle?: PathLike }): Rootfs
}

/** Options of `bind`. */
export interface BindOptions {
  /** Nothing can be written through it. Covers every mount below the source too. @default false */
  readonly?: boolean
  /** Bring mounts below the source along. @default true */
  recursive?: boolean
  /** Set-user-id bits and file capabilities have no effect. Also for submounts. @default true */
  nosuid?: boolean
  /** Device nodes can't be opened. Also for submounts; binding a device node with it is a plan warning. @default true */
  nodev?: boolean
  /** Programs can't be executed. Also for submounts. @default false */
  noexec?: boolean
  /** Symbolic links are not followed. Also for submounts; Linux 5.14. @default false */
  nosymfollow?: boolean
  /** When access times are written; mount(8). Also for submounts. @default the source's own mode */
  atime?: 'noatime' | 'relatime' | 'strictatime'
  /** How mount events pass between the source and the container; `mount_namespaces(7)`. @default 'rprivate' */
  propagation?: Propagation
  /** A missing source is skipped and listed in `PreparedRootfs.skipped`. @default false */
  optional?: boolean
  /** Resolve the source inside this directory: no symlink in it can lead out. */
  within?: PathLike
  /**
   * Show files under mapped owners: what belongs to `containerId` in the source looks, through the mount, as if it
   * belonged to the host's `hostId`, and the reverse for what is written. `{ containerId: 0, hostId: 100000, size: 65536 }`
   * shows root's files as 100000's, which a container that maps its 0 to 100000 sees as its own root's. `'userns'` takes
   * the container's own mapping, which gives just that. Ids that are not mapped show as 65534, and can't be written.
   * Also for submounts. With `{ inRoot }` in a user namespace, `hostId` is the container's. Needs root, Linux 5.12, and a filesystem that can (`ERR_ROOTFS_DENIED`,
   * `ERR_ROOTFS_UNSUPPORTED`); `mount_setattr(2)`, ID-mapped mounts. @default none
   */
  idMap?: IdMap | 'userns'
}

/** Options of `defaults`. */
export interface DefaultsOptions {
  /** Whether `/sys/fs/cgroup` is mounted, read-only. @default true */
  cgroup?: boolean
}

/** A device node or fifo; runtime-spec config-linux.md, Devices. */
export interface DeviceNode {
  /** Where, in the root. */
  path: PathLike
  /** A character device (`u` is the same), a block device, or a fifo. */
  type: 'c' | 'b' | 'p' | 'u'
  /** From 0 to 4095. Devices need it, a fifo has none. */
  major?: number
  /** From 0 to 1048575. Devices need it, a fifo has none. */
  minor?: number
  /** Permission bits, exact whatever the umask. @default 0o666 */
  mode?: number
  /** Owner, as the container sees it. @default 0 */
  uid?: number
  /** Group, as the container sees it. @default 0 */
  gid?: number
}

/** Options of `dev`. */
export interface DevOptions {
  /** How much /dev can hold. @default '64m' */
  size?: Size
  /** Becomes read-only when all is in it. @default false */
  readonly?: boolean
}

/** Options of `directory`. An existing directory keeps what is not given. */
export interface DirectoryOptions {
  /** Permission bits, exact whatever the umask. @default 0o755 for a new one */
  mode?: number
  /** Owner, as the container sees it. @default the container's root for a new one */
  uid?: number
  /** Group, as the container sees it. @default the container's root for a new one */
  gid?: number
}

/** Options of `Rootfs.empty`. */
export interface EmptyOptions {
  /** How much it can hold; tmpfs(5), `size`. @default half of the machine's memory */
  size?: Size
  /** Permission bits of the root directory. @default 0o755 */
  mode?: number
}

/** A step that was carried out. */
export interface ExecutedStep {
  /** See `Step`. */
  readonly type: string
  /** Its place in the plan. */
  readonly index: number
  /** Where in the root it takes effect. */
  readonly destination?: string
  /** What it is made from. */
  readonly source?: string
  /** Flags and options, as words. */
  readonly flags?: readonly string[]
  /** What the destination was resolved to, where that differs. */
  readonly resolved?: string
  /** Which of several ways was taken, such as `'bind-fallback'`. */
  readonly strategy?: string
  /** How long it took, in microseconds. */
  readonly durationUs: number
}

/** A file descriptor as the source of a bind. */
export interface FdSource {
  /**
   * Of a directory or file, opened for anything or with `O_PATH`. It is duplicated at the call and can be closed
   * afterwards. Not a memfd. Without privileges the file is found again by its path and must be the same inode. It only
   * says which file is meant: what it was opened for doesn't matter, so one that was opened for reading still becomes a
   * bind that can be written to, unless the option `readonly` is given.
   */
  fd: number
}

/** Options of `file`. */
export interface FileOptions {
  /** Permission bits, exact whatever the umask. @default 0o644 */
  mode?: number
  /** Owner, as the container sees it. @default 0 */
  uid?: number
  /** Group, as the container sees it. @default 0 */
  gid?: number
  /** The container may change it; nobody else sees that. @default false */
  writable?: boolean
}

/**
 * The mappings of a user namespace. More than the caller's own id needs root, or subordinate ids in `/etc/subuid` and
 * `/etc/subgid` with the programs `newuidmap` and `newgidmap`.
 */
export interface IdMap {
  /** Users. At most 340 lines that don't overlap. */
  uids: readonly IdMapping[]
  /** Groups, likewise. */
  gids: readonly IdMapping[]
}

/** A line of a user namespace's `uid_map` or `gid_map`; `user_namespaces(7)`. */
export interface IdMapping {
  /** First id in the container. */
  containerId: number
  /** First id outside. */
  hostId: number
  /** How many ids. */
  size: number
}

/** A path of the tree that is being built, as the source of a bind. */
export interface InRootSource {
  /** Resolved inside the root when its turn comes: earlier mounts are there. */
  inRoot: PathLike
}

/** Options of `mask`. */
export interface MaskOptions {
  /**
   * What is done about a path that isn't there. `'skip'`: nothing. `'error'`: `ERR_ROOTFS_MOUNT` (`ENOENT`).
   *
   * The others keep it from being created inside, by a process without `CAP_SYS_ADMIN`. Where the directory that it would
   * be created in is read-only already, nothing more is done. `'deny-create'`: where that directory is on a tmpfs of the
   * container's own, a placeholder is put there, which shows as an empty read-only directory; else it is
   * `ERR_ROOTFS_UNSUPPORTED`. `'readonly-parent'`: that directory, which must exist, becomes read-only.
   * `'stub'`: an empty file is made there, on the host where that is a host directory, and hidden; it is removed again.
   * Directories on the way can't be renamed either. A symbolic link on the way that could be replaced is
   * `ERR_ROOTFS_UNSUPPORTED`. @default 'skip'
   */
  missing?: 'skip' | 'error' | 'deny-create' | 'readonly-parent' | 'stub'
}

/** A line of the container's mount table; `proc_pid_mountinfo(5)`. */
export interface MountInfo {
  /** The mount's id, which is used again after it is gone. */
  id: number
  /** The id of the mount it is on. */
  parentId: number
  /** What of the filesystem is its root. */
  root: string
  /** Where it is. */
  destination: string
  /** The filesystem's type. */
  type: string
  /** The filesystem's source. */
  source: string
  /** The mount's own flags. */
  options: Array<string>
  /** The superblock's options. */
  superOptions: Array<string>
  /** `shared:N`, `master:N`, `propagate_from:N`, `unbindable`; none for a private mount. */
  propagation: Array<string>
}

/**
 * Which namespaces the container has to itself; namespaces(7). Those with a path are joined: they are opened with the rights
 * of the caller at the call that begins a container.
 */
export interface NamespaceOptions {
  /**
   * `true` maps the container's root to the calling user: an ordinary one, or, called by root, root of the host, whose
   * files it can then use wherever a bind shows them, and whose kernel parameters where /proc/sys is not read-only. For
   * other people's code let root map a range of ids that nobody has. @default true unless the caller has `CAP_SYS_ADMIN`
   *
   * One that is joined keeps the mappings it has, which need a root. Its other namespaces can be joined with it.
   */
  user?: boolean | IdMap | NamespacePath
  /**
   * Processes. Without a new one, processes that leave the container's process group are not ended with it, unless there
   * is a cgroup. @default true
   */
  pid?: boolean | NamespacePath
  /** System V IPC and POSIX message queues. @default true */
  ipc?: boolean | NamespacePath
  /** Host name. @default true */
  uts?: boolean | NamespacePath
  /** The view of the cgroup tree. @default true */
  cgroup?: boolean | NamespacePath
  /** A new network namespace has only a loopback, and it is up. @default false */
  network?: boolean | NamespacePath
  /**
   * A mount namespace that is joined. Nothing in it changes: the tree is assembled outside of every mount namespace, held by
   * this process's supervisor and entered by chroot(2). So it can be neither listed by `mounts()` nor compared with the
   * plan, a new user namespace in it is refused by the kernel, and masks, read-only paths and hooks before the start
   * are refused here. Needs Linux 6.15. @default a new one
   */
  mount?: NamespacePath
}

/** An existing namespace. */
export interface NamespacePath {
  /** Absolute, such as `/proc/PID/ns/net`. */
  path: PathLike
}

/**
 * A program that runs at a point of the container's life; runtime-spec config.md, POSIX-platform Hooks. It gets the
 * container's state as JSON on standard input. When it fails, everything is undone and the error is `ERR_ROOTFS_HOOK`.
 */
export interface OciHook {
  /** The program; absolute. At `startContainer` it is one of the image and runs with the rights of the command. */
  path: string
  /** Arguments, the first being the program's name. @default [path] */
  args?: readonly string[]
  /** The whole environment, as `NAME=value`. @default [], at `startContainer` that of the command */
  env?: readonly string[]
  /** Seconds after which it is killed, which is a failure. @default none */
  timeout?: number
}

/** A line of `uidMappings` or `gidMappings`; runtime-spec config.md, Mounts. */
export interface OciIdMapping {
  /** First id in the source. */
  containerID: number
  /** First id that is shown, of the host. */
  hostID: number
  /** How many ids. */
  size: number
}

/** A mount in OCI form; runtime-spec config.md, Mounts. */
export interface OciMount {
  /** Where, in the root. A relative one is taken from `/`, with a plan warning. */
  destination: string
  /** A relative source of a bind is taken from the cwd at the call. */
  source?: string
  /** The filesystem; not needed for binds. */
  type?: string
  /** Words from left to right, the last one wins. One that is unknown goes to the filesystem. */
  options?: readonly string[]
  /**
   * Of a bind, with `gidMappings`: a file of `containerID` in the source looks, through the mount, as if it belonged to the
   * host's `hostID`. `idmap` among the options covers the source alone, `ridmap` what is mounted below it too; with one
   * of them and no mappings it is the container's user namespace that maps.
   */
  uidMappings?: readonly OciIdMapping[]
  /** The same for groups. */
  gidMappings?: readonly OciIdMapping[]
}

/** Options of `overlay`. */
export interface OverlayOptions {
  /**
   * Directories that are only read; the first one is on top. 1 to 500, none twice; 2 or more without `upper`. A relative
   * one is taken from the cwd at the call.
   */
  lower: readonly PathLike[]
  /** Where changes go, with `work`; of one container at a time (`ERR_ROOTFS_SOURCE`). @default none: read-only */
  upper?: PathLike
  /** An empty directory on the same mount as `upper`, for the kernel's own use. */
  work?: PathLike
  /** See `OverlayRootOptions`. @default false */
  volatile?: boolean
}

/** Options of `Rootfs.overlay`. */
export interface OverlayRootOptions {
  /**
   * Directories that are only read; the first one is on top. 1 to 500, none twice. A relative one is taken from the cwd
   * at the call.
   */
  lower: readonly PathLike[]
  /**
   * Where changes go, with `work`; of one container at a time (`ERR_ROOTFS_SOURCE`).
   * @default a tmpfs that is gone afterwards
   */
  upper?: PathLike
  /** An empty directory on the same mount as `upper`, for the kernel's own use. */
  work?: PathLike
  /** How much the tmpfs can hold; not with `upper`. @default half of the machine's memory */
  size?: Size
  /**
   * Don't wait for the disk; Linux 5.10. The kernel refuses to mount such an `upper` again until the directory
   * `work/incompat` in `work` is removed, because after a crash it may be incomplete. @default false
   */
  volatile?: boolean
}

/** Options of `proc`; proc(5), Mount options. */
export interface ProcOptions {
  /** @default false */
  readonly?: boolean
  /** What is hidden of other users' processes; the words need Linux 5.8. @default 'off' */
  hidepid?: 'off' | 'noaccess' | 'invisible' | 'ptraceable'
  /** Show processes only and nothing of the system; Linux 5.8. */
  subset?: 'pid'
  /**
   * What is done where a user namespace may not mount a new one, because the caller's own is partly hidden (as in a
   * container) or there is no new pid namespace: `ERR_ROOTFS_DENIED`, or the caller's is bound with all that hides
   * parts of it (`strategy: 'bind-fallback'`). A bound one shows the processes of the caller's pid namespace, and
   * can't have `hidepid` or `subset`. @default 'error'
   */
  fallback?: 'error' | 'bind'
}

/** Options of `sysfs` and `cgroup`. */
export interface ReadonlyOptions {
  /** As OCI runtimes have it. @default true */
  readonly?: boolean
}

/** Options of `readonly`. */
export interface ReadonlyRootOptions {
  /** Also covers the mounts that the root directory brought along. @default false */
  recursive?: boolean
}

/** How an OCI config is read; docs/oci.md. */
export interface SpecOptions {
  /**
   * Fields that may be present but are not enforced: they are taken as absent, and listed as plan warnings. Names such
   * as `'linux.seccomp'` or `'mounts[].uidMappings'`, or JSON pointers such as `'/mounts/3'`. Any other field that is
   * not enforced is an error. @default []
   */
  ignore?: readonly string[]
  /**
   * Whether the config must have a `root`. With `false`, one without it gets an empty tmpfs, as `Rootfs.empty()`
   * makes. @default true
   */
  expectRoot?: boolean
}

/** A step of a plan. */
export interface Step {
  /**
   * What it does: `'namespaces'`, `'root'`, `'mount'`, `'file'`, `'directory'`, `'device'`, `'symlink'`, `'stub'`,
   * `'hook'`, `'pivot'`, `'propagation'`, `'readonly'`, `'hostname'`, `'domainname'`, `'sysctl'`, `'mask'`, `'verify'`.
   */
  readonly type: string
  /** Its place in the plan. */
  readonly index: number
  /** Where in the root it takes effect. */
  readonly destination?: string
  /** What it is made from. */
  readonly source?: string
  /** Flags and options, as words. */
  readonly flags?: readonly string[]
}

/** Options of `tmpfs`. It is always `nosuid` and `nodev`; tmpfs(5). */
export interface TmpfsOptions {
  /** How much it can hold. @default half of the machine's memory */
  size?: Size
  /** How many files it can hold. @default half the number of the machine's pages */
  inodes?: number
  /** Permission bits of its directory. @default those of the directory it covers, 0o1777 if there is none */
  mode?: number
  /** Owner of its directory, as the container sees it. @default 0 */
  uid?: number
  /** Group of its directory, as the container sees it. @default 0 */
  gid?: number
  /** Becomes read-only when everything below it has been mounted. @default false */
  readonly?: boolean
  /** Programs can't be executed. @default false */
  noexec?: boolean
  /**
   * Start with a copy of what the root has at that place: owners, modes, times, extended attributes, links, sparse files,
   * fifos, sockets, devices. It is copied before the tmpfs is seen, and follows no link. What is mounted below is not
   * copied: its mountpoint is there, and empty. In a user namespace the container's rights are what counts: what it may
   * not read is `ERR_ROOTFS_MOUNT`; devices are left out; files whose owner isn't mapped lose their set-id bits and
   * belong to 65534, whom they seemed to belong to, or to root where there is no such id. The warning `copy-up` says
   * what differs. @default false
   */
  copyUp?: boolean
}

/** Something that works, and that one should know. */
export interface Warning {
  /** A short name, such as `'hidden-mount'`. */
  readonly code: string
  /** What it means here. */
  readonly message: string
  /** The index of the step it is about. */
  readonly step?: number
  /** Which value of an OCI config it is about, as a JSON pointer (RFC 6901). */
  readonly pointer?: string
  /** Which argument of a builder's method it is about, such as `'destination'` or `'mount.options[2]'`. */
  readonly argument?: string
}
