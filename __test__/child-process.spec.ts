// The yardstick for processes: the same assertions against node:child_process itself, against `Rootfs.spawn` and against
// `PreparedRootfs.spawn`. docs/child-process.md has a row for each documented behaviour and names the test.
import { type ChildProcess, type SpawnOptions as NodeOptions, spawn as nodeSpawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Duplex, Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type PreparedRootfs, Rootfs, RootfsError, type SpawnOptions } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { eventually, processInfo } from './support/processes.ts'
import { runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

/** What all of them have. */
interface Child extends NodeJS.EventEmitter {
  readonly pid?: number | undefined
  readonly stdin: Writable | null
  readonly stdout: Readable | null
  readonly stderr: Readable | null
  readonly stdio: readonly unknown[]
  readonly exitCode: number | null
  readonly signalCode: NodeJS.Signals | null
  readonly killed: boolean
  readonly spawnfile: string
  readonly spawnargs: readonly string[]
  kill(signal?: NodeJS.Signals | number): boolean
  ref(): void
  unref(): void
}

type Options = Pick<SpawnOptions, 'stdio' | 'timeout' | 'killSignal' | 'signal' | 'env'>

interface Subject {
  name: string
  /** Whether it is node:child_process. */
  node: boolean
  spawn(command: string, args?: string[], options?: Options): Child
}

let image: Promise<string> | undefined
let box: Promise<PreparedRootfs> | undefined
const root = async (): Promise<Rootfs> => {
  image ??= busyboxImage(join(host.scratch('processes'), 'image'))
  return new Rootfs(await image).defaults()
}
test.after.always('the prepared root is closed', async (t) => {
  await (await box)?.close()
  t.pass()
})

const subjects: Array<{ name: string; get(): Promise<Subject> }> = [
  {
    name: 'node:child_process',
    async get() {
      return {
        name: 'node:child_process',
        node: true,
        spawn: (command, args = [], options = {}) =>
          nodeSpawn(command, args, options as NodeOptions) as ChildProcess as Child,
      }
    },
  },
  {
    name: 'Rootfs.spawn',
    async get() {
      const rootfs = await root()
      return {
        name: 'Rootfs.spawn',
        node: false,
        spawn: (command, args, options) => rootfs.spawn(command, args, options) as Child,
      }
    },
  },
  {
    name: 'PreparedRootfs.spawn',
    async get() {
      box ??= root().then((rootfs) => rootfs.prepare())
      const prepared = await box
      return {
        name: 'PreparedRootfs.spawn',
        node: false,
        spawn: (command, args, options) => prepared.spawn(command, args, options) as Child,
      }
    },
  },
]

/** The titles of what is declared here, for the table. */
const titles = new Set<string>()

/** The same assertions for each of the three. */
function same(title: string, check: (t: ExecutionContext, subject: Subject) => Promise<void>): void {
  titles.add(title)
  for (const { name, get } of subjects) {
    testHere(`${title} (${name})`, async (t) => {
      t.timeout(60_000)
      await check(t, await get())
    })
  }
}

/** Only for ours: what differs. */
function ours(title: string, check: (t: ExecutionContext, subject: Subject) => Promise<void>): void {
  titles.add(title)
  for (const { name, get } of subjects.slice(1)) {
    testHere(`${title} (${name})`, async (t) => {
      t.timeout(60_000)
      await check(t, await get())
    })
  }
}

const sh = (script: string): [string, string[]] => ['/bin/sh', ['-c', script]]

/** The names of its events, in order; also those of its streams. */
function record(child: Child): string[] {
  const events: string[] = []
  for (const name of ['spawn', 'error', 'exit', 'close']) child.on(name, () => events.push(name))
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.once('data', () => events.push(`${name} data`))
    child[name]?.once('end', () => events.push(`${name} end`))
    child[name]?.once('close', () => events.push(`${name} close`))
  }
  return events
}

const closed = (child: Child): Promise<[number | null, NodeJS.Signals | null]> =>
  new Promise((resolve) =>
    child.once('close', (...how) => resolve(how as [number | null, NodeJS.Signals | null])),
  )

// ---------------------------------------------------------------- events

same("'spawn' comes before any other event and before any data", async (t, { spawn }) => {
  for (let count = 0; count < 20; count++) {
    const child = spawn(...sh('echo out; echo err >&2'))
    const events = record(child)
    await closed(child)
    t.is(events[0], 'spawn')
    t.deepEqual([...events].sort(), [
      'close',
      'exit',
      'spawn',
      'stderr close',
      'stderr data',
      'stderr end',
      'stdout close',
      'stdout data',
      'stdout end',
    ])
  }
})

same("'close' comes last, after 'exit' and after the streams have ended", async (t, { spawn }) => {
  const child = spawn(...sh('echo out; exit 3'))
  const events = record(child)
  t.deepEqual(await closed(child), [3, null])
  for (const earlier of ['exit', 'stdout end', 'stderr end']) {
    t.true(events.indexOf(earlier) < events.indexOf('close'), earlier)
  }
})

same(
  "'exit' may come while others hold the streams, and 'close' waits for them",
  async (t, { name, spawn }) => {
    const child = spawn(...sh('sleep 0.5 & exit 0'))
    const events = record(child)
    const times: Record<string, number> = {}
    for (const name of ['exit', 'close']) child.once(name, () => (times[name] = performance.now()))
    await closed(child)
    const apart = times.close! - times.exit!
    if (name === 'Rootfs.spawn') {
      t.true(apart < 300, 'the others end with the first process of their pid namespace')
    } else {
      t.true(events.indexOf('exit') < events.indexOf('stdout end'))
      t.true(apart > 300)
    }
  },
)

same("'exit' and 'close' tell the exit code, and so do exitCode and signalCode", async (t, { spawn }) => {
  const child = spawn(...sh('exit 7'))
  t.is(child.exitCode, null)
  t.is(child.signalCode, null)
  const exit = once(child, 'exit')
  t.deepEqual(await closed(child), [7, null])
  t.deepEqual(await exit, [7, null])
  t.is(child.exitCode, 7)
  t.is(child.signalCode, null)
  t.false(child.killed)
})

same('a command that is ended by a signal has its name, and no exit code', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  const exit = once(child, 'exit')
  t.true(child.kill('SIGKILL'))
  t.deepEqual(await closed(child), [null, 'SIGKILL'])
  t.deepEqual(await exit, [null, 'SIGKILL'])
  t.is(child.exitCode, null)
  t.is(child.signalCode, 'SIGKILL')
})

same(
  "a command that can't be executed is an 'error' without 'spawn' and 'exit'",
  async (t, { node, spawn }) => {
    const child = spawn('/no/such/command', ['argument'])
    const events = record(child)
    const [error] = (await once(child, 'error')) as [NodeJS.ErrnoException]
    await eventually(
      () => events,
      (seen) => seen.includes('close'),
      1000,
    )
    t.false(events.includes('spawn'))
    t.false(events.includes('exit'))
    t.is(events.filter((name) => name === 'error').length, 1)
    t.is(child.pid, undefined)
    t.is(error.errno, -2)
    if (!node) t.like(error, { code: 'ERR_ROOTFS_EXEC', errnoName: 'ENOENT' })
  },
)

same("an 'error' that nobody listens to is an uncaught exception", async (t, { node }) => {
  const program = node
    ? `require('node:child_process').spawn('/no/such/command')`
    : `import('rootfs').then(({ Rootfs }) => Rootfs.empty().spawn('/no/such/command'))`
  const { exitCode, stderr } = await runProgram(process.execPath, ['-e', program], { cwd: checkout })
  t.is(exitCode, 1)
  t.regex(stderr, /ENOENT/)
})

same(
  'listeners that are added in time hear everything, in the same tick or after a promise',
  async (t, { spawn }) => {
    const child = spawn(...sh('exit 2'))
    await Promise.resolve()
    const spawned = once(child, 'spawn')
    const exit = once(child, 'exit')
    const close = closed(child)
    await spawned
    t.deepEqual(await exit, [2, null])
    t.deepEqual(await close, [2, null])
  },
)

same('listeners that are added after the end hear nothing, and the properties tell', async (t, { spawn }) => {
  const child = spawn(...sh('exit 4'))
  child.stdout!.resume()
  child.stderr!.resume()
  await closed(child)
  let late = false
  for (const name of ['spawn', 'exit', 'close', 'error']) child.once(name, () => (late = true))
  await delay(20)
  t.false(late)
  t.is(child.exitCode, 4)
})

same('pid is there from the spawn event on, and stays', async (t, { spawn }) => {
  const child = spawn(...sh('exit 0'))
  await once(child, 'spawn')
  const { pid } = child
  t.true(Number.isInteger(pid))
  await closed(child)
  t.is(child.pid, pid)
})

ours('pid is undefined until the spawn event', async (t, { spawn }) => {
  const child = spawn(...sh('exit 0'))
  t.is(child.pid, undefined)
  await closed(child)
  t.true(Number.isInteger(child.pid))
})

same('spawnfile and spawnargs are the command as it was given', async (t, { spawn }) => {
  const child = spawn('/bin/sh', ['-c', 'exit 0'])
  t.is(child.spawnfile, '/bin/sh')
  t.deepEqual(child.spawnargs, ['/bin/sh', '-c', 'exit 0'])
  await closed(child)
})

// ---------------------------------------------------------------- kill

same('kill sends SIGTERM, answers true and sets killed', async (t, { spawn }) => {
  const child = spawn(...sh('trap "exit 9" TERM; echo ready; while :; do sleep 0.02; done'))
  await once(child.stdout!, 'data')
  t.false(child.killed)
  t.true(child.kill())
  t.true(child.killed)
  t.deepEqual(await closed(child), [9, null])
})

same('kill by number is kill by name', async (t, { spawn }) => {
  const child = spawn(...sh('trap "exit 5" USR1; echo ready; while :; do sleep 0.02; done'))
  await once(child.stdout!, 'data')
  t.true(child.kill(10))
  t.deepEqual(await closed(child), [5, null])
})

same('killed says that a signal was sent, and not that the command has ended', async (t, { spawn }) => {
  const child = spawn(...sh('trap "" TERM; echo ready; read line; exit 6'))
  await once(child.stdout!, 'data')
  t.true(child.kill('SIGTERM'))
  t.true(child.killed)
  t.is(child.exitCode, null)
  child.stdin!.end('\n')
  t.deepEqual(await closed(child), [6, null])
})

same('kill answers false when the command has ended', async (t, { spawn }) => {
  const child = spawn(...sh('exit 0'))
  await once(child, 'exit')
  t.false(child.kill())
  t.false(child.kill('SIGKILL'))
  t.false(child.killed)
})

same('kill(0) asks whether it is there', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  t.true(child.kill(0))
  t.is(child.exitCode, null)
  const end = closed(child)
  child.kill('SIGKILL')
  await end
  t.false(child.kill(0))
})

ours('kill(0) sends nothing and leaves killed as it was', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  t.true(child.kill(0))
  t.false(child.killed)
  const end = closed(child)
  child.kill('SIGKILL')
  await end
})

same('an unknown signal is refused', async (t, { node, spawn }) => {
  const child = spawn('/bin/sleep', ['1000'])
  await once(child, 'spawn')
  t.throws(() => child.kill('SIGNOTHING' as NodeJS.Signals), {
    instanceOf: TypeError,
    code: node ? 'ERR_UNKNOWN_SIGNAL' : 'ERR_INVALID_ARG_VALUE',
  })
  const end = closed(child)
  child.kill('SIGKILL')
  t.deepEqual(await end, [null, 'SIGKILL'])
})

ours('a kill before the process is there is queued', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'])
  t.is(child.pid, undefined)
  t.true(child.kill('SIGKILL'))
  t.true(child.killed)
  const failures: unknown[] = []
  child.on('error', (error) => failures.push(error))
  const exit = once(child, 'exit')
  t.deepEqual(await closed(child), [null, 'SIGKILL'])
  t.deepEqual(await exit, [null, 'SIGKILL'])
  t.is(child.signalCode, 'SIGKILL')
  t.deepEqual(failures, [])
})

testHere('SIGKILL ends the preparation too', async (t) => {
  const rootfs = (await root()).hook('createRuntime', { path: '/bin/sleep', args: ['sleep', '30'] })
  const child = rootfs.spawn('/bin/true')
  const failures: unknown[] = []
  child.on('error', (error) => failures.push(error))
  const begin = performance.now()
  t.true(child.kill('SIGTERM'))
  await delay(200)
  t.is(child.exitCode, null)
  t.true(child.kill('SIGKILL'))
  t.deepEqual(await closed(child), [null, 'SIGKILL'])
  t.deepEqual(failures, [])
  t.true(performance.now() - begin < 10_000)
})

// ---------------------------------------------------------------- streams

same('stdio is one pipe each unless something else is said', async (t, { spawn }) => {
  const child = spawn('/bin/cat')
  t.is(child.stdio.length, 3)
  t.is(child.stdin, child.stdio[0] as Writable)
  t.is(child.stdout, child.stdio[1] as Readable)
  t.is(child.stderr, child.stdio[2] as Readable)
  const output = text(child.stdout!)
  child.stdin!.end('through a pipe')
  t.is(await output, 'through a pipe')
})

same(
  "null and undefined in stdio mean 'pipe' for the standard three and 'ignore' beyond",
  async (t, { node, spawn }) => {
    const child = spawn('/bin/ls', ['-1', '/proc/self/fd'], {
      stdio: [null, undefined, 'ignore', undefined, null],
    })
    t.truthy(child.stdin)
    t.truthy(child.stdout)
    t.is(child.stdio.length, 5)
    t.deepEqual(child.stdio.slice(2), [null, null, null])
    child.stdin!.end()
    // The last is the directory that ls reads. Node gives on what it has inherited itself.
    const open = (await text(child.stdout!)).trim().split('\n')
    t.deepEqual(node ? open.filter((fd) => Number(fd) < 10) : open, ['0', '1', '2', '3'])
  },
)

same("'ignore' is the null device, and its stream is null", async (t, { spawn }) => {
  const script = 'for fd in 0 2; do readlink /proc/self/fd/$fd; done'
  const child = spawn(...sh(script), { stdio: ['ignore', 'pipe', 'ignore'] })
  t.is(child.stdin, null)
  t.is(child.stderr, null)
  t.is(await text(child.stdout!), '/dev/null\n/dev/null\n')
})

same('one word for stdio is for all three', async (t, { spawn }) => {
  const child = spawn(...sh('exit 0'), { stdio: 'ignore' })
  t.deepEqual(child.stdio, [null, null, null])
  t.deepEqual(await closed(child), [0, null])
})

same('a file descriptor in stdio is the one of the command', async (t, { spawn }) => {
  const path = join(host.scratch('stdio'), 'output')
  const fd = openSync(path, 'w')
  const child = spawn(...sh('echo out; echo err >&2'), { stdio: ['ignore', fd, fd] })
  closeSync(fd)
  t.deepEqual(await closed(child), [0, null])
  t.is(readFileSync(path, 'utf8'), 'out\nerr\n')
})

same('descriptors beyond the standard three have the number of their place', async (t, { node, spawn }) => {
  const path = join(host.scratch('stdio'), 'input')
  const fd = openSync(path, 'w+')
  t.teardown(() => closeSync(fd))
  const script = 'echo three >&3; echo five >&5; ls -1 /proc/$$/fd; true'
  const child = spawn(...sh(script), { stdio: ['ignore', 'pipe', 'pipe', fd, 'ignore', 'pipe'] })
  t.is(child.stdio.length, 6)
  t.is(child.stdio[3], null)
  t.is(child.stdio[4], null)
  const [out, five] = await Promise.all([
    text(child.stdout!),
    text(child.stdio[5] as Readable),
    closed(child),
  ])
  t.is(five, 'five\n')
  const open = out.trim().split('\n')
  t.deepEqual(
    node ? open.filter((fd) => Number(fd) < 10) : open,
    ['0', '1', '2', '3', '5'],
    'and nothing else',
  )
  t.is(readFileSync(path, 'utf8'), 'three\n')
})

same('a pipe beyond the standard three goes both ways', async (t, { spawn }) => {
  const child = spawn(...sh('while read line <&3; do echo "got $line" >&3; done; exit 0'), {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  })
  const pipe = child.stdio[3] as Duplex
  pipe.write('one\n')
  const [first] = (await once(pipe, 'data')) as [Buffer]
  t.is(first.toString(), 'got one\n')
  pipe.end('two\n')
  const rest = await text(pipe)
  t.is(rest, 'got two\n')
  t.deepEqual(await closed(child), [0, null])
})

same("'inherit' is the caller's own stream", async (t, { node }) => {
  const options = `{ stdio: ['inherit', 'inherit', 'inherit', 'inherit'] }`
  const script = `'read line; echo "out $line"; echo err >&2; echo three >&3'`
  const program = node
    ? `require('node:child_process').spawn('/bin/sh', ['-c', ${script}], ${options})`
    : `import('rootfs').then(({ Rootfs }) =>
        new Rootfs(process.argv[1]).defaults().spawn('/bin/sh', ['-c', ${script}], ${options}))`
  const args = ['-c', 'exec "$@" 3>&1', 'sh', process.execPath, '-e', program, await image!]
  const child = nodeSpawn('/bin/sh', args, { cwd: checkout })
  child.stdin.end('line\n')
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)])
  t.is(out, 'out line\nthree\n')
  t.is(err, 'err\n')
})

same('more than a pipe holds is held back until it is read, and all of it comes', async (t, { spawn }) => {
  const size = 8 * 1024 * 1024
  const child = spawn('/bin/sh', ['-c', `head -c ${size} /dev/zero`])
  const end = closed(child)
  await once(child, 'spawn')
  await delay(200)
  t.is(child.exitCode, null, 'it waits for its reader')
  let received = 0
  for await (const chunk of child.stdout!) received += (chunk as Buffer).length
  t.is(received, size)
  t.deepEqual(await end, [0, null])
})

same('output that nobody reads is thrown away at the end and holds nothing back', async (t, { spawn }) => {
  const child = spawn(...sh('echo out; echo err >&2; exit 3'))
  t.deepEqual(await closed(child), [3, null])
})

same('a paused reader gets all of it after the end', async (t, { spawn }) => {
  const child = spawn(...sh('echo some text'))
  const end = closed(child)
  child.stdout!.on('readable', () => {})
  await once(child, 'exit')
  await delay(50)
  t.is((child.stdout!.read() as Buffer).toString(), 'some text\n')
  child.stdout!.removeAllListeners('readable')
  child.stdout!.resume()
  t.deepEqual(await end, [0, null])
})

same('setEncoding makes strings of what it writes', async (t, { spawn }) => {
  const child = spawn(...sh('printf gr; sleep 0.05; printf "\\303"; sleep 0.05; printf "\\274\\303\\237e"'))
  let received = ''
  child.stdout!.setEncoding('utf8')
  child.stdout!.on('data', (chunk: string) => (received += chunk))
  await closed(child)
  t.is(received, 'grüße')
})

same(
  'writing to a command that does not read is EPIPE on stdin, and no error of the command',
  async (t, { spawn }) => {
    const child = spawn(...sh('exec <&-; echo closed; sleep 0.3; exit 0'))
    await once(child.stdout!, 'data')
    const failed = once(child.stdin!, 'error') as Promise<[NodeJS.ErrnoException]>
    child.stdin!.write('nobody reads this')
    t.is((await failed)[0].code, 'EPIPE')
    t.deepEqual(await closed(child), [0, null])
  },
)

same('stdin is destroyed when the command ends', async (t, { spawn }) => {
  const child = spawn(...sh('exit 0'))
  await once(child, 'exit')
  t.true(child.stdin!.destroyed)
})

same('ending stdin is the end of the input', async (t, { spawn }) => {
  const child = spawn('/bin/cat')
  child.stdin!.end()
  t.deepEqual(await closed(child), [0, null])
})

same('destroying stdout is SIGPIPE or EPIPE for the command', async (t, { spawn }) => {
  const child = spawn('/bin/cat', ['/dev/zero'])
  await once(child.stdout!, 'data')
  child.stdout!.destroy()
  const [code, signal] = await closed(child)
  t.true(signal === 'SIGPIPE' || (code ?? 0) > 0, `${code} ${signal}`)
})

// ---------------------------------------------------------------- timeout and AbortSignal

same('a timeout kills with killSignal', async (t, { spawn }) => {
  const child = spawn(...sh('trap "exit 8" INT; echo ready; while :; do sleep 0.02; done'), {
    timeout: 700,
    killSignal: 'SIGINT',
  })
  t.deepEqual(await closed(child), [8, null])
  t.true(child.killed)
})

same('a command that ends before its timeout is left alone', async (t, { spawn }) => {
  const child = spawn(...sh('exit 1'), { timeout: 5000 })
  t.deepEqual(await closed(child), [1, null])
  t.false(child.killed)
})

ours('the default of killSignal is SIGKILL', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'], { timeout: 300 })
  t.deepEqual(await closed(child), [null, 'SIGKILL'])
})

same(
  'an abort is an AbortError with its reason as cause, and the command is killed',
  async (t, { spawn }) => {
    const controller = new AbortController()
    const child = spawn('/bin/sleep', ['1000'], { signal: controller.signal, killSignal: 'SIGKILL' })
    const events = record(child)
    await once(child, 'spawn')
    const reason = new Error('no longer wanted')
    const failed = once(child, 'error') as Promise<[Error]>
    const end = closed(child)
    controller.abort(reason)
    const [error] = await failed
    t.like(error, { name: 'AbortError', code: 'ABORT_ERR', message: 'The operation was aborted' })
    t.is(error.cause, reason)
    t.deepEqual(await end, [null, 'SIGKILL'])
    t.true(child.killed)
    t.deepEqual(
      events.filter((name) => !name.startsWith('std')),
      ['spawn', 'error', 'exit', 'close'],
    )
  },
)

same('an abort after the end does nothing', async (t, { spawn }) => {
  const controller = new AbortController()
  const child = spawn(...sh('exit 0'), { signal: controller.signal })
  t.deepEqual(await closed(child), [0, null])
  child.once('error', () => t.fail('an error after the end'))
  controller.abort()
  await delay(20)
  t.false(child.killed)
})

same('a signal that is aborted before is an AbortError', async (t, { spawn }) => {
  const reason = new Error('never wanted')
  const child = spawn('/bin/sleep', ['1000'], { signal: AbortSignal.abort(reason), killSignal: 'SIGKILL' })
  const end = closed(child)
  const [error] = (await once(child, 'error')) as [Error]
  t.is(error.name, 'AbortError')
  t.is(error.cause, reason)
  await end
})

ours('a signal that is aborted before begins nothing', async (t, { spawn }) => {
  const child = spawn('/bin/sleep', ['1000'], { signal: AbortSignal.abort() })
  const events = record(child)
  child.on('error', () => {})
  t.deepEqual(await closed(child), [null, null])
  t.is(child.pid, undefined)
  t.deepEqual(
    events.filter((name) => !name.startsWith('std')),
    ['error', 'close'],
  )
})

// ---------------------------------------------------------------- the environment and the lifetime

same('an undefined value in env is left out', async (t, { spawn }) => {
  const env = { PATH: '/bin:/usr/bin', SET: 'yes', UNSET: undefined } as unknown as Record<string, string>
  const child = spawn(...sh('echo "$SET $(printenv UNSET || echo unset)"'), { env })
  t.is(await text(child.stdout!), 'yes unset\n')
})

ours('nothing of the environment is inherited', async (t, { spawn }) => {
  process.env.ROOTFS_TEST_INHERITED = 'secret'
  t.teardown(() => delete process.env.ROOTFS_TEST_INHERITED)
  const child = spawn('env')
  t.is(
    (await text(child.stdout!)).trim(),
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  )
})

same('unref lets Node end while the command runs', async (t, { node }) => {
  const begin = node
    ? `const child = require('node:child_process').spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })`
    : `const { Rootfs } = await import('rootfs')
       const child = new Rootfs(process.argv[1]).defaults().spawn('/bin/sleep', ['1000'], { stdio: 'ignore' })`
  const program = `(async () => {
    ${begin}
    await new Promise((resolve) => child.once('spawn', resolve))
    console.log(child.pid)
    child.unref()
  })()`
  const { exitCode, stdout } = await runProgram(process.execPath, ['-e', program, await image!], {
    cwd: checkout,
    timeout: 20_000,
  })
  t.is(exitCode, 0)
  const pid = Number(stdout)
  if (node) process.kill(pid, 'SIGKILL')
  // Ours ends with Node: see the table.
  const state = await eventually(
    () => processInfo(pid)?.state ?? 'gone',
    (now) => now === 'gone' || now === 'Z',
  )
  t.true(state === 'gone' || state === 'Z', state)
})

same('ref takes unref back', async (t, { node }) => {
  const begin = node
    ? `const child = require('node:child_process').spawn('/bin/sleep', ['0.3'], { stdio: 'ignore' })`
    : `const { Rootfs } = await import('rootfs')
       const child = new Rootfs(process.argv[1]).defaults().spawn('/bin/sleep', ['0.3'], { stdio: 'ignore' })`
  const program = `(async () => {
    ${begin}
    child.unref()
    child.ref()
    child.once('exit', (code) => console.log('ended', code))
  })()`
  const { stdout } = await runProgram(process.execPath, ['-e', program, await image!], { cwd: checkout })
  t.is(stdout, 'ended 0\n')
})

ours('await using kills the command and waits for its end', async (t, { spawn }) => {
  let pid: number | undefined
  {
    await using child = spawn('/bin/sleep', ['1000']) as Child & AsyncDisposable
    await once(child, 'spawn')
    pid = child.pid
  }
  t.is(processInfo(pid!), undefined)
})

ours("'ipc', 'overlapped' and stream objects in stdio are refused at the call", async (t, { spawn }) => {
  for (const wrong of ['ipc', 'overlapped', process.stdout, {}]) {
    const stdio = ['ignore', 'ignore', 'ignore', wrong] as unknown as 'pipe'[]
    const error = t.throws(() => spawn('/bin/true', [], { stdio }), { instanceOf: TypeError })
    t.regex((error as NodeJS.ErrnoException).code!, /^ERR_INVALID_ARG_/)
    t.regex(error!.message, /stdio\[3\]/)
  }
})

ours('options of child_process that have no meaning here are refused by name', async (t, { spawn }) => {
  for (const name of ['shell', 'detached', 'uid', 'gid', 'argv0', 'serialization', 'windowsHide']) {
    t.throws(() => spawn('/bin/true', [], { [name]: 1 } as Options), { message: new RegExp(name) })
  }
})

ours('a wrong argument is thrown by the call, and what fails later is an event', async (t, { spawn }) => {
  t.throws(() => spawn('/bin/true', 'text' as unknown as string[]), { code: 'ERR_INVALID_ARG_TYPE' })
  t.throws(() => spawn('/bin/tr\0ue'), { code: 'ERR_INVALID_ARG_VALUE' })
  t.throws(() => spawn('/bin/true', [], { timeout: -1 }), { code: 'ERR_OUT_OF_RANGE' })
  const [error] = (await once(spawn('no-such-command'), 'error')) as [unknown]
  t.true(error instanceof RootfsError)
})

// ---------------------------------------------------------------- run, beside execFile

const runners = async () => {
  const rootfs = await root()
  box ??= rootfs.prepare()
  return [rootfs, await box] as const
}

for (const name of ['stdout', 'stderr'] as const) {
  const title = `${name} beyond maxBuffer is ERR_CHILD_PROCESS_STDIO_MAXBUFFER, with what came before`
  titles.add(title)
  testHere(title, async (t) => {
    const script = `head -c 100000 /dev/zero ${name === 'stderr' ? '>&2' : ''}; exec sleep 1000`
    for (const runner of await runners()) {
      const error = await t.throwsAsync(runner.run(...sh(script), { maxBuffer: 1000 }), {
        instanceOf: RangeError,
        code: 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER',
        message: `${name} maxBuffer length exceeded`,
      })
      t.is((error as unknown as Record<string, string>)[name]?.length, 1000)
    }
    const { execFile } = await import('node:child_process')
    const { promisify } = await import('node:util')
    const error = await t.throwsAsync(promisify(execFile)(...sh(script), { maxBuffer: 1000 }), {
      instanceOf: RangeError,
      code: 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER',
      message: `${name} maxBuffer length exceeded`,
    })
    t.is((error as unknown as Record<string, string>)[name]?.length, 1000)
  })
}

function oursRun(
  title: string,
  check: (t: ExecutionContext, runner: Rootfs | PreparedRootfs) => Promise<void>,
) {
  titles.add(title)
  testHere(title, async (t) => {
    for (const runner of await runners()) await check(t, runner)
  })
}

oursRun('run resolves whatever the exit status is', async (t, runner) => {
  t.like(await runner.run(...sh('echo out; exit 3')), { exitCode: 3, signal: null, stdout: 'out\n' })
})

oursRun('input is written to stdin, which is then closed', async (t, runner) => {
  t.is((await runner.run('/bin/cat', [], { input: 'given\n' })).stdout, 'given\n')
})

oursRun('encoding is utf8, another one, or buffer', async (t, runner) => {
  t.is((await runner.run(...sh('printf "\\303\\274"'))).stdout, 'ü')
  t.is((await runner.run(...sh('printf "\\303\\274"'), { encoding: 'hex' })).stdout, 'c3bc')
  t.deepEqual((await runner.run(...sh('printf x'), { encoding: 'buffer' })).stdout, Buffer.from('x'))
})

oursRun('a further pipe is refused in run', async (t, runner) => {
  await t.throwsAsync(runner.run('/bin/true', [], { stdio: ['pipe', 'pipe', 'pipe', 'pipe'] }), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /stdio\[3\]/,
  })
})

oursRun('a descriptor is passed on in run too', async (t, runner) => {
  const path = join(host.scratch('stdio'), 'passed')
  const fd = openSync(path, 'w')
  try {
    const stdio = ['pipe', 'pipe', 'pipe', 'ignore', fd] as const
    t.is((await runner.run(...sh('ls -1 /proc/$$/fd; echo x >&4'), { stdio })).stdout, '0\n1\n2\n4\n')
  } finally {
    closeSync(fd)
  }
  t.is(readFileSync(path, 'utf8'), 'x\n')
})

oursRun('two hundred descriptors are passed, and a failure is told all the same', async (t, runner) => {
  const fd = openSync('/dev/null', 'r')
  try {
    const stdio = ['ignore', 'pipe', 'pipe', ...Array.from({ length: 197 }, () => fd)] as const
    const { stdout } = await runner.run(...sh('ls -1 /proc/$$/fd; true'), { stdio: [...stdio] })
    t.is(stdout.trim().split('\n').length, 200)
    await t.throwsAsync(runner.run('/no/such/command', [], { stdio: [...stdio] }), {
      instanceOf: RootfsError,
      code: 'ERR_ROOTFS_EXEC',
    })
  } finally {
    closeSync(fd)
  }
})

// ---------------------------------------------------------------- the table

test('each behaviour in docs/child-process.md has its test', (t) => {
  const document = readFileSync(join(checkout, 'docs', 'child-process.md'), 'utf8')
  const rows = document
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .slice(2)
    .map((line) => line.split('|').map((cell) => cell.trim()))
  t.true(rows.length > 30, `${rows.length} rows`)
  const named = new Set<string>()
  for (const [, behaviour = '', verdict = '', test = ''] of rows) {
    t.true(/^(same|differs: .{10,})/.test(verdict), `${behaviour}: ${verdict}`)
    for (const title of test.split('<br>').map((one) => one.replaceAll('`', ''))) {
      t.true(titles.has(title), `"${title}" is a test`)
      named.add(title)
    }
  }
  t.deepEqual(
    [...titles].filter((title) => !named.has(title)),
    [],
    'and each test its row',
  )
})
