// /proc/PID/mountinfo as data.

export interface MountLine {
  id: number
  parentId: number
  /** major:minor of the superblock. */
  device: string
  root: string
  destination: string
  options: string[]
  /** Peer groups: shared:N, master:N, propagate_from:N, unbindable. */
  propagation: string[]
  type: string
  source: string
  superOptions: string[]
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function decodeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
}

export function parseMountinfo(text: string): MountLine[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const fields = line.split(' ')
      const separator = fields.indexOf('-', 6)
      if (separator < 0) throw new Error(`not a line of mountinfo: ${line}`)
      const at = (index: number): string => decodeOctal(fields[index] ?? '')
      return {
        id: Number(at(0)),
        parentId: Number(at(1)),
        device: at(2),
        root: at(3),
        destination: at(4),
        options: at(5).split(','),
        propagation: fields.slice(6, separator),
        type: at(separator + 1),
        source: at(separator + 2),
        superOptions: at(separator + 3).split(','),
      }
    })
}

/** Is `path` this directory or below it? */
export function isWithin(directory: string, path: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`)
}
