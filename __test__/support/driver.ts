// The program that does jobs (see job.ts) given as JSON on stdin, one after the other, and prints their outcomes as JSON: so
// every cell runs the same code, in a process whose ids, namespaces and environment are that cell's.
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import {
  type OverlayRootOptions,
  type PreparedRootfs,
  Rootfs,
  RootfsError,
  type RootfsTemplate,
} from 'rootfs'
import type { Command, CommandResult, ErrorData, Job, Outcome } from './job.ts'
import { containers, eventually } from './processes.ts'

type Build = (...args: unknown[]) => Rootfs

async function begin(root: Job['root']): Promise<Rootfs> {
  if (typeof root === 'string') return new Rootfs(root)
  if ('overlay' in root) return Rootfs.overlay(root.overlay as unknown as OverlayRootOptions)
  return 'bundle' in root ? Rootfs.fromBundle(root.bundle, root.options) : Rootfs.empty(root.empty)
}

async function build({ root, calls }: Job): Promise<Rootfs> {
  let rootfs = await begin(root)
  for (const [method, ...args] of calls) {
    const call = Reflect.get(rootfs, method) as Build
    rootfs = call.apply(rootfs, args)
  }
  return rootfs
}

type Runner = Pick<PreparedRootfs, 'run' | 'spawn'>
type Origin = Pick<RootfsTemplate, 'run' | 'spawn' | 'prepare'>

async function runCommand(
  runner: Runner,
  { command, args = [], options = {} }: Command,
): Promise<CommandResult> {
  const { exitCode, signal, stdout, stderr } = await (command === undefined
    ? (runner as Rootfs).run(options)
    : runner.run(command, args, options))
  return { exitCode, signal, stdout: String(stdout), stderr: String(stderr) }
}

async function spawnCommand(
  runner: Runner,
  { command, args = [], options = {} }: Command,
): Promise<CommandResult> {
  const child =
    command === undefined ? (runner as Rootfs).spawn(options) : runner.spawn(command, args, options)
  // An 'error' event rejects this; without one, 'close' comes last.
  const closed = once(child, 'close') as Promise<[number | null, string | null]>
  child.stdin?.end()
  const [stdout, stderr, [exitCode, signal]] = await Promise.all([
    text(child.stdout!),
    text(child.stderr!),
    closed,
  ])
  return { exitCode, signal, stdout, stderr }
}

function errorData(error: unknown): ErrorData {
  if (!(error instanceof Error)) return { name: 'not an Error', message: String(error), isRootfsError: false }
  const { name, message } = error
  return { ...error, name, message, isRootfsError: error instanceof RootfsError }
}

async function doCommands(job: Job, origin: Origin, outcome: Outcome): Promise<void> {
  if (job.mode === 'prepare') {
    const box = await origin.prepare(job.prepare)
    try {
      outcome.steps = JSON.parse(JSON.stringify(box.steps))
      outcome.warnings = JSON.parse(JSON.stringify(box.warnings))
      outcome.mounts = JSON.parse(JSON.stringify(await box.mounts()))
      for (const command of job.commands) outcome.results.push(await runCommand(box, command))
    } finally {
      await box.close()
    }
  } else {
    const doIt = job.mode === 'spawn' ? spawnCommand : runCommand
    for (const command of job.commands) outcome.results.push(await doIt(origin, command))
  }
}

async function perform(job: Job): Promise<Outcome> {
  const outcome: Outcome = { results: [], left: [] }
  try {
    const rootfs = await build(job)
    if (job.template) {
      await using template = await rootfs.template()
      await doCommands(job, template, { results: [], left: [] })
      await doCommands(job, template, outcome)
    } else {
      await doCommands(job, rootfs, outcome)
    }
  } catch (error) {
    outcome.error = errorData(error)
  }
  // The supervisor stays; what it started is its child.
  outcome.left = (
    await eventually(
      () => containers(),
      (left) => left.length === 0,
      1000,
    )
  ).map((info) => info.command)
  return outcome
}

const outcomes: Outcome[] = []
for (const job of JSON.parse(await text(process.stdin)) as Job[]) outcomes.push(await perform(job))
process.stdout.write(`${JSON.stringify(outcomes)}\n`)
