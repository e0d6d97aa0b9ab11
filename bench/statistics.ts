// Medians, percentiles and aligned tables.

export interface Summary {
  readonly count: number
  readonly minimum: number
  readonly median: number
  readonly p95: number
}

export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
  const middle = sorted.length / 2
  const median = Number.isInteger(middle) ? (sorted[middle - 1]! + sorted[middle]!) / 2 : at(0.5)
  return { count: sorted.length, minimum: sorted[0]!, median, p95: at(0.95) }
}

/** The first row is the head. Columns are aligned right, except the first `left` ones. */
export function table(rows: readonly (readonly string[])[], left = 1): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          column < left ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** The same order of numbers each time: two runs differ by the machine only. */
export function shuffler(seed: number): <T>(items: readonly T[]) => T[] {
  let state = seed
  const random = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return (items) => {
    const result = [...items]
    for (let last = result.length - 1; last > 0; last--) {
      const other = Math.floor(random() * (last + 1))
      const item = result[last]!
      result[last] = result[other]!
      result[other] = item
    }
    return result
  }
}
