// Running a program for which system calls fail, as on an older kernel or below a container runtime's filter.
import { join } from 'node:path'
import { checkout } from './images.ts'
import { mustRun } from './program.ts'

export interface Refused {
  errno: 'ENOSYS' | 'EPERM' | 'EINVAL' | 'ENOMEM'
  calls: readonly string[]
}

/** What makes and looks at mounts, and resolves paths, and is newer than mount(2). */
export const withoutClone3: readonly string[] = [
  'close_range',
  'fchmodat2',
  'fsconfig',
  'fsmount',
  'fsopen',
  'fspick',
  'listmount',
  'mount_setattr',
  'move_mount',
  'open_tree',
  'open_tree_attr',
  'openat2',
  'statmount',
]

/** All that is newer than Linux 4.18. */
export const sinceClassic: readonly string[] = [
  'clone3',
  'pidfd_getfd',
  'pidfd_open',
  'pidfd_send_signal',
  'waitid_pidfd',
  ...withoutClone3,
]

let built: Promise<string> | undefined

function launcher(): Promise<string> {
  built ??= mustRun('cargo', ['build', '--quiet', '--package', 'rootfs', '--example', 'without'], {
    cwd: checkout,
  }).then(() => join(checkout, 'target', 'debug', 'examples', 'without'))
  return built
}

/** The command line that runs a program without these calls. It has to be root who runs it. */
export async function withoutCalls({ errno, calls }: Refused, command: string[]): Promise<string[]> {
  return [await launcher(), errno, calls.join(','), '--', '/usr/bin/env', ...command]
}
