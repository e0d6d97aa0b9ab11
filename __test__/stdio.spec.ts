// Input, output, time limits and cancelling of the commands in a container.
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import test from 'ava'
import { Rootfs, RootfsError } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { containers, descendants, eventually, processInfo } from './support/processes.ts'
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

/** Commands that leave others behind, which hold the pipes for longer than any test. */
const LEAVE = 'sleep 1000 & '
const DAEMON = 'setsid sleep 1000 & '

for (const [how, script, options, expected] of [
  [
    'a timeout',
    `${LEAVE} echo begun; sleep 1000`,
    { timeout: 300 },
    { timedOut: true, signal: 'SIGKILL', stdout: 'begun\n' },
  ],
  [
    'a timeout with another signal',
    `${LEAVE} sleep 1000`,
    { timeout: 300, killSignal: 'SIGTERM' },
    { timedOut: true, signal: 'SIGTERM' },
  ],
  ['a timeout after its end', `${LEAVE} exit 3`, { timeout: 300 }, { timedOut: true, exitCode: 3 }],
  [
    'a timeout, past another session',
    `${DAEMON} sleep 1000`,
    { timeout: 300 },
    { timedOut: true, signal: 'SIGKILL' },
  ],
  ['an abort', `${LEAVE} sleep 1000`, { abort: 300 }, { name: 'AbortError' }],
  ['maxBuffer', `${LEAVE} cat /dev/zero`, { maxBuffer: 1000 }, { code: 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER' }],
] as const) {
  testHere(`${how} is not held back by what the command has left behind`, async (t) => {
    const boxes = [
      await (await busybox()).prepare(),
      await (await busybox()).namespaces({ pid: false }).prepare(),
    ]
    for (const box of boxes) {
      t.teardown(() => box.close())
      const { abort, ...rest } = options as { abort?: number; timeout?: number }
      const all = abort === undefined ? rest : { ...rest, signal: AbortSignal.timeout(abort) }
      const begin = performance.now()
      t.like(await box.run('/bin/sh', ['-c', script], all).catch((error: Error) => error), expected)
      t.true(performance.now() - begin < 5000)
      if (!script.includes('setsid')) {
        const inside = () => descendants(box.pid).map(({ command }) => command)
        t.deepEqual(
          await eventually(inside, (left) => left.length === 0),
          [],
          'its process group is ended too',
        )
      }
    }
  })
}

testHere('what a command leaves behind goes on when nothing ends it, and is waited for', async (t) => {
  const box = await (await busybox()).prepare()
  t.teardown(() => box.close())
  const { stdout } = await box.run('/bin/sh', ['-c', '(sleep 0.3; echo late) & echo early'], {
    timeout: 5000,
  })
  t.is(stdout, 'early\nlate\n')
})

testHere('closing a prepared root ends the commands in it that others hold the pipes of', async (t) => {
  const box = await (await busybox()).namespaces({ pid: false }).prepare()
  const running = box.run('/bin/sh', ['-c', `${DAEMON} exec sleep 1000`])
  await eventually(
    () => descendants(box.pid).length,
    (count) => count === 2,
  )
  const left = descendants(box.pid).filter(({ parentPid }) => parentPid !== box.pid)
  // Whoever is served after it knows that it has begun, and so does the caller.
  t.is((await box.run('/bin/true')).exitCode, 0)
  t.teardown(() => {
    for (const { pid } of left) {
      if (processInfo(pid)) process.kill(pid, 'SIGKILL')
    }
  })
  await box.close()
  t.like(await running, { signal: 'SIGKILL' })
})

for (const [how, limit] of Object.entries({
  'a timeout': () => ({ timeout: 1 }),
  'an abort': () => {
    const controller = new AbortController()
    void setImmediate().then(() => controller.abort())
    return { signal: controller.signal }
  },
})) {
  testHere(`${how} during preparation ends the container, whatever the signal`, async (t) => {
    t.timeout(30_000)
    // Long enough to prepare that it is not over before its end. The command would ignore the signal: as any first process of a
    // pid namespace that doesn't handle it.
    const rootfs = await busybox()
    const data = host.scratch('data')
    rootfs.tmpfs('/run')
    for (let count = 0; count < 3000; count++) rootfs.bind(data, `/run/${count}`)
    for (let turn = 0; turn < 3; turn++) {
      const all = { ...limit(), killSignal: 'SIGTERM' } as const
      const running = rootfs.run('/bin/sleep', ['3600'], all).catch((error: Error) => error)
      const result = await Promise.race([running, delay(5000, new Error('it is run for its time'))])
      t.true(
        (result as { timedOut?: boolean }).timedOut ?? (result as Error).name === 'AbortError',
        `${result}`,
      )
    }
    t.deepEqual(
      await eventually(
        () => containers(),
        (left) => left.length === 0,
      ),
      [],
    )
  })
}

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

// ---------------------------------------------------------------- signals

testHere('real-time signals are sent, and tell how a command has ended', async (t) => {
  const box = await (await busybox()).prepare()
  t.teardown(() => box.close())
  for (const signal of [34, 40, 64]) {
    const child = box.spawn('/bin/sleep', ['1000'])
    const closed = once(child, 'close')
    await once(child, 'spawn')
    t.true(child.kill(signal))
    t.deepEqual(await closed, [null, `SIG${signal}`])
  }
  const result = await box.run('/bin/sleep', ['1000'], {
    timeout: 200,
    killSignal: 40 as unknown as NodeJS.Signals,
  })
  t.like(result, { timedOut: true, signal: 'SIG40' })
})

testHere('no signal is no killSignal', async (t) => {
  const rootfs = await busybox()
  for (const killSignal of [0, 65, 'SIGNONE']) {
    const options = { timeout: 1, killSignal: killSignal as NodeJS.Signals }
    await t.throwsAsync(rootfs.run('/bin/true', [], options), {
      code: 'ERR_INVALID_ARG_VALUE',
      message: /killSignal/,
    })
  }
})

testHere(
  'disposing of a command in a prepared root ends what it has begun, and waits for nobody else',
  async (t) => {
    const box = await (await busybox()).prepare()
    t.teardown(() => box.close())
    for (const script of [`${LEAVE} sleep 1000`, `${DAEMON} sleep 1000`, LEAVE]) {
      const child = box.spawn('/bin/sh', ['-c', `echo begun; ${script}`])
      await once(child.stdout!, 'data')
      const begin = performance.now()
      await child[Symbol.asyncDispose]()
      t.true(performance.now() - begin < 3000, script)
    }
  },
)
