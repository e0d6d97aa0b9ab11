// What the driver program is asked to do and what it answers: JSON, so that it crosses to a process with other ids.

export interface Command {
  /** Without one it is the process of the bundle's config. */
  command?: string
  args?: string[]
  options?: Record<string, unknown>
}

export interface Job {
  /** The directory given to the constructor, options for `Rootfs.empty` or `Rootfs.overlay`, or an OCI bundle with its options. */
  root:
    | string
    | { empty: Record<string, unknown> }
    | { overlay: Record<string, unknown> }
    | { bundle: string; options?: Record<string, unknown> }
  /** Builder calls in order: the method's name, then its arguments. */
  calls: Array<[method: string, ...args: unknown[]]>
  /** Through which call the commands are run; `prepare` runs them all, one after another, in one container. */
  mode: 'run' | 'spawn' | 'prepare'
  /** The containers are a template's, and each command is run in two of them; what is told is the second one's. */
  template?: boolean
  /** Options of `prepare`. */
  prepare?: Record<string, unknown>
  commands: Command[]
}

export interface CommandResult {
  exitCode: number | null
  signal: string | null
  stdout: string
  stderr: string
}

/** An error as data: its own properties, and what it is. */
export interface ErrorData {
  name: string
  message: string
  code?: string
  errnoName?: string
  hint?: string
  isRootfsError: boolean
  [property: string]: unknown
}

export interface StepData {
  type: string
  destination?: string
  strategy?: string
  resolved?: string
  durationUs?: number
}

export interface Outcome {
  /** One for each command, up to the first error. */
  results: CommandResult[]
  error?: ErrorData
  /** Only after `prepare`. */
  steps?: StepData[]
  mounts?: Array<Record<string, unknown>>
  warnings?: Array<{ code: string; message: string }>
  /** Processes of the driver's containers that were left when it was done, by name. */
  left: string[]
}
