// `rootfs run`: a container in the foreground.
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import type { ContainerProcess } from '../process.ts'
import type { Asked } from './arguments.ts'
import { build } from './build.ts'
import { reportWarnings } from './report.ts'

/** The environment of a command that is given: that of the config's process, else nothing is inherited. */
function environment(
  own: Record<string, string>,
  configured: readonly string[] | null,
): Record<string, string | undefined> {
  if (configured) {
    const variables = configured.map((text) => {
      const at = text.indexOf('=')
      return [text.slice(0, at), text.slice(at + 1)]
    })
    return { ...Object.fromEntries(variables), ...own }
  }
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/',
    TERM: process.env.TERM,
    ...own,
  }
}

export async function run(asked: Asked): Promise<number> {
  const rootfs = await build(asked)
  if (asked.verbose) {
    reportWarnings(rootfs.plan().warnings)
  }
  const [command, ...args] = asked.words ?? []
  const stdio = 'inherit' as const
  const options = {
    stdio,
    env: environment(asked.env, rootfs.configuredEnv()),
    ...(asked.cwd !== undefined && { cwd: asked.cwd }),
  }
  const child = command === undefined ? rootfs.spawn({ stdio }) : rootfs.spawn(command, args, options)
  return foreground(child)
}

/** What is passed on, and whether it ends a process that has not said what to do about it. */
const SIGNALS: Partial<Record<NodeJS.Signals, 'ends' | 'does nothing'>> = {
  SIGHUP: 'ends',
  SIGINT: 'ends',
  SIGQUIT: 'ends',
  SIGTERM: 'ends',
  SIGUSR1: 'ends',
  SIGUSR2: 'ends',
  SIGALRM: 'ends',
  SIGCONT: 'does nothing',
  SIGWINCH: 'does nothing',
}

/**
 * Whether a process has said what a signal does to it, as `/proc/PID/status` shows. The first process of a pid
 * namespace gets no others: `rootfs run` has it end by them like any other process; pid_namespaces(7).
 */
function expects(pid: number, signal: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const set = (name: string) =>
      BigInt(`0x${new RegExp(`^${name}:\\s*(\\w+)$`, 'm').exec(status)?.[1] ?? 0}`)
    return (((set('SigCgt') | set('SigIgn') | set('SigBlk')) >> BigInt(signal - 1)) & 1n) === 1n
  } catch {
    // It has just ended, or can't be looked at.
    return true
  }
}

/** Milliseconds that a signal waits for the command to be there, before it ends the preparation. */
const PATIENCE = 1000

/** Waits for the end of a process, and passes signals on. The exit status. */
function foreground(child: ContainerProcess): Promise<number> {
  let endedBy: number | undefined
  let impatience: NodeJS.Timeout | undefined
  const end = (signal: NodeJS.Signals) => {
    endedBy ??= constants.signals[signal]
    child.kill('SIGKILL')
  }
  const pass = (signal: NodeJS.Signals) => {
    if (child.pid === undefined) {
      child.once('spawn', () => pass(signal))
      if (SIGNALS[signal] === 'ends') {
        impatience ??= setTimeout(end, PATIENCE, signal)
      }
    } else if (SIGNALS[signal] === 'ends' && !expects(child.pid, constants.signals[signal])) {
      end(signal)
    } else {
      child.kill(signal)
    }
  }
  const signals = Object.keys(SIGNALS) as NodeJS.Signals[]
  for (const signal of signals) {
    process.on(signal, pass)
  }
  return new Promise<number>((resolve, reject) => {
    child.once('spawn', () => clearTimeout(impatience))
    child.once('error', reject)
    child.once('close', (code: number | null, signal: NodeJS.Signals | null) => {
      resolve(code ?? 128 + (endedBy ?? constants.signals[signal ?? 'SIGKILL']))
    })
  }).finally(() => {
    clearTimeout(impatience)
    for (const signal of signals) {
      process.off(signal, pass)
    }
  })
}
