// Input, output, time limits and cancelling of the commands in a container.
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import test from 'ava'
import { Rootfs, RootfsError } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { containers, descendants, eventually } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

let image: Promise<string> | undefined

/** One image for all: nothing writes to it. */
async function busybox(): Promise<Rootfs> {
  image ??= busyboxImage(join(host.scratch('busybox'), 'image'))
  return new Rootfs(await image).defaults().readonly()
}

/** Containers that were not taken down. */

testHere('a result has the status, both outputs and the time it took', async (t) => {
  const result = await (await busybox()).run('/bin/sh', ['-c', 'echo out; echo err >&2; exit 3'])
  t.like(result, { exitCode: 3, signal: null, timedOut: false, stdout: 'out\n', stderr: 'err\n' })
  t.true(Number.isFinite(result.durationUs) && result.durationUs > 0)
  t.deepEqual(result.skipped, [])
})

testHere('a command that dies of a signal has that signal and no exit code', async (t) => {
  const box = await (await busybox()).prepare()
  t.teardown(() => box.close())
  const result = await box.run('/bin/sh', ['-c', 'kill -SEGV $$'])
  t.like(result, { exitCode: null, signal: 'SIGSEGV', timedOut: false })
})

testHere('a command without input reads the end of its input', async (t) => {
  const { stdout, exitCode } = await (await busybox()).run('/bin/cat')
  t.is(stdout, '')
  t.is(exitCode, 0)
})

testHere('input comes in as it was given, as text and as bytes', async (t) => {
  const rootfs = await busybox()
  t.is((await rootfs.run('/bin/cat', [], { input: 'grüße\n' })).stdout, 'grüße\n')
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index)
  const { stdout } = await rootfs.run('/bin/cat', [], { input: bytes, encoding: 'buffer' })
  t.deepEqual(new Uint8Array(stdout as unknown as Uint8Array), bytes)
})

testHere('input larger than a pipe passes through whole', async (t) => {
  const input = Buffer.alloc(3 * 1024 * 1024, 'rootfs input ')
  const { stdout } = await (await busybox()).run('/bin/cat', [], {
    input,
    encoding: 'buffer',
    maxBuffer: 4 * 1024 * 1024,
  })
  t.true(input.equals(stdout as unknown as Uint8Array))
})

testHere('a command that does not read its input is no error', async (t) => {
  const input = Buffer.alloc(1024 * 1024)
  t.is((await (await busybox()).run('/bin/true', [], { input })).exitCode, 0)
})

testHere('output that is not text comes back byte for byte', async (t) => {
  const script = 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i + 1)); done'
  const { stdout } = await (await busybox()).run('/bin/sh', ['-c', script], { encoding: 'buffer' })
  t.deepEqual(
    [...(stdout as unknown as Uint8Array)],
    Array.from({ length: 256 }, (_, index) => index),
  )
})

testHere('a character split between two reads stays one', async (t) => {
  const script = 'i=0; while [ $i -lt 30000 ]; do printf ä; i=$((i + 1)); done'
  const { stdout } = await (await busybox()).run('/bin/sh', ['-c', `printf x; ${script}`])
  t.is(stdout, `x${'ä'.repeat(30_000)}`)
})

testHere('a slow reader holds the command back and gets everything', async (t) => {
  const size = 64 * 1024 * 1024
  const child = (await busybox()).spawn('head', ['-c', `${size}`, '/dev/zero'])
  const closed = once(child, 'close')
  let received = 0
  let buffered = 0
  const stdout = child.stdout as NodeJS.ReadableStream & {
    readableLength: number
    readableHighWaterMark: number
  }
  for await (const chunk of stdout) {
    received += (chunk as Buffer).length
    buffered = Math.max(buffered, stdout.readableLength)
    await setImmediate()
  }
  t.is(received, size)
  t.true(buffered <= stdout.readableHighWaterMark + 1024 * 1024, `${buffered} bytes were buffered`)
  t.deepEqual(await closed, [0, null])
})

testHere('a reader that stops for good does not keep the container', async (t) => {
  const child = (await busybox()).spawn('/bin/cat', ['/dev/zero'])
  const closed = once(child, 'close')
  await once(child.stdout!, 'data')
  ;(child.stdout as unknown as { destroy(): void }).destroy()
  const [exitCode, signal] = (await closed) as [number | null, string | null]
  // Whether the write fails or the signal comes first is the program's affair.
  t.true(signal === 'SIGPIPE' || (exitCode ?? 0) > 0, `${exitCode} ${signal}`)
})

testHere('more output than maxBuffer is an error, and the command is killed', async (t) => {
  const error = await t.throwsAsync(
    (await busybox()).run('/bin/cat', ['/dev/zero'], { maxBuffer: 100_000 }),
    { code: 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER' },
  )
  t.true(error instanceof RangeError)
  t.deepEqual(
    await eventually(
      () => containers(),
      (left) => left.length === 0,
    ),
    [],
  )
})

testHere('output of exactly maxBuffer is none', async (t) => {
  const { stdout } = await (await busybox()).run('head', ['-c', '1000', '/dev/zero'], {
    maxBuffer: 1000,
  })
  t.is(stdout.length, 1000)
})

testHere('a command over its timeout is killed and the result says so', async (t) => {
  const result = await (await busybox()).run('/bin/sh', ['-c', 'echo begun; sleep 1000'], { timeout: 1000 })
  t.like(result, { timedOut: true, exitCode: null, signal: 'SIGKILL', stdout: 'begun\n' })
  t.deepEqual(
    await eventually(
      () => containers(),
      (left) => left.length === 0,
    ),
    [],
  )
})

testHere('a timeout uses the signal it was given', async (t) => {
  const script = 'trap "echo stopped; exit 5" TERM; echo begun; while :; do sleep 0.05; done'
  const result = await (await busybox()).run('/bin/sh', ['-c', script], {
    timeout: 1000,
    killSignal: 'SIGTERM',
  })
  t.like(result, { timedOut: true, exitCode: 5, signal: null, stdout: 'begun\nstopped\n' })
})

testHere('aborting ends the command and rejects with an AbortError', async (t) => {
  const controller = new AbortController()
  const reason = new Error('no longer wanted')
  const box = await (await busybox()).prepare()
  t.teardown(() => box.close())
  const running = box.run('/bin/sleep', ['1000'], { signal: controller.signal })
  const inside = () => descendants(box.pid)
  t.is((await eventually(inside, (some) => some.some(({ command }) => command === 'sleep'))).length, 1)
  controller.abort(reason)
  const error = await t.throwsAsync(running, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error?.cause, reason)
  t.deepEqual(await eventually(inside, (left) => left.length === 0), [])
})

testHere('an aborted signal starts nothing', async (t) => {
  const rootfs = await busybox()
  const signal = AbortSignal.abort()
  await t.throwsAsync(rootfs.run('/bin/true', [], { signal }), { name: 'AbortError' })
  await t.throwsAsync(rootfs.prepare({ signal }), { name: 'AbortError' })
  const child = rootfs.spawn('/bin/true', [], { signal })
  const [error] = (await once(child, 'error')) as [Error]
  t.is(error.name, 'AbortError')
  t.is(child.pid, undefined)
})

testHere('aborting after the end changes nothing', async (t) => {
  const controller = new AbortController()
  const result = await (await busybox()).run('/bin/true', [], { signal: controller.signal })
  controller.abort()
  t.is(result.exitCode, 0)
})

// ---------------------------------------------------------------- spawn, with the shape of child_process

testHere('a spawned process has the events of child_process in their order', async (t) => {
  const child = (await busybox()).spawn('/bin/sh', ['-c', 'read line; echo "got $line"; exit 4'])
  t.is(child.pid, undefined, 'it is returned before it is there')
  const events: string[] = []
  for (const name of ['spawn', 'exit', 'close', 'error'] as const) child.on(name, () => events.push(name))
  child.stdout!.on('end', () => events.push('end'))
  child.stdout!.resume()
  const closed = once(child, 'close')
  await once(child, 'spawn')
  t.true(Number.isInteger(child.pid))
  child.stdin!.end('hello\n')
  t.deepEqual(await closed, [4, null])
  t.is(events[0], 'spawn')
  t.deepEqual([...events].sort(), ['close', 'end', 'exit', 'spawn'])
  t.is(events.at(-1), 'close')
  t.is(child.exitCode, 4)
  t.is(child.signalCode, null)
  t.is(child.killed, false)
})

testHere('a kill before the process is there is not lost', async (t) => {
  const child = (await busybox()).spawn('/bin/sleep', ['1000'])
  t.true(child.kill('SIGKILL'))
  t.deepEqual(await once(child, 'close'), [null, 'SIGKILL'])
  t.is(child.signalCode, 'SIGKILL')
  t.is(child.killed, true)
  t.false(child.kill())
})

testHere('what fails before exec is one error event', async (t) => {
  const child = (await busybox()).spawn('/no/such/command')
  const [error] = (await once(child, 'error')) as [unknown]
  t.true(error instanceof RootfsError)
  t.like(error, { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' })
  t.is(child.pid, undefined)
})

testHere('ignored stdio is the container’s own /dev/null', async (t) => {
  const rootfs = await busybox()
  const script = 'readlink /proc/self/fd/0; readlink /proc/self/fd/2'
  const child = rootfs.spawn('/bin/sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.is(child.stdin, null)
  t.is(child.stderr, null)
  let text = ''
  child.stdout!.on('data', (chunk) => (text += chunk))
  t.deepEqual(await once(child, 'close'), [0, null])
  t.is(text, '/dev/null\n/dev/null\n')
})

testHere('stdio can be file descriptors of the caller', async (t) => {
  const rootfs = await busybox()
  const path = join(host.scratch('stdio'), 'output')
  const file = await open(path, 'w+')
  const child = rootfs.spawn('/bin/sh', ['-c', 'echo out; echo err >&2; ls /proc/$$/fd; true'], {
    stdio: ['ignore', file.fd, file.fd],
  })
  // The call has duplicated it: what the caller does with its own is its own affair.
  await file.close()
  t.is(child.stdout, null)
  t.deepEqual(await once(child, 'close'), [0, null])
  t.is(readFileSync(path, 'utf8'), 'out\nerr\n0\n1\n2\n')
})

testHere('a directory is refused as stdio', async (t) => {
  const rootfs = await busybox()
  const directory = openSync('/', 'r')
  t.teardown(() => closeSync(directory))
  t.throws(() => rootfs.spawn('/bin/true', [], { stdio: ['ignore', 'ignore', directory] }), {
    code: 'ERR_INVALID_ARG_VALUE',
  })
})
