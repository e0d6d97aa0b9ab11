// Functions of the caller that run at points of a container's life: in this process, awaited, and its other news held back
// meanwhile.
import type { HookFunction, HookState } from '../index.js'
import { RootfsError } from './errors.ts'
import { type ErrorData, type NativeRootfs, type News, native } from './native.ts'
import { interpose } from './news.ts'

interface Hook {
  when: FunctionPoint
  /** Its place among the hooks of that point. */
  index: number
  run: HookFunction
}

type FunctionPoint = 'prestart' | 'createRuntime' | 'poststart' | 'poststop'

/** Of builders that have any, as their lists are now; undefined until there is the first one at all. */
let known: WeakMap<object, readonly Hook[]> | undefined

/** Takes in a function. The addon checks where, and knows it by its number. */
export function addHook(rootfs: NativeRootfs, when: unknown, run: HookFunction): void {
  const hooks = known?.get(rootfs) ?? []
  const index = rootfs.functionHook(when, hooks.length, run.name)
  known ??= new WeakMap()
  known.set(rootfs, [...hooks, { when: when as FunctionPoint, index, run }])
}

/** The snapshot of a builder has the same functions. */
export function copyHooks(rootfs: NativeRootfs, snapshot: NativeRootfs): void {
  const hooks = known?.get(rootfs)
  if (hooks) {
    known?.set(snapshot, hooks)
  }
}

/** What functions a container is begun with; undefined for none. */
export function hooksOf(rootfs: NativeRootfs): Hooks | undefined {
  const hooks = known?.get(rootfs)
  return hooks && new Hooks(hooks, rootfs.hookFacts())
}

const ABANDONED = Symbol('abandoned')

/** The functions of one container. */
export class Hooks {
  readonly #hooks: readonly Hook[]
  /** The directory on the host that is the root, if there is one. */
  readonly #root: string | undefined
  readonly #annotations: Record<string, string>
  #pid = 0
  /** What a function threw that the container's error comes from. */
  #thrown: { cause: unknown } | undefined
  /** The error of a function that ran when the container had begun. */
  #failure: ErrorData | undefined
  #abandon = () => {}
  /** Settles when nothing is to be waited for. */
  readonly #abandoned = new Promise<typeof ABANDONED>((resolve) => {
    this.#abandon = () => resolve(ABANDONED)
  })

  constructor(hooks: readonly Hook[], facts: { root?: string; annotations: [string, string][] }) {
    this.#hooks = hooks
    this.#root = facts.root
    this.#annotations = Object.fromEntries(facts.annotations)
  }

  /** Has them run at their points of this container. */
  watch(container: number): void {
    if (container === 0) {
      return
    }
    const change = (news: News): Promise<News | undefined> => {
      this.#pid = news.pid ?? this.#pid
      switch (news.kind) {
        case 'function':
          // The first process waits for it, and may be ended meanwhile: what is told then isn't held back.
          void this.#runOne(news)
          return Promise.resolve(undefined)
        case 'ready':
        case 'spawn':
          return this.#runPoststart(container, news)
        case 'exit':
        case 'error':
          return this.#failed(news)
        case 'closed':
        case 'finished':
          return this.#runPoststop(news)
        default:
          return Promise.resolve(news)
      }
    }
    interpose(container, change, this.#abandon)
  }

  #state(root: string | undefined): HookState {
    const pid = this.#pid
    const state = { pid, mountNamespace: `/proc/${pid}/ns/mnt`, annotations: { ...this.#annotations } }
    return root === undefined ? state : { ...state, root }
  }

  /** The first process waits for it. */
  async #runOne(news: News): Promise<void> {
    try {
      const root = this.#root ?? `/proc/${this.#pid}/root${news.root}`
      await this.#hooks[news.function ?? -1]?.run(this.#state(root))
      native.answerFunction(news.container)
    } catch (thrown) {
      this.#thrown = { cause: thrown }
      native.answerFunction(news.container, messageOf(thrown))
    }
  }

  async #runPoststart(container: number, news: News): Promise<News | undefined> {
    for (const { index, run } of this.#at('poststart')) {
      try {
        const ran = Promise.resolve(run(this.#state(this.#root ?? `/proc/${this.#pid}/root`)))
        if ((await Promise.race([ran, this.#abandoned])) === ABANDONED) {
          ran.catch(() => undefined)
          return
        }
      } catch (thrown) {
        this.#failure = failure('poststart', index, run, thrown)
        native.close(container)
        // It has not begun: what is told next is its end.
        return
      }
    }
    return news
  }

  async #failed(news: News): Promise<News> {
    if (this.#failure) {
      return { ...news, kind: 'error', error: this.#failure }
    }
    return this.#withCause(news)
  }

  /** An error says what was thrown, if it comes from that. */
  #withCause(news: News): News {
    const { error } = news
    return error?.code === 'ERR_ROOTFS_HOOK' && this.#thrown
      ? { ...news, error: { ...error, ...this.#thrown } }
      : news
  }

  async #runPoststop(news: News): Promise<News> {
    for (const { index, run } of this.#at('poststop')) {
      try {
        await run(this.#state(this.#root))
      } catch (thrown) {
        process.emitWarning(new RootfsError(failure('poststop', index, run, thrown)))
      }
    }
    if (news.kind === 'finished' && this.#failure) {
      return { ...news, error: this.#failure }
    }
    return this.#withCause(news)
  }

  #at(when: FunctionPoint): Hook[] {
    return this.#hooks.filter((hook) => hook.when === when)
  }
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown)
}

function failure(when: string, index: number, run: HookFunction, cause: unknown) {
  const name = run.name || 'function'
  const message = `hook ${when}[${index}] ${name}: ${messageOf(cause)}`
  return { code: 'ERR_ROOTFS_HOOK', message, source: name, cause } as const
}
