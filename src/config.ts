// OCI configs: reading a bundle's file, and an object as JSON.
import { readFile } from 'node:fs/promises'
import type { PathLike, RootfsErrorCode } from '../index.js'
import { invalidArgument, RootfsError } from './errors.ts'

/** No config is nested as deep as this. */
const MAX_DEPTH = 64

function specError(pointer: string, message: string): RootfsError {
  return new RootfsError({ code: 'ERR_ROOTFS_SPEC', message, pointer })
}

/** A value as JSON. What JSON can't say is refused and not left out; a bigint is written as the number it is. */
function json(value: unknown, pointer: string, parents: readonly object[]): string {
  const refuse = (what: string) =>
    specError(pointer, `Expected JSON value for ${pointer} but received ${what}`)
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return JSON.stringify(value)
    case 'number':
      if (!Number.isFinite(value)) {
        throw refuse(`${value} of type number`)
      }
      return JSON.stringify(value)
    case 'bigint':
      return `${value}`
    case 'object':
      break
    default:
      throw refuse(value === undefined ? 'undefined' : `a ${typeof value}`)
  }
  if (value === null) {
    return 'null'
  }
  if (parents.includes(value)) {
    throw refuse('a cyclic object')
  }
  if (parents.length > MAX_DEPTH) {
    throw refuse('an object nested too deep')
  }
  const path = [...parents, value]
  if (Array.isArray(value)) {
    return `[${value.map((item, index) => json(item, `${pointer}/${index}`, path)).join(',')}]`
  }
  const kind = Object.prototype.toString.call(value).slice(8, -1)
  if (kind !== 'Object') {
    throw refuse(`a ${kind}`)
  }
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .map(([key, field]) => {
      const place = `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`
      return `${JSON.stringify(key)}:${json(field, place, path)}`
    })
  return `{${fields.join(',')}}`
}

/** A config as JSON. */
export function configText(spec: unknown): string {
  if (typeof spec !== 'object' || spec === null || Array.isArray(spec)) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'object', 'spec', spec)
  }
  return json(spec, '', [])
}

/** The directory of a bundle as an absolute path: a relative one is taken from the working directory now. */
function bundlePath(directory: unknown): Buffer {
  if (typeof directory !== 'string' && !(directory instanceof Uint8Array)) {
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'string or Uint8Array', 'directory', directory)
  }
  const bytes = Buffer.from(directory as string)
  if (bytes.length === 0 || bytes.includes(0)) {
    const wanted = bytes.length === 0 ? 'path that is not empty' : 'path without NUL bytes'
    throw invalidArgument('ERR_INVALID_ARG_VALUE', wanted, 'directory', directory)
  }
  return bytes[0] === 0x2f ? bytes : Buffer.concat([Buffer.from(`${process.cwd()}/`), bytes])
}

/** A bundle's directory, and the content of its config.json. */
export async function readBundle(directory: PathLike): Promise<{ bundle: Buffer; config: Buffer }> {
  const bundle = bundlePath(directory)
  const path = Buffer.concat([bundle, Buffer.from('/config.json')])
  try {
    return { bundle, config: await readFile(path) }
  } catch (cause) {
    const { message, syscall, errno, code: errnoName } = cause as NodeJS.ErrnoException
    const code: RootfsErrorCode = 'ERR_ROOTFS_SOURCE'
    throw new RootfsError({
      code,
      message: `the bundle's config can't be read: ${message}`,
      ...(syscall !== undefined && { syscall }),
      ...(errno !== undefined && { errno }),
      ...(errnoName !== undefined && { errnoName }),
      source: path.toString(),
    })
  }
}
