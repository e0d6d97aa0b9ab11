// News of containers and commands: one function of the addon's for all, and what keeps Node alive meanwhile.
import { makeError } from './errors.ts'
import { type News, native, supervisor } from './native.ts'

type Listener = (news: News) => void

const containers = new Map<number, Listener>()
const children = new Map<number, Listener>()

/** Has the news of some containers pass through something that may take its time. */
let filters: Map<number, (news: News) => void> | undefined

function tell(news: News): void {
  if (news.failures) {
    for (const failure of news.failures) {
      process.emitWarning(makeError(failure))
    }
  }
  const filter = news.child === 0 ? filters?.get(news.container) : undefined
  if (filter) {
    filter(news)
  } else {
    pass(news)
  }
}

function pass(news: News): void {
  const listener = news.child === 0 ? containers.get(news.container) : children.get(news.child)
  listener?.(news)
}

native.initialize(makeError, tell, supervisor)

/** What to do when a container is closed from here. */
let abandons: Map<number, () => void> | undefined

/** Has a container killed and taken down. */
export function closeContainer(id: number): void {
  abandons?.get(id)?.()
  native.close(id)
}

/**
 * Has a container's news wait for something that changes them, or keeps them back with undefined; their order stays.
 * `abandon` is called when the container is closed: nothing may be waited for any more.
 */
export function interpose(
  container: number,
  change: (news: News) => Promise<News | undefined>,
  abandon: () => void,
): void {
  abandons ??= new Map()
  abandons.set(container, abandon)
  filters ??= new Map()
  let last = Promise.resolve()
  filters.set(container, (news) => {
    last = last.then(async () => {
      const changed = await change(news)
      if (changed) {
        pass(changed)
        // Whoever is told of the beginning may listen from now on.
        await new Promise(setImmediate)
      }
      if (news.kind === 'closed' || news.kind === 'finished') {
        filters?.delete(container)
        abandons?.delete(container)
      }
    })
  })
}

/** Listens to the news of a container; the function returned ends that. */
export function listenToContainer(id: number, listener: Listener): () => void {
  containers.set(id, listener)
  return () => {
    if (containers.get(id) === listener) {
      containers.delete(id)
    }
  }
}

/** Listens to the news of a command in a prepared container. */
export function listenToChild(id: number, listener: Listener): () => void {
  children.set(id, listener)
  return () => children.delete(id)
}

let references = 0
let keeper: NodeJS.Timeout | undefined

function change(by: number): void {
  references += by
  // The addon's own handle is unreferenced. A timer that never fires keeps the event loop alive while it is needed.
  keeper ??= setInterval(() => undefined, 2 ** 31 - 1)
  if (references > 0) {
    keeper.ref()
  } else {
    keeper.unref()
  }
}

/** Something that runs, and keeps Node alive until it is released. */
export class Reference {
  #held = false
  #released = false

  constructor() {
    this.hold()
  }

  hold(): void {
    if (!this.#held && !this.#released) {
      this.#held = true
      change(1)
    }
  }

  drop(): void {
    if (this.#held) {
      this.#held = false
      change(-1)
    }
  }

  /** For good. */
  release(): void {
    this.drop()
    this.#released = true
  }
}
