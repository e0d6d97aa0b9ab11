// NODE_DEBUG=rootfs, and the channels of node:diagnostics_channel.
import { execFile } from 'node:child_process'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { type ContainerProcess, Rootfs, RootfsError } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])
const execute = promisify(execFile)

const image = (): Promise<string> => busyboxImage(join(host.scratch('image'), 'image'))

type Message = Record<string, unknown>

/** What is told on a tracing channel until the test ends. */
function listen(t: ExecutionContext, name: string): Array<[event: string, message: Message]> {
  const heard: Array<[string, Message]> = []
  const listener = (event: string) => (message: unknown) => {
    heard.push([event, message as Message])
  }
  const channel = diagnostics.tracingChannel(name)
  const listeners = {
    start: listener('start'),
    end: listener('end'),
    asyncStart: listener('asyncStart'),
    asyncEnd: listener('asyncEnd'),
    error: listener('error'),
  }
  channel.subscribe(listeners)
  t.teardown(() => channel.unsubscribe(listeners))
  return heard
}

function listenToSteps(t: ExecutionContext): Message[] {
  const heard: Message[] = []
  const listener = (message: unknown): void => void heard.push(message as Message)
  diagnostics.subscribe('rootfs:step', listener)
  t.teardown(() => diagnostics.unsubscribe('rootfs:step', listener))
  return heard
}

const events = (heard: Array<[string, Message]>): string[] => heard.map(([event]) => event)

testHere('rootfs:run tells the call, its result, and its steps', async (t) => {
  const heard = listen(t, 'rootfs:run')
  const steps = listenToSteps(t)
  const rootfs = new Rootfs(await image()).defaults()
  const result = await rootfs.run('/bin/echo', ['hello'], { timeout: 60_000 })
  t.is(result.stdout, 'hello\n')
  t.deepEqual(events(heard), ['start', 'end', 'asyncStart', 'asyncEnd'])
  const call = heard[0]![1]
  t.true(heard.every(([, message]) => message === call))
  t.like(call, { rootfs, command: '/bin/echo', args: ['hello'], options: { timeout: 60_000 }, result })
  t.is(steps.length, rootfs.plan().steps.length)
  t.true(steps.every((message) => message.call === call))
  t.like(steps[0], { step: { type: 'namespaces', index: 0 } })
})

testHere('an onStep that was given is still called, and what was given is not changed', async (t) => {
  const steps = listenToSteps(t)
  const own: unknown[] = []
  const options = Object.freeze({ onStep: (step: unknown) => void own.push(step) })
  await new Rootfs(await image()).defaults().run('/bin/true', [], options)
  t.deepEqual(
    own,
    steps.map(({ step }) => step),
  )
  t.true(own.length > 0)
})

testHere('rootfs:prepare, and commands in what was prepared', async (t) => {
  const [prepares, runs, steps] = [listen(t, 'rootfs:prepare'), listen(t, 'rootfs:run'), listenToSteps(t)]
  await using box = await new Rootfs(await image()).defaults().prepare()
  t.deepEqual(events(prepares), ['start', 'end', 'asyncStart', 'asyncEnd'])
  t.is(prepares[0]![1].result, box)
  t.is(steps.length, box.steps.length)
  await box.run('/bin/true')
  t.deepEqual(events(runs), ['start', 'end', 'asyncStart', 'asyncEnd'])
  t.is(runs[0]![1].prepared, box)
  t.is(steps.length, box.steps.length, 'a command makes no steps')
  t.not(runs[0]![1].id, prepares[0]![1].id)
})

testHere('rootfs:spawn tells the close of the process', async (t) => {
  const heard = listen(t, 'rootfs:spawn')
  const child = new Rootfs(await image()).defaults().spawn('/bin/sh', ['-c', 'exit 3'])
  t.deepEqual(events(heard), ['start', 'end'])
  t.is(heard[0]![1].result as ContainerProcess, child)
  await once(child, 'close')
  t.deepEqual(events(heard), ['start', 'end', 'asyncStart', 'asyncEnd'])
  t.like(heard[0]![1], { exitCode: 3, signal: null })
})

testHere('failures are told, and still reach the caller', async (t) => {
  const [runs, spawns] = [listen(t, 'rootfs:run'), listen(t, 'rootfs:spawn')]
  const rootfs = new Rootfs(await image()).defaults()
  const error = await t.throwsAsync(rootfs.run('/no/such'), { instanceOf: RootfsError })
  t.deepEqual(events(runs), ['start', 'end', 'error', 'asyncStart', 'asyncEnd'])
  t.is(runs[0]![1].error, error)
  t.regex(error?.stack ?? '', /diagnostics\.spec/)
  const child = rootfs.spawn('/no/such')
  const [emitted] = (await once(child, 'error')) as [Error]
  await once(child, 'close')
  t.is(spawns.find(([event]) => event === 'error')?.[1].error, emitted)
  t.throws(() => rootfs.spawn(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  t.is(events(spawns).at(-1), 'end')
  t.is(events(spawns).filter((event) => event === 'error').length, 2)
})

testHere("an 'error' nobody listens to is still uncaught", async (t) => {
  const program = `
    import diagnostics from 'node:diagnostics_channel'
    import { Rootfs } from 'rootfs'
    diagnostics.tracingChannel('rootfs:spawn').subscribe({ error() {} })
    new Rootfs('/no/such/root').spawn('/bin/true')
    setTimeout(() => {}, 10_000)
  `
  const failure = await t.throwsAsync<Error & { stderr: string }>(
    execute(process.execPath, ['--input-type=module', '--eval', program], { cwd: checkout }),
  )
  t.regex(failure!.stderr, /RootfsError \[ERR_ROOTFS_ROOT\]/)
})

testHere('NODE_DEBUG=rootfs writes each call, each step, and each end', async (t) => {
  const program = `
    import { Rootfs } from 'rootfs'
    const rootfs = new Rootfs(${JSON.stringify(await image())}).defaults()
    await rootfs.run('/bin/true')
    const box = await rootfs.prepare()
    await box.run('/bin/sh', ['-c', 'exit 4'])
    await box.run('/no/such').catch(() => {})
    await box.close()
  `
  const options = { cwd: checkout, env: { ...process.env, NODE_DEBUG: 'rootfs' } }
  const { stderr } = await execute(process.execPath, ['--input-type=module', '--eval', program], options)
  for (const line of [
    /^ROOTFS \d+: run #1 begins: \/bin\/true$/m,
    /^ROOTFS \d+: run #1 step 2 mount proc on \/proc: [\d.]+ µs$/m,
    /^ROOTFS \d+: run #1 step \d+ pivot \((stub-namespace|pivot_root|move)\): [\d.]+ µs$/m,
    /^ROOTFS \d+: run #1 ends after [\d.]+ ms: exit status 0$/m,
    /^ROOTFS \d+: prepare #2 begins$/m,
    /^ROOTFS \d+: prepare #2 ends after [\d.]+ ms: pid \d+$/m,
    /^ROOTFS \d+: run #3 ends after [\d.]+ ms: exit status 4$/m,
    /^ROOTFS \d+: run #4 failed after [\d.]+ ms: RootfsError/m,
  ]) {
    t.regex(stderr, line)
  }
})

testHere('who does not watch gets no steps reported', async (t) => {
  const program = `
    import { Rootfs } from 'rootfs'
    await new Rootfs(${JSON.stringify(await image())}).defaults().run('/bin/true')
  `
  const { stderr, stdout } = await execute(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: checkout,
  })
  t.is(stdout + stderr, '')
})
