// `rootfs plan`: the steps that would be taken, as a table or as JSON.
import type { Step } from '../../index.js'
import type { Asked } from './arguments.ts'
import { build } from './build.ts'
import { printable } from './report.ts'

const HEADINGS = ['', 'STEP', 'DESTINATION', 'SOURCE', 'FLAGS'] as const

function row({ index, type, destination, source, flags }: Step): string[] {
  return [`${index}`, type, destination ?? '', source ?? '', flags?.join(',') ?? ''].map(printable)
}

/** Columns as wide as their widest cell; numbers are aligned to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = HEADINGS.map((_, column) =>
    Math.max(...rows.map((cells) => [...(cells[column] ?? '')].length)),
  )
  const pad = (cell: string, column: number) => {
    const space = ' '.repeat((widths[column] ?? 0) - [...cell].length)
    return column === 0 ? space + cell : cell + space
  }
  return rows.map((cells) => `${cells.map(pad).join('  ').trimEnd()}\n`).join('')
}

export async function plan(asked: Asked): Promise<number> {
  const made = (await build(asked)).plan()
  if (asked.json) {
    process.stdout.write(`${JSON.stringify(made, undefined, 2)}\n`)
    return 0
  }
  const warnings = made.warnings.map(({ message }) => `warning: ${printable(message)}\n`)
  process.stdout.write([table([HEADINGS, ...made.steps.map(row)]), ...warnings].join(''))
  return 0
}
