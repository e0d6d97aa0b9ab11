// The program that runs many OCI bundles, one after another, with one runtime, and prints for each what its process has
// printed, or why it was not run. It works in the mount namespace that it is started in.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { Rootfs } from 'rootfs'

export type Runtime = 'rootfs' | 'runc' | 'crun'

export interface Round {
  runtime: Runtime
  bundles: string[]
  /** Where a runtime keeps what it knows about its containers. */
  state: string
}

export type Answer = { stdout: string } | { refusal: string }

async function ours(bundle: string): Promise<Answer> {
  try {
    const { exitCode, stdout, stderr } = await (await Rootfs.fromBundle(bundle)).run()
    return exitCode === 0 ? { stdout } : { refusal: `the process ended with ${exitCode}: ${stderr}` }
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    return { refusal: `${code ?? 'Error'} ${message}` }
  }
}

const options: Record<string, string[]> = { runc: [], crun: ['--cgroup-manager=disabled'] }

function theirs(runtime: string, state: string, bundle: string, id: string): Answer {
  const args = ['--root', state, ...options[runtime]!, 'run', '--bundle', bundle, id]
  const { status, signal, stdout, stderr } = spawnSync(runtime, args, { encoding: 'utf8', timeout: 20_000 })
  return status === 0 ? { stdout } : { refusal: stderr.trim() || `it ended with ${status ?? signal}` }
}

/**
 * runc switches controllers on at the top of the cgroup hierarchy, which is the machine's: what it switched on is
 * switched off again.
 */
const top = '/sys/fs/cgroup/cgroup.subtree_control'
const controllers = (): string[] => readFileSync(top, 'utf8').trim().split(' ')

const { runtime, bundles, state } = JSON.parse(await text(process.stdin)) as Round
const before = controllers()
const answers: Answer[] = []
for (const [place, bundle] of bundles.entries()) {
  const id = `rootfs-test-${process.pid}-${place}`
  answers.push(runtime === 'rootfs' ? await ours(bundle) : theirs(runtime, state, bundle, id))
}
for (const controller of controllers().filter((name) => !before.includes(name))) {
  try {
    writeFileSync(top, `-${controller}`)
  } catch {
    // Somebody else uses it by now.
  }
}
process.stdout.write(JSON.stringify(answers))
