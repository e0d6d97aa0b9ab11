// Two mount tables side by side, and the differences that docs/comparison.md names.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkout } from './images.ts'
import type { MountLine } from './mountinfo.ts'

/** One row of the table in the document: any of its lines accounts for a difference. */
export interface NamedDifference {
  name: string
  /** The programs we differ from. */
  peers: string[]
  /** Names of configurations, with * for anything. */
  configurations: string[]
  lines: string[]
  why: string
}

/** What a program was made to do with a configuration, next to what we do. */
export interface Difference {
  peer: string
  configuration: string
  line: string
}

/**
 * Every difference as one line of text: `DESTINATION FIELD: THEIRS -> OURS`, with a destination that only one has as
 * `DESTINATION: only TYPE in PEER` or `… in rootfs`. The order of the lines is no part of it: a mount's place among them is that
 * of the moment when it was made, and not attached. What is on what is compared.
 */
export function compareTables(theirs: MountLine[], ours: MountLine[], peer = 'runc'): string[] {
  const differences: string[] = []
  const left = byPlace(theirs)
  const right = byPlace(ours)
  for (const [place, mount] of left) {
    const other = right.get(place)
    if (other === undefined) {
      differences.push(`${place}: only ${mount.type} in ${peer}`)
      continue
    }
    const fields: Array<[string, string, string]> = [
      ['type', mount.type, other.type],
      ['source', mount.source, other.source],
      ['root', mount.root, other.root],
      ['flags', words(mount.options), words(other.options)],
      ['propagation', propagation(mount), propagation(other)],
      ['superblock', words(mount.superOptions), words(other.superOptions)],
      ['on', placeOf(left, mount.parentId), placeOf(right, other.parentId)],
    ]
    for (const [field, a, b] of fields) if (a !== b) differences.push(`${place} ${field}: ${a} -> ${b}`)
  }
  for (const [place, mount] of right) {
    if (!left.has(place)) differences.push(`${place}: only ${mount.type} in rootfs`)
  }
  return differences
}

/** The second mount on a destination, which is on the first, is another place. */
function byPlace(mounts: MountLine[]): Map<string, MountLine> {
  const places = new Map<string, MountLine>()
  const left = [...mounts]
  while (left.length > 0) {
    // Parents first, whatever their ids are.
    const at = left.findIndex(({ parentId }) => !left.some(({ id }) => id === parentId))
    const [mount] = left.splice(Math.max(at, 0), 1) as [MountLine]
    let place = mount.destination
    for (let count = 2; places.has(place); count++) place = `${mount.destination} (${count})`
    places.set(place, mount)
  }
  return places
}

const placeOf = (places: Map<string, MountLine>, id: number): string =>
  [...places].find(([, mount]) => mount.id === id)?.[0] ?? 'nothing'

/** The order of options in mountinfo is the filesystem's, not the mounter's. */
const words = (options: string[]): string => [...options].sort().join(',')

/** Which kind it is; the numbers of peer groups are the machine's. */
const propagation = ({ propagation: fields }: MountLine): string =>
  fields
    .map((field) => field.replace(/:.*/, ''))
    .sort()
    .join(' ') || 'private'

/** The rows under "## Mount table differences": name, peers, configurations, lines (separated by <br>), why. */
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
      .map((cell) => cell.trim().replaceAll('\\|', '|'))
    if (cells.length !== 5) throw new Error(`not a row of name, with, configurations, lines, why: ${row}`)
    const [name = '', peers = '', configurations = '', line = '', why = ''] = cells
    const list = (cell: string): string[] => cell.split('<br>').map(plain)
    return { name, peers: peers.split(', '), configurations: list(configurations), lines: list(line), why }
  })
}

const plain = (line: string): string =>
  line.replaceAll('`', '').replaceAll('→', '->').trim().replace(/\s+/g, ' ')

/** Is this text what the pattern says, with * for anything? */
function fits(text: string, pattern: string): boolean {
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's').test(text)
}

export const isNamedBy = (
  { peer, configuration, line }: Difference,
  { peers, configurations, lines }: NamedDifference,
): boolean =>
  peers.includes(peer) &&
  configurations.some((pattern) => fits(configuration, pattern)) &&
  lines.some((pattern) => fits(line, pattern))

/** What no row accounts for. */
export const unnamed = (differences: Difference[], named: NamedDifference[]): string[] =>
  differences
    .filter((difference) => !named.some((row) => isNamedBy(difference, row)))
    .map(({ peer, configuration, line }) => `${peer}, ${configuration}: ${line}`)

/** Rows, or parts of them, that account for nothing. */
export function unused(differences: Difference[], named: NamedDifference[]): string[] {
  return named.flatMap((row) => {
    const parts: Array<[string, NamedDifference]> = [
      ...row.peers.map((peer): [string, NamedDifference] => [peer, { ...row, peers: [peer] }]),
      ...row.configurations.map((one): [string, NamedDifference] => [one, { ...row, configurations: [one] }]),
      ...row.lines.map((line): [string, NamedDifference] => [line, { ...row, lines: [line] }]),
    ]
    return parts
      .filter(([, part]) => !differences.some((difference) => isNamedBy(difference, part)))
      .map(([what]) => `${row.name}: ${what}`)
  })
}
