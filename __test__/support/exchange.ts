// An attacker: exchanges two names all the time, as renameat2(2) does with RENAME_EXCHANGE.
import { type ChildProcess, spawn } from 'node:child_process'
import { findProgram } from './program.ts'

const SYSCALL = { x64: 316, arm64: 276 }[process.arch as 'x64' | 'arm64']

const PROGRAM = `
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = sys.argv[1].encode(), sys.argv[2].encode()
while True:
    libc.syscall(${SYSCALL}, -100, one, -100, other, 2)
`

/** Runs until it is killed. */
export function exchange(one: string, other: string): ChildProcess {
  const python = findProgram('python3')
  if (!python) throw new Error('python3 is not installed')
  return spawn(python, ['-c', PROGRAM, one, other], { stdio: 'ignore' })
}
