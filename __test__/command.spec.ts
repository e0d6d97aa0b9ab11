// The command `rootfs`, as a shell sees it: streams, exit status, signals, and what it says.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { cells, openDirectory, readableCheckout } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { type Finished, mustRun, type ProgramOptions, runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const bin = join(checkout, 'dist', 'cli.js')

const rootfs = (args: string[], options: ProgramOptions = {}): Promise<Finished> =>
  runProgram(process.execPath, [bin, ...args], options)

/** Runs a shell script on the host's programs. */
const onHost = (options: string[], script: string, rest: ProgramOptions = {}): Promise<Finished> =>
  rootfs(['run', '--host', ...options, '--', '/bin/sh', '-c', script], rest)

interface Config extends Record<string, unknown> {
  process: Record<string, unknown>
  mounts: unknown[]
  linux: { namespaces: Array<{ type: string }>; [field: string]: unknown }
}

async function makeBundle(script: string, change: (config: Config) => void = () => {}): Promise<string> {
  const directory = host.scratch('bundle')
  await busyboxImage(join(directory, 'rootfs'))
  await mustRun('runc', ['spec', '--bundle', directory])
  const path = join(directory, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Config
  Object.assign(config.process, { terminal: false, args: ['sh', '-c', script] })
  change(config)
  writeFileSync(path, JSON.stringify(config))
  return directory
}

test('the help needs no addon', async (t) => {
  const directory = host.scratch('package')
  cpSync(join(checkout, 'dist'), join(directory, 'dist'), { recursive: true })
  cpSync(join(checkout, 'package.json'), join(directory, 'package.json'))
  const alone = (...args: string[]) =>
    runProgram(process.execPath, [join(directory, 'dist', 'cli.js'), ...args])
  t.is((await alone('--help')).exitCode, 0)
  t.is((await alone('--version')).exitCode, 0)
  const { exitCode, stderr } = await alone('run', '--host', '--', 'true')
  t.is(exitCode, 125)
  t.regex(stderr, /^rootfs: .* is not installed\nrootfs: {3}tried /)
})

test('the help fits a screen', async (t) => {
  for (const args of [['--help'], ['-h'], ['run', '--help'], ['plan', '-h']]) {
    const { exitCode, stdout, stderr } = await rootfs(args)
    t.is(exitCode, 0)
    t.is(stderr, '')
    const lines = stdout.trimEnd().split('\n')
    t.true(lines.length < 24, `${lines.length} lines`)
    t.deepEqual(
      lines.filter((line) => line.length > 80),
      [],
    )
    for (const word of ['run BUNDLE', '--host', '--bind', '--tmpfs', '--net', '--json', '125'])
      t.true(stdout.includes(word), word)
  }
})

test('the version is the package’s', async (t) => {
  const { version } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
  for (const flag of ['--version', '-V']) t.is((await rootfs([flag])).stdout, `${version}\n`)
})

test('the package has it as its program', async (t) => {
  const manifest = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
  t.deepEqual(manifest.bin, { rootfs: 'dist/cli.js' })
  t.is(statSync(bin).mode & 0o111, 0o111)
  t.is((await runProgram(bin, ['--version'])).exitCode, 0)
})

for (const [args, pattern] of [
  [[], /a command is needed/],
  [['start'], /start: there is no such command/],
  [['run'], /run: a bundle or --host is needed/],
  [['plan'], /plan: a bundle or --host is needed/],
  [['run', '--host'], /run: a command is needed: -- COMMAND/],
  [['run', '--host', '--'], /a command is needed/],
  [['run', '--host', 'sh'], /put -- before a command/],
  [['run', '/bundle', 'sh'], /sh is one too many: put -- before/],
  [['run', '/bundle', '--net'], /--net is for --host/],
  [['run', '/bundle', '--json'], /--json is for plans/],
  [['run', '/bundle', '--env', 'A=b'], /--cwd and --env are for a command/],
  [['run', '--host', '--ignore', 'x', '--', 'sh'], /--ignore is for the config.json/],
  [['run', '--host', '--nosuch', '--', 'sh'], /--nosuch/],
  [['run', '--host', '--bind', '/a', '--', 'sh'], /--bind \/a: SRC:DST/],
  [['run', '--host', '--bind', '/a:/b:rx', '--', 'sh'], /--bind \/a:\/b:rx: SRC:DST/],
  [['run', '--host', '--bind', ':/b', '--', 'sh'], /--bind :\/b: SRC:DST/],
  [['run', '--host', '--env', 'A', '--', 'sh'], /--env A: NAME=VALUE/],
  [['run', '--host', '--env', '=b', '--', 'sh'], /--env =b: NAME=VALUE/],
  [['probe', 'x'], /probe: it takes no x, only --json/],
  [['probe', '--net'], /probe: it takes no net, only --json/],
] as Array<[string[], RegExp]>) {
  test(`a wrong command line is told: rootfs ${args.join(' ')}`, async (t) => {
    const { exitCode, stdout, stderr } = await rootfs(args)
    t.is(exitCode, 125)
    t.is(stdout, '')
    t.regex(stderr, pattern)
    t.regex(stderr, /^rootfs: .*\nrootfs: try rootfs --help\n$/s)
  })
}

const asRoot = testNeeding(['root'])

asRoot('streams and exit status are those of the command', async (t) => {
  const { exitCode, stdout, stderr } = await onHost([], 'cat; echo problem >&2; exit 3', { input: 'given' })
  t.deepEqual([exitCode, stdout, stderr], [3, 'given', 'problem\n'])
  t.is((await onHost([], 'true')).exitCode, 0)
})

asRoot('on the host’s programs nothing is inherited, and only /tmp is writable', async (t) => {
  const script = `
    env | sort; pwd; echo $$; uname -n; ls /
    touch /usr/x /x 2>/dev/null || echo readonly
    echo y > /tmp/y && cat /tmp/y
    ls /sys/class/net
  `
  const { stdout } = await onHost([], script, { env: { PATH: process.env.PATH, SECRET: 'x', TERM: 'dumb' } })
  const lines = stdout.split('\n')
  t.false(stdout.includes('SECRET'))
  t.true(lines.includes('TERM=dumb'))
  t.true(lines.includes('rootfs'))
  t.true(lines.includes('readonly'))
  t.true(lines.includes('y'))
  t.false(lines.includes('home'))
  t.deepEqual(lines.slice(-2), ['lo', ''])
})

asRoot('the options of a run are done', async (t) => {
  const writable = openDirectory(host, 'writable')
  const readonly = host.scratch('readonly')
  writeFileSync(join(readonly, 'file'), 'content\n')
  const script = `
    cat /in/file; touch /in/x 2>/dev/null || echo readonly
    echo made > /out/made; echo t > /scratch/t && cat /scratch/t; pwd; echo "$A $B"; readlink /proc/self/ns/net
  `
  const options = ['--bind', `${readonly}:/in:ro`, '--bind', `${writable}:/out`, '--tmpfs', '/scratch']
  options.push('--cwd', '/scratch', '--env', 'A=b=c', '--env', 'B=')
  const { stdout, stderr } = await onHost(options, script)
  const lines = stdout.trim().split('\n')
  t.deepEqual(lines.slice(0, -1), ['content', 'readonly', 't', '/scratch', 'b=c '], stderr)
  t.is(readFileSync(join(writable, 'made'), 'utf8'), 'made\n')
  const own = readlinkSync('/proc/self/ns/net')
  t.not(lines.at(-1), own)
  t.is((await onHost(['--net'], 'readlink /proc/self/ns/net')).stdout.trim(), own)
})

for (const [name, args, status, pattern] of [
  ['a command that is not there', ['nosuch'], 127, /^rootfs: nosuch can't be executed: .*ENOENT/],
  ['a path that is not there', ['/no/such'], 127, /ENOENT/],
  ['a file that can’t be executed', ['/etc/ld.so.cache'], 126, /EACCES/],
  ['a directory', ['/usr'], 126, /EACCES/],
] as Array<[string, string[], number, RegExp]>) {
  asRoot(`${name} is status ${status}`, async (t) => {
    const { exitCode, stderr } = await rootfs(['run', '--host', '--', ...args])
    t.is(exitCode, status, stderr)
    t.regex(stderr, pattern)
  })
}

asRoot('what fails before is status 125, with a reason', async (t) => {
  const { exitCode, stderr } = await onHost(['--bind', '/no/such:/x'], 'true')
  t.is(exitCode, 125)
  t.regex(stderr, /^rootfs: .*\/no\/such.*ENOENT/)
  const missing = await rootfs(['run', '/no/such/bundle'])
  t.is(missing.exitCode, 125)
  t.regex(missing.stderr, /^rootfs: the bundle's config can't be read: ENOENT/)
  const cwd = await onHost(['--cwd', '/proc/self/fd/0/x'], 'true')
  t.is(cwd.exitCode, 125)
})

/** Starts the command and waits for its first line. */
async function started(
  args: string[],
): Promise<{ child: ChildProcess; ended: Promise<[number | null, string | null]> }> {
  const child = spawn(process.execPath, [bin, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'close') as Promise<[number | null, string | null]>
  await once(child.stdout!, 'data')
  return { child, ended }
}

const loop = 'while :; do sleep 0.05; done'

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const) {
  asRoot(`${signal} is passed on`, async (t) => {
    const trap = `trap 'exit 42' ${signal.slice(3)}; echo ready; ${loop}`
    const { child, ended } = await started(['run', '--host', '--', '/bin/sh', '-c', trap])
    child.kill(signal)
    t.deepEqual(await ended, [42, null])
  })
}

for (const [signal, status] of [
  ['SIGTERM', 143],
  ['SIGINT', 130],
] as const) {
  asRoot(`${signal} ends a command that does nothing about it, though it is the first process`, async (t) => {
    // It says itself that it is there: a shell that has yet to execute it catches signals.
    const args = ['/usr/bin/tail', '-f', '/usr/lib/os-release']
    const { child, ended } = await started(['run', '--host', '--', ...args])
    child.kill(signal)
    t.deepEqual(await ended, [status, null])
  })
}

asRoot('a signal that the command ignores is ignored, and one that ends nothing ends nothing', async (t) => {
  const script = `trap '' INT; trap 'exit 9' USR1; echo ready; ${loop}`
  const { child, ended } = await started(['run', '--host', '--', '/bin/sh', '-c', script])
  child.kill('SIGINT')
  child.kill('SIGWINCH')
  child.kill('SIGCONT')
  await new Promise((resolve) => setTimeout(resolve, 200))
  t.is(child.exitCode, null)
  child.kill('SIGUSR1')
  t.deepEqual(await ended, [9, null])
})

asRoot('the container ends with the program, however that ends', async (t) => {
  const marker = `${100000 + process.pid}`
  const { child, ended } = await started([
    'run',
    '--host',
    '--',
    '/bin/sh',
    '-c',
    `echo ready; exec sleep ${marker}`,
  ])
  const running = async () =>
    (await runProgram('ps', ['-eo', 'args'])).stdout.split('\n').filter((line) => line === `sleep ${marker}`)
  t.is((await running()).length, 1)
  child.kill('SIGKILL')
  await ended
  let left = await running()
  for (let tries = 0; left.length > 0 && tries < 50; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 20))
    left = await running()
  }
  t.deepEqual(left, [])
})

const withRunc = testNeeding(['root', 'busybox', 'runc'])

withRunc('a bundle runs', async (t) => {
  const directory = await makeBundle('cat; hostname; exit 4')
  const before = snapshotTree(join(directory, 'rootfs'))
  const { exitCode, stdout, stderr } = await rootfs(['run', directory], { input: 'given\n' })
  t.deepEqual([exitCode, stdout, stderr], [4, 'given\nrunc\n', ''])
  const verbose = await rootfs(['run', '--verbose', directory])
  t.regex(verbose.stderr, /^rootfs: warning: linux\.resources is not enforced/)
  t.deepEqual(snapshotTree(join(directory, 'rootfs')), before)
})

withRunc('another command can be run in a bundle, with binds of its own', async (t) => {
  const source = host.scratch('source')
  writeFileSync(join(source, 'file'), 'bound\n')
  const directory = await makeBundle('exit 4')
  const args = ['run', directory, '--bind', `${source}:/mnt:ro`, '--env', 'A=b', '--cwd', '/etc', '--']
  const { exitCode, stdout } = await rootfs([...args, 'sh', '-c', 'cat /mnt/file; pwd; echo $A; exit 5'])
  t.deepEqual([exitCode, stdout], [5, 'bound\n/etc\nb\n'])
})

withRunc('another command is what the config lets its process be', async (t) => {
  const directory = await makeBundle('exit 4', (config) => {
    const user = { uid: 1000, gid: 1000 }
    Object.assign(config.process, { user, capabilities: {}, cwd: '/etc', env: ['PATH=/bin', 'A=b', 'C=d=e'] })
  })
  const script = 'id -u; pwd; echo "$A $B $C $TERM"; grep CapBnd /proc/self/status'
  const { stdout, stderr } = await rootfs(['run', directory, '--', 'sh', '-c', script])
  t.is(stdout, '1000\n/etc\nb  d=e \nCapBnd:\t0000000000000000\n', stderr)
  const changed = await rootfs([
    ...['run', directory, '--cwd', '/tmp', '--env', 'B=c', '--env', 'A=x', '--', 'sh', '-c', script],
  ])
  t.is(changed.stdout, '1000\n/tmp\nx c d=e \nCapBnd:\t0000000000000000\n', changed.stderr)
})

for (const [signal, status] of [
  ['SIGTERM', 143],
  ['SIGINT', 130],
] as const) {
  withRunc(`${signal} ends a preparation that takes long`, async (t) => {
    const marks = host.scratch('marks')
    const directory = await makeBundle('echo ran', (config) => {
      const script = `echo begun > ${marks}/hook; exec sleep 30`
      config.hooks = { createRuntime: [{ path: '/bin/sh', args: ['sh', '-c', script] }] }
    })
    const before = snapshotTree(join(directory, 'rootfs'))
    const child = spawn(process.execPath, [bin, 'run', directory], { stdio: ['ignore', 'pipe', 'pipe'] })
    let printed = ''
    child.stdout.on('data', (chunk) => (printed += chunk))
    child.stderr.on('data', (chunk) => (printed += chunk))
    const ended = once(child, 'close')
    while (!existsSync(join(marks, 'hook'))) await new Promise((resolve) => setTimeout(resolve, 20))
    const begin = performance.now()
    child.kill(signal)
    t.deepEqual(await ended, [status, null])
    t.true(performance.now() - begin < 10_000)
    t.is(printed, '')
    t.deepEqual(snapshotTree(join(directory, 'rootfs')), before)
  })
}

withRunc('a signal that kills the command is 128 and its number', async (t) => {
  // Without a pid namespace it can kill itself.
  const directory = await makeBundle('kill -9 $$', (config) => {
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== 'pid')
    config.mounts = []
    config.linux.maskedPaths = []
    config.linux.readonlyPaths = []
  })
  t.is((await rootfs(['run', directory])).exitCode, 137)
})

withRunc(
  'what a config asks for and is not enforced is told with its place, and can be ignored',
  async (t) => {
    const directory = await makeBundle('echo ran', (config) => {
      config.process.terminal = true
      config.linux.seccomp = { defaultAction: 'SCMP_ACT_ERRNO' }
    })
    const { exitCode, stderr } = await rootfs(['run', directory])
    t.is(exitCode, 125)
    t.regex(
      stderr,
      /^rootfs: linux\.seccomp: .* \(\/linux\/seccomp\)\nrootfs: hint: .*: --ignore linux\.seccomp$/m,
    )
    const terminal = await rootfs(['run', directory, '--ignore', 'linux.seccomp'])
    t.regex(terminal.stderr, /\(\/process\/terminal\)\nrootfs: hint: .* --ignore process\.terminal$/m)
    const args = ['run', directory, '--ignore', 'linux.seccomp', '--ignore', '/process/terminal']
    t.is((await rootfs(args)).stdout, 'ran\n')
  },
)

withRunc('a plan is a table for people, and JSON for programs', async (t) => {
  const directory = await makeBundle('true', (config) => {
    config.mounts.push({ destination: '/evil\n\u001b[2J', type: 'tmpfs' })
  })
  const { exitCode, stdout, stderr } = await rootfs(['plan', directory])
  t.deepEqual([exitCode, stderr], [0, ''])
  const lines = stdout.trimEnd().split('\n')
  t.regex(lines[0]!, /^ +STEP +DESTINATION +SOURCE +FLAGS$/)
  const column = lines[0]!.indexOf('DESTINATION')
  const proc = lines.find((line) => / mount +\/proc /.test(line))!
  t.is(proc.indexOf('/proc'), column)
  t.true(stdout.includes('/evil\\x0a\\x1b[2J'))
  t.true(lines.at(-1)!.startsWith('warning: '))
  const json = JSON.parse((await rootfs(['plan', directory, '--json'])).stdout)
  t.is(json.steps[0].type, 'namespaces')
  t.true(json.warnings.length >= 2)
  t.false(existsSync(join(directory, 'rootfs', 'evil')))
  const onHosts = await rootfs(['plan', '--host', '--tmpfs', '/scratch'])
  t.regex(onHosts.stdout, /mount +\/scratch +tmpfs/)
})

test('what the host allows is a table for people, and JSON for programs', async (t) => {
  const { exitCode, stdout, stderr } = await rootfs(['probe'])
  t.deepEqual([exitCode, stderr], [0, ''])
  const [kernel, ...lines] = stdout.trimEnd().split('\n')
  t.is(kernel, `Linux ${release()}`)
  const json = JSON.parse((await rootfs(['probe', '--json'])).stdout)
  t.is(json.kernel, release())
  t.true(json.features.supervisor.available)
  t.deepEqual(
    lines.filter((line) => /^(yes|no ) /.test(line)).map((line) => line.split(/ +/)[1]),
    Object.keys(json.features),
  )
  const mountApi = lines.find((line) => / mountApi/.test(line))
  t.is(mountApi?.startsWith('yes'), json.features.mountApi.available)
})

const unprivileged = cells.find(({ name }) => name === 'unprivileged')!

testNeeding(unprivileged.needs)('an ordinary user runs the host’s programs', async (t) => {
  const readable = await readableCheckout(host)
  const { uid } = unprivileged
  const run = (...args: string[]) =>
    runProgram('setpriv', [
      ...['--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups'],
      ...[process.execPath, join(readable, 'dist', 'cli.js'), 'run', '--host', ...args],
    ])
  const { exitCode, stdout, stderr } = await run(
    '--',
    '/bin/sh',
    '-c',
    'id -u; cat /proc/self/uid_map; exit 6',
  )
  t.is(exitCode, 6, stderr)
  t.deepEqual(stdout.trim().replace(/ +/g, ' ').split('\n '), ['0', `0 ${uid} 1`])
  t.is(
    (await run('--net', '--', '/bin/sh', '-c', 'readlink /proc/self/ns/net')).stdout.trim(),
    readlinkSync('/proc/self/ns/net'),
  )
  t.is((await run('--', 'nosuch')).exitCode, 127)
})
