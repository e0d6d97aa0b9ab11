// util.inspect of plans, prepared roots and errors: worth reading, with the colors and the depth that were asked for.
import { once } from 'node:events'
import { join } from 'node:path'
import { inspect, stripVTControlCharacters } from 'node:util'
import test from 'ava'
import { Rootfs, RootfsError } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])
const plain = { colors: false }

/** Without trailing blanks in what is expected and the first line break. */
const text = (lines: string): string => lines.replace(/^\n/, '').replace(/\n\s*$/, '')

function failure(): RootfsError {
  const error = new (RootfsError as unknown as new (data: object) => RootfsError)({
    code: 'ERR_ROOTFS_MOUNT',
    message:
      'step 3 (mount tmpfs on /data): the option "x" is refused: fsconfig(5): Invalid argument (EINVAL)',
    step: { type: 'mount', index: 3, source: 'tmpfs', destination: '/data', flags: ['tmpfs', 'x'] },
    syscall: 'fsconfig',
    errno: -22,
    errnoName: 'EINVAL',
    source: 'tmpfs',
    destination: '/data',
    resolved: '/real/data',
    flags: ['tmpfs', 'x'],
    kernelLog: ['tmpfs: Unknown parameter', 'and more'],
    hint: 'leave it out',
  })
  error.stack = `RootfsError [ERR_ROOTFS_MOUNT]: ${error.message}\n    at somewhere`
  return error
}

test('an error: the stack, then what is known, in columns', (t) => {
  t.is(
    inspect(failure(), plain),
    text(`
RootfsError [ERR_ROOTFS_MOUNT]: step 3 (mount tmpfs on /data): the option "x" is refused: fsconfig(5): Invalid argument (EINVAL)
    at somewhere
  code      ERR_ROOTFS_MOUNT
  step      3 mount tmpfs on /data
  syscall   fsconfig EINVAL (-22)
  resolved  /real/data
  flags     tmpfs,x
  kernel    tmpfs: Unknown parameter
  kernel    and more
  hint      leave it out
`),
  )
})

test('an error with a cause and a property of somebody else', (t) => {
  const error = Object.assign(failure(), { extra: { a: 1 }, cause: new TypeError('why') })
  const shown = inspect(error, plain)
  t.regex(shown, /\n {2}extra {5}\{ a: 1 \}\n {2}hint/)
  t.regex(shown, /\n {2}\[cause\]: TypeError: why\n/)
})

test('an error that is nested is indented', (t) => {
  t.regex(
    inspect({ error: failure() }, plain),
    /^\{\n {2}error: RootfsError .*\n {6}at somewhere\n {4}code {6}ERR/,
  )
})

test('colors are those of util.inspect, and only where they are asked for', (t) => {
  const shown = inspect(failure(), { colors: true })
  t.is(stripVTControlCharacters(shown), inspect(failure(), plain))
  const [red] = inspect.colors[inspect.styles.string]!
  t.true(shown.includes(`\u001b[${red}mERR_ROOTFS_MOUNT\u001b[`))
})

test('what is too deep is only named', (t) => {
  t.is(inspect({ a: { error: failure() } }, { ...plain, depth: 0 }), '{ a: [Object] }')
  t.is(inspect({ error: failure() }, { ...plain, depth: 0 }), '{ error: [RootfsError ERR_ROOTFS_MOUNT] }')
  t.is(inspect({ plan: Rootfs.empty().plan() }, { ...plain, depth: 0 }), '{ plan: [Plan] }')
  t.is(inspect({ plan: Rootfs.empty().plan() }, { ...plain, depth: 1 }), '{ plan: [Plan of 4 steps] }')
})

test('a plan: a table', (t) => {
  const plan = Rootfs.empty().tmpfs('/tmp', { size: '1m' }).plan()
  t.is(
    inspect(plan, plain),
    text(`
Plan of 5 steps
  0  namespaces               user?,mount,pid,ipc,uts,cgroup
  1  root        /     tmpfs  mode=755,rslave
  2  mount       /tmp  tmpfs  tmpfs,nosuid,nodev,size=1048576
  3  pivot
  4  verify
`),
  )
  t.is(stripVTControlCharacters(inspect(plan, { colors: true })), inspect(plan, plain))
  t.not(inspect(plan, { colors: true }), inspect(plan, plain))
})

test('a plan with warnings', (t) => {
  const plan = Rootfs.empty().tmpfs('/a/b').tmpfs('/a').plan()
  t.is(plan.warnings.length, 1)
  const shown = inspect(plan, plain)
  t.true(shown.startsWith(`Plan of ${plan.steps.length} steps, 1 warning\n`))
  t.regex(shown, /\n {2}warning {2}hidden-mount: .* \(step \d+\)$/)
})

testHere('a prepared root: its state, and what one should know', async (t) => {
  const image = await busyboxImage(join(host.scratch('image'), 'image'))
  const box = await new Rootfs(image).defaults().bind('/no/such', '/data', { optional: true }).prepare()
  const pattern = (state: string) =>
    new RegExp(
      [
        '^PreparedRootfs',
        `  state     ${state}`,
        `  pid       ${box.pid}`,
        '  steps     \\d+ in [\\d.]+ ms',
        '  commands  0',
        '  skipped   \\d+ mount /no/such on /data$',
      ].join('\n'),
    )
  t.regex(inspect(box, plain), pattern('open'))
  t.is(inspect({ box }, { ...plain, depth: 0 }), '{ box: [PreparedRootfs] }')
  await box.close()
  t.regex(inspect(box, plain), pattern('closed'))
})

test('a builder: its root, and how much is put into it', (t) => {
  t.is(
    inspect(new Rootfs('/srv/image').tmpfs('/a').directory('/b'), plain),
    'Rootfs\n  root     /srv/image\n  content  2',
  )
  t.is(
    inspect(Rootfs.overlay({ lower: ['/a', '/b'] }), plain),
    'Rootfs\n  root     overlay of /a:/b\n  content  0',
  )
  t.is(inspect(Rootfs.empty(), plain), 'Rootfs\n  root     empty\n  content  0')
  t.is(inspect([[[new Rootfs('/')]]], { ...plain, depth: 2 }), '[ [ [ [Rootfs] ] ] ]')
  t.is(inspect(Rootfs.prototype, plain), 'Rootfs {}')
})

testHere('a command: what it is, and how it is going', async (t) => {
  const image = await busyboxImage(join(host.scratch('image'), 'image'))
  const child = new Rootfs(image).defaults().spawn('/bin/sh', ['-c', 'read x; exit 3'])
  t.is(
    inspect(child, plain),
    'ContainerProcess\n  command  ["/bin/sh","-c","read x; exit 3"]\n  state    starting',
  )
  await once(child, 'spawn')
  t.regex(inspect(child, plain), new RegExp(`\n  state    running\n  pid      ${child.pid}$`))
  child.stdin!.end('\n')
  await once(child, 'close')
  t.regex(inspect(child, plain), /\n {2}state {5}closed\n {2}pid {7}\d+\n {2}exitCode {2}3$/)
})
