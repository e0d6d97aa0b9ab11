// What must compile, and be of the types that are said here. Never executed.
import { type EventEmitter, once } from 'node:events'
import type { FileHandle } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import {
  type ContainerProcess,
  type ExecutedStep,
  type HostSupport,
  openInRoot,
  type PreparedRootfs,
  probe,
  Rootfs,
  RootfsError,
  type RootfsErrorCode,
  type RunResult,
} from 'rootfs'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Fails to compile unless the two types are the same. */
const same = <A, B>(_proof: Same<A, B>): void => undefined

const rootfs = new Rootfs('/srv')
const chained = rootfs
  .defaults()
  .tmpfs('/tmp', { size: '1m' })
  .bind(new Uint8Array([47]), '/a')
  .readonly()
same<typeof chained, Rootfs>(true)

const text = await rootfs.run('/bin/true', ['a'] as const, { timeout: 1 })
same<typeof text, RunResult<string>>(true)
const bytes = await rootfs.run('/bin/true', undefined, { encoding: 'buffer' })
same<typeof bytes, RunResult<Buffer>>(true)
const box = await rootfs.prepare({ onStep: (step) => same<typeof step, ExecutedStep>(true) })
same<typeof box, PreparedRootfs>(true)
const inBox = await box.run('/bin/true', [], { encoding: 'buffer', input: 'text' })
same<typeof inBox.stdout, Buffer>(true)

const child = box.spawn('/bin/true', [], { stdio: ['pipe', 'ignore', 2, null] })
same<typeof child, ContainerProcess>(true)
child.on('exit', (code, signal) => {
  same<typeof code, number | null>(true)
  same<typeof signal, NodeJS.Signals | null>(true)
})
child.once('error', (error) => same<typeof error, Error>(true))
for (const event of ['exit', 'close'] as const)
  child.on(event, (code) => same<typeof code, number | null>(true))
same<typeof child.stdout, Readable | null>(true)
// It goes wherever an emitter goes.
const emitter: EventEmitter = child
const [code] = (await once(child, 'close')) as [number | null]

const host = await probe()
same<typeof host, HostSupport>(true)
const reasons: string[] = Object.values(host.features).flatMap(({ reason }) => reason ?? [])
/** As the contract has it. */
const loose: Record<string, { available: boolean; reason?: string; hint?: string }> = host.features
const handle = await openInRoot('/srv', 'x', 'wx', 0o600)
same<typeof handle, FileHandle>(true)

try {
  await using disposed = await rootfs.prepare()
  void disposed
} catch (error) {
  if (error instanceof RootfsError) same<typeof error.code, RootfsErrorCode>(true)
}

export { code, emitter, loose, reasons }
