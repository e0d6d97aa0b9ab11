// A plan: what would be done, in order.
import { inspect } from 'node:util'
import type { Plan as Public, Step, Warning } from '../index.js'
import { inspectPlan, type Options } from './inspect.ts'

export class Plan implements Public {
  readonly steps: readonly Step[]
  readonly warnings: readonly Warning[]
  readonly #text: string

  constructor(steps: readonly Step[], warnings: readonly Warning[], text: string) {
    this.steps = steps
    this.warnings = warnings
    this.#text = text
  }

  toString(): string {
    return this.#text
  }

  toJSON(): { steps: readonly Step[]; warnings: readonly Warning[] } {
    return { steps: this.steps, warnings: this.warnings }
  }

  [inspect.custom](depth: number, options: Options): string {
    return inspectPlan(this, depth, options)
  }
}
