// A host whose kernel lacks system calls, or whose runtime refuses them: a seccomp filter around a program.

/** The numbers of calls that are the same on every architecture, all being newer than Linux 5.0. */
const NUMBERS = {
  clone3: 435,
  openat2: 437,
  mount_setattr: 442,
  statmount: 457,
  open_tree_attr: 467,
  fsopen: 430,
} as const

export type Call = keyof typeof NUMBERS

const SECCOMP_RET_ERRNO = 0x0005_0000
const SECCOMP_RET_KILL_PROCESS = 0x8000_0000
const ERRNO = { EPERM: 1, ENOSYS: 38 } as const

const program = `
import ctypes, os, struct, sys
action, calls, command = int(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")], sys.argv[3:]
code = struct.pack("HBBI", 0x20, 0, 0, 0)
for index, call in enumerate(calls):
    code += struct.pack("HBBI", 0x15, len(calls) - index, 0, call)
code += struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000) + struct.pack("HBBI", 0x06, 0, 0, action)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
buffer = ctypes.create_string_buffer(code)
libc = ctypes.CDLL(None, use_errno=True)
filter = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
assert libc.prctl(38, 1, None, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.addressof(filter), 0, 0) == 0
os.execvp(command[0], command)
`

/** What comes before a command that is to run where these calls answer so. */
export function filtered(calls: readonly Call[], how: keyof typeof ERRNO | 'kill'): string[] {
  const action = how === 'kill' ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | ERRNO[how]
  return ['python3', '-c', program, `${action >>> 0}`, calls.map((call) => NUMBERS[call]).join(',')]
}
