// Runs a command to its end and collects what it writes.
import type { RunResult } from '../index.js'
import { maxBufferError } from './errors.ts'
import type { Collection } from './options.ts'
import type { ContainerProcess } from './process.ts'

/** The result of a command that has just been started. `begin` is the time of the call. */
export async function collect(
  child: ContainerProcess,
  collection: Collection,
  begin: bigint,
): Promise<RunResult<string | Buffer>> {
  const { input, encoding, maxBuffer } = collection
  let failure: Error | undefined
  const closed = new Promise<void>((resolve) => {
    child.on('error', (error) => {
      failure ??= error
    })
    child.once('close', () => resolve())
  })
  const gather = (name: 'stdout' | 'stderr'): Buffer[] => {
    const chunks: Buffer[] = []
    let length = 0
    child[name]?.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > maxBuffer) {
        failure ??= maxBufferError(name)
        child.kill('SIGKILL')
        child[name]?.destroy()
      } else {
        chunks.push(chunk)
      }
    })
    // What goes wrong while reading shows in what is read.
    child[name]?.on('error', () => undefined)
    return chunks
  }
  const stdout = gather('stdout')
  const stderr = gather('stderr')
  // A command need not read its input.
  child.stdin?.on('error', () => undefined)
  child.stdin?.end(input)
  await closed
  if (failure) {
    throw failure
  }
  const text = (chunks: Buffer[]) => {
    const all = Buffer.concat(chunks)
    return encoding === 'buffer' ? all : all.toString(encoding)
  }
  return {
    exitCode: child.exitCode,
    signal: child.signalCode,
    timedOut: child.timedOut,
    stdout: text(stdout),
    stderr: text(stderr),
    durationUs: Number(process.hrtime.bigint() - begin) / 1000,
    skipped: child.prepared.skipped,
    warnings: child.prepared.warnings,
  }
}
