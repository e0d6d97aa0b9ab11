// A shell script that looks around inside a container, and what it found as data. It runs in dash and in busybox ash.
import { type MountLine, parseMountinfo } from './mountinfo.ts'

/** What the OCI runtimes mask and make read-only by default (`runc spec`). */
export const defaultMasks = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/sys/firmware',
  '/proc/scsi',
]
export const defaultReadonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']
export const standardDevices = ['null', 'zero', 'full', 'random', 'urandom', 'tty']

export interface Look {
  /** Masked paths to look at. */
  masked: string[]
  /** Shell commands by name: each is tried on its own, and found is whether it succeeded. */
  tries: Record<string, string>
  /** Files whose content is wanted. */
  read: string[]
}

export interface Found {
  mounts: MountLine[]
  pid: number
  /** Numbers in /proc, seen without starting another process. */
  processes: number[]
  fds: number[]
  stat: { parentPid: number; processGroup: number; session: number; terminal: number }
  status: Record<string, string>
  uidMap: string[]
  gidMap: string[]
  ids: string
  limits: { openFilesSoft: string; openFilesHard: string }
  hostname: string
  environment: string[]
  cgroups: string[]
  namespaces: Record<string, string>
  devices: Record<string, { type: string; mode: string; owner: string; rdev: string }>
  deviceLinks: Record<string, string>
  /** '/path': 'absent', 'file N' (bytes read), 'directory N' (entries) or 'unreadable'. */
  masked: Record<string, string>
  tries: Record<string, boolean>
  files: Record<string, string>
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

/** Nothing here starts another process while the processes and fds of the shell itself are looked at. */
export function inspectScript(look: Look): string {
  return `
section() { printf '=== %s\\n' "$1"; }
section processes; for p in /proc/[0-9]*; do echo "\${p#/proc/}"; done
section fds; fd=0; while [ $fd -lt 256 ]; do if [ -e /proc/$$/fd/$fd ]; then echo $fd; fi; fd=$((fd + 1)); done
section pid; echo $$
section mounts; cat /proc/$$/mountinfo
section stat; cat /proc/$$/stat
section status; cat /proc/self/status
section uidMap; cat /proc/$$/uid_map
section gidMap; cat /proc/$$/gid_map
section ids; id -u; id -g; id -G
section limits; ulimit -Sn; ulimit -Hn
section hostname; cat /proc/sys/kernel/hostname
section environment; env
section cgroups; cat /proc/$$/cgroup
section namespaces; for n in mnt pid ipc uts cgroup user net; do echo "$n $(readlink /proc/$$/ns/$n)"; done
section devices
for d in ${standardDevices.join(' ')}; do echo "$d|$(stat -c '%F|%a|%u:%g|%t:%T' /dev/$d)"; done
section deviceLinks
for l in fd stdin stdout stderr ptmx core; do if [ -L /dev/$l ]; then echo "$l $(readlink /dev/$l)"; fi; done
section masked
for p in ${look.masked.map(quote).join(' ')}; do
  if [ -d "$p" ]; then echo "$p|directory $(ls -A "$p" | wc -l)"
  elif [ ! -e "$p" ]; then echo "$p|absent"
  elif cat "$p" >/dev/null 2>&1; then echo "$p|file $(cat "$p" | wc -c)"
  else echo "$p|unreadable"; fi
done
section tries
try() { if ( eval "$2" ) </dev/null >/dev/null 2>&1; then echo "$1|yes"; else echo "$1|no"; fi; }
${Object.entries(look.tries)
  .map(([name, command]) => `try ${quote(name)} ${quote(command)}`)
  .join('\n')}
section files
${look.read.map((path) => `echo ${quote(path)}"|$(cat ${quote(path)})"`).join('\n')}
section end
`
}

export function parseFound(output: string): Found {
  const sections = new Map<string, string[]>()
  let lines: string[] = []
  for (const line of output.split('\n')) {
    if (line.startsWith('=== ')) {
      lines = []
      sections.set(line.slice(4), lines)
    } else if (line !== '') lines.push(line)
  }
  if (!sections.has('end')) throw new Error(`the script did not get to its end:\n${output}`)
  const section = (name: string): string[] => sections.get(name) ?? []
  const pairs = (name: string, separator: string): Array<[string, string]> =>
    section(name).map((line) => {
      const at = line.indexOf(separator)
      return [line.slice(0, at), line.slice(at + 1).trim()]
    })
  const stat = section('stat')[0] ?? ''
  const [, parentPid, processGroup, session, terminal] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number)
  const columns = (name: string): string[] => section(name).map((line) => line.trim().split(/\s+/).join(' '))
  return {
    mounts: parseMountinfo(section('mounts').join('\n')),
    pid: Number(section('pid')[0]),
    processes: section('processes').map(Number),
    fds: section('fds').map(Number),
    stat: {
      parentPid: parentPid ?? -1,
      processGroup: processGroup ?? -1,
      session: session ?? -1,
      terminal: terminal ?? -1,
    },
    status: Object.fromEntries(pairs('status', ':')),
    uidMap: columns('uidMap'),
    gidMap: columns('gidMap'),
    ids: section('ids').join(' '),
    limits: { openFilesSoft: section('limits')[0] ?? '', openFilesHard: section('limits')[1] ?? '' },
    hostname: section('hostname')[0] ?? '',
    environment: section('environment')
      // What a shell sets by itself.
      .filter((line) => !/^(PWD|SHLVL|OLDPWD|_)=/.test(line))
      .sort(),
    cgroups: section('cgroups'),
    namespaces: Object.fromEntries(pairs('namespaces', ' ')),
    devices: Object.fromEntries(
      pairs('devices', '|').map(([name, facts]) => {
        const [type = '', mode = '', owner = '', rdev = ''] = facts.split('|')
        return [name, { type, mode, owner, rdev }]
      }),
    ),
    deviceLinks: Object.fromEntries(pairs('deviceLinks', ' ')),
    masked: Object.fromEntries(pairs('masked', '|')),
    tries: Object.fromEntries(pairs('tries', '|').map(([name, answer]) => [name, answer === 'yes'])),
    files: Object.fromEntries(pairs('files', '|')),
  }
}
