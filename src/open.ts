// Opening a file under a root: the addon opens it, and Node's FileHandle is what one gets.
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { PathLike } from '../index.js'
import { callSite, invalidArgument, makeError } from './errors.ts'
import { native } from './native.ts'

const { O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_SYNC, O_TRUNC, O_WRONLY } = constants
/** The same on each Linux there are packages for; Node doesn't name it. open(2). */
const O_PATH = 0o10000000

/** What a mode word begins with; `s` adds O_SYNC and `x` O_EXCL, as fs.open has it. */
const WORDS: ReadonlyMap<string, number> = new Map([
  ['r', O_RDONLY],
  ['r+', O_RDWR],
  ['w', O_TRUNC | O_CREAT | O_WRONLY],
  ['w+', O_TRUNC | O_CREAT | O_RDWR],
  ['a', O_APPEND | O_CREAT | O_WRONLY],
  ['a+', O_APPEND | O_CREAT | O_RDWR],
])

function flagBits(flags: unknown): unknown {
  if (typeof flags !== 'string') {
    // A number is checked with the other arguments.
    if (typeof flags === 'number') return flags
    throw invalidArgument('ERR_INVALID_ARG_TYPE', 'string or number', 'flags', flags)
  }
  const plain = WORDS.get(flags.replace(/[sx]/, ''))
  const sync = /^(rs\+?|sr\+?|as\+?|sa\+?)$/.test(flags)
  const exclusive = /^(wx\+?|xw\+?|ax\+?|xa\+?)$/.test(flags)
  if (plain === undefined || (/[sx]/.test(flags) && !sync && !exclusive)) {
    throw invalidArgument('ERR_INVALID_ARG_VALUE', "flags such as 'r' or 'wx+'", 'flags', flags)
  }
  return plain | (sync ? O_SYNC : 0) | (exclusive ? O_EXCL : 0)
}

export async function openInRoot(
  root: PathLike,
  path: PathLike,
  flags: string | number = 'r',
  mode = 0o666,
): Promise<FileHandle> {
  const locate = callSite(openInRoot)
  const bits = flagBits(flags)
  // A FileHandle can't be made of a descriptor. So one is made of something else, and before anybody has it the addon
  // puts the file in its place, under the same number (dup3). To open /proc/self/fd/N instead would open the file a
  // second time: with other rights, another offset, and by a path.
  const handle = await open('/', O_PATH)
  try {
    const failure = await native.openInRoot(root, path, bits, mode, handle.fd)
    if (failure) throw locate(makeError(failure))
    return handle
  } catch (error) {
    await handle.close()
    throw error
  }
}
