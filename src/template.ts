// A template: what containers have in common, made once and held by a keeper until it is closed.
import { inspect } from 'node:util'
import type {
  PrepareOptions,
  RootfsTemplate as Public,
  RunOptions,
  RunResult,
  SpawnOptions,
  Warning,
} from '../index.js'
import { commandArguments, type Origin, prepare, run, spawn } from './begin.ts'
import { watched } from './diagnostics.ts'
import { callSite } from './errors.ts'
import { inspectTemplate, type Options } from './inspect.ts'
import type { NativeRootfs, News } from './native.ts'
import { closeContainer, listenToContainer, Reference } from './news.ts'
import type { PreparedRootfs } from './prepared.ts'
import type { ContainerProcess } from './process.ts'

export class RootfsTemplate implements Public {
  readonly #origin: Origin & { template: number }
  #warnings: readonly Warning[]
  #ended = false
  #closing: Promise<void> | undefined
  readonly #whenClosed: Promise<void>

  constructor(rootfs: NativeRootfs, keeper: number, ready: News) {
    this.#origin = { rootfs, template: keeper }
    this.#warnings = ready.warnings ?? []
    this.#whenClosed = new Promise((resolve) => {
      const unlisten = listenToContainer(keeper, (news) => {
        this.#ended = true
        if (news.kind === 'closed') {
          this.#warnings = [...this.#warnings, ...(news.warnings ?? [])]
          unlisten()
          resolve()
        }
      })
    })
  }

  get warnings(): readonly Warning[] {
    return this.#warnings
  }

  prepare(options?: PrepareOptions): Promise<PreparedRootfs> {
    return prepare(this.#origin, options, callSite(this.prepare))
  }

  run(
    command: string,
    args: readonly string[] | undefined,
    options: RunOptions & PrepareOptions & { encoding: 'buffer' },
  ): Promise<RunResult<Buffer>>
  run(command: string, args?: readonly string[], options?: RunOptions & PrepareOptions): Promise<RunResult>
  run(options: RunOptions & PrepareOptions & { encoding: 'buffer' }): Promise<RunResult<Buffer>>
  run(options?: RunOptions & PrepareOptions): Promise<RunResult>
  run(
    first?: string | (RunOptions & PrepareOptions),
    second?: readonly string[],
    third?: RunOptions & PrepareOptions,
  ): Promise<RunResult<string | Buffer>> {
    return run(this.#origin, commandArguments(first, second, third), this.run)
  }

  spawn(command: string, args?: readonly string[], options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(options?: SpawnOptions & PrepareOptions): ContainerProcess
  spawn(
    first?: string | (SpawnOptions & PrepareOptions),
    second?: readonly string[],
    third?: SpawnOptions & PrepareOptions,
  ): ContainerProcess {
    return spawn(this.#origin, commandArguments(first, second, third), callSite(this.spawn))
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const reference = new Reference()
    closeContainer(this.#origin.template)
    await this.#whenClosed
    reference.release()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  [inspect.custom](depth: number, options: Options): string {
    const state = this.#closing ? 'closed' : this.#ended ? 'ended' : 'open'
    return inspectTemplate(state, () => this.#origin.rootfs.facts(), depth, options)
  }
}

RootfsTemplate.prototype.prepare = watched('prepare', 'rootfs', RootfsTemplate.prototype.prepare)
RootfsTemplate.prototype.run = watched('run', 'rootfs', RootfsTemplate.prototype.run)
RootfsTemplate.prototype.spawn = watched('spawn', 'rootfs', RootfsTemplate.prototype.spawn)
