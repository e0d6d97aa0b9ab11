// News of containers and commands: one function of the addon's for all, and what keeps Node alive meanwhile.
import { makeError } from './errors.ts'
import { type News, native, supervisor } from './native.ts'

type Listener = (news: News) => void

const containers = new Map<number, Listener>()
const children = new Map<number, Listener>()

function tell(news: News): void {
  const listener = news.child === 0 ? containers.get(news.container) : children.get(news.child)
  listener?.(news)
}

native.initialize(makeError, tell, supervisor)

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
