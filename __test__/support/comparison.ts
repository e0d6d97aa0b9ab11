// Two mount tables side by side, and the differences that docs/comparison.md names.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkout } from './images.ts'
import type { MountLine } from './mountinfo.ts'

/** One row of the table in the document: any of its lines accounts for a difference. */
export interface NamedDifference {
  name: string
  lines: string[]
  why: string
}

/**
 * Every difference as one line of text: `DESTINATION FIELD: THEIRS -> OURS`, with a destination that only one has as
 * `DESTINATION: only TYPE in runc` or `… in rootfs`, and one `order: … -> …` if what both have comes in another order.
 */
export function compareTables(theirs: MountLine[], ours: MountLine[]): string[] {
  const differences: string[] = []
  const left = byPlace(theirs)
  const right = byPlace(ours)
  for (const [place, mount] of left) {
    const other = right.get(place)
    if (other === undefined) {
      differences.push(`${place}: only ${mount.type} in runc`)
      continue
    }
    const fields: Array<[string, string, string]> = [
      ['type', mount.type, other.type],
      ['source', mount.source, other.source],
      ['root', mount.root, other.root],
      ['flags', words(mount.options), words(other.options)],
      ['superblock', words(mount.superOptions), words(other.superOptions)],
    ]
    for (const [field, a, b] of fields) if (a !== b) differences.push(`${place} ${field}: ${a} -> ${b}`)
  }
  for (const [place, mount] of right) {
    if (!left.has(place)) differences.push(`${place}: only ${mount.type} in rootfs`)
  }
  const order = (table: Map<string, MountLine>, other: Map<string, MountLine>): string =>
    [...table.keys()].filter((place) => other.has(place)).join(' ')
  const [theirOrder, ourOrder] = [order(left, right), order(right, left)]
  if (theirOrder !== ourOrder) differences.push(`order: ${theirOrder} -> ${ourOrder}`)
  return differences
}

/** The second mount on a destination is another place than the first. */
function byPlace(mounts: MountLine[]): Map<string, MountLine> {
  const places = new Map<string, MountLine>()
  for (const mount of mounts) {
    let place = mount.destination
    for (let count = 2; places.has(place); count++) place = `${mount.destination} (${count})`
    places.set(place, mount)
  }
  return places
}

/** The order of options in mountinfo is the filesystem's, not the mounter's. */
const words = (options: string[]): string => [...options].sort().join(',')

/** The rows under "## Mount table differences": name, lines (separated by <br>, with * for anything), why. */
export function namedDifferences(markdown = readFileSync(join(checkout, 'docs', 'comparison.md'), 'utf8')) {
  const lines = markdown.split('\n')
  const start = lines.findIndex((line) => /^##\s+Mount table differences\s*$/.test(line))
  if (start < 0) throw new Error('docs/comparison.md has no section "## Mount table differences"')
  const length = lines.slice(start + 1).findIndex((line) => line.startsWith('## '))
  const section = lines.slice(start + 1, length < 0 ? undefined : start + 1 + length)
  // The first two are the heading and the rule under it.
  const rows = section.filter((line) => line.trim().startsWith('|')).slice(2)
  return rows.map((row): NamedDifference => {
    const cells = row
      .trim()
      .slice(1, -1)
      .split(/(?<!\\)\|/)
    const [name = '', line = '', why = ''] = cells.map((cell) => cell.trim().replaceAll('\\|', '|'))
    return { name, lines: line.split('<br>').map(plain), why }
  })
}

const plain = (line: string): string =>
  line.replaceAll('`', '').replaceAll('→', '->').trim().replace(/\s+/g, ' ')

export function isNamedBy(difference: string, { lines }: NamedDifference): boolean {
  return lines.some((line) => {
    const pattern = line.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
    return new RegExp(`^${pattern.join('.*')}$`).test(difference)
  })
}
