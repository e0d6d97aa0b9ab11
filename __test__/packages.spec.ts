// What users install: both tarballs in an empty project, from ESM, CommonJS and TypeScript, with two versions of Node.js;
// and each way in which an installation can be broken.
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { isStaticExecutable } from '../scripts/elf.ts'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import {
  copyProject,
  digest,
  install,
  manifest,
  newestNode,
  packBoth,
  platform,
  type Tarballs,
} from './support/packages.ts'
import { mustRun, runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox', 'setpriv'])
const packageName = `rootfs-${platform}`

let tarballs: Tarballs
let project: string
let image: string
let newest: string

test.before('pack and install', async (t) => {
  t.timeout(300_000)
  tarballs = await packBoth(host.scratch('tarballs'))
  project = await install(host.scratch('project'), [tarballs.root, tarballs.platform])
  image = await busyboxImage(join(host.scratch('image'), 'image'))
  newest = await newestNode()
})

// ---------------------------------------------------------------- it works

test.serial('the tarballs are small, and the supervisor in them is static and 0755', async (t) => {
  const installed = join(project, 'node_modules', packageName)
  const supervisor = join(installed, 'rootfs-supervisor')
  t.is(statSync(supervisor).mode & 0o7777, 0o755)
  t.true(isStaticExecutable(supervisor))
  t.is(digest(supervisor), digest(join(checkout, 'packages', platform, 'rootfs-supervisor')))
  const listed = await mustRun('tar', ['-tvzf', tarballs.platform])
  t.regex(listed, /^-rwxr-xr-x .* package\/rootfs-supervisor$/m)
  t.deepEqual(
    readdirSync(join(project, 'node_modules')).filter((name) => name.startsWith('rootfs')),
    ['rootfs', packageName],
    'the packages of other platforms are optional',
  )
})

const body = `
const rootfs = new Rootfs(process.argv[2]).defaults()
const run = async () => {
  const { exitCode, stdout } = await rootfs.run('/bin/echo', ['hello'])
  const box = await rootfs.prepare()
  const { stdout: second } = await box.run('/bin/sh', ['-c', 'echo $$'])
  await box.close()
  console.log(JSON.stringify({ exitCode, stdout, second, node: process.versions.node }))
}
`
const programs = {
  'from ESM': { name: 'main.mjs', text: `import { Rootfs } from 'rootfs'\n${body}\nawait run()\n` },
  'by require': { name: 'main.cjs', text: `const { Rootfs } = require('rootfs')\n${body}\nrun()\n` },
}

async function runs(t: ExecutionContext, node: string, program: string): Promise<void> {
  const { stdout, stderr, exitCode } = await runProgram(node, [program, image], { cwd: project })
  t.is(exitCode, 0, stderr)
  const { node: version, ...rest } = JSON.parse(stdout) as Record<string, unknown>
  t.deepEqual(rest, { exitCode: 0, stdout: 'hello\n', second: '2\n' })
  t.log(`Node.js ${version}`)
}

const typescript = `
import { type ExecutedStep, Rootfs, RootfsError, type RunResult } from 'rootfs'

const steps: ExecutedStep[] = []
const rootfs: Rootfs = new Rootfs(process.argv[2]!).defaults().tmpfs('/tmp', { size: '1m' })
try {
  const result: RunResult = await rootfs.run('/bin/echo', ['hello'], { onStep: (step) => steps.push(step) })
  const bytes: RunResult<Buffer> = await rootfs.run('/bin/true', [], { encoding: 'buffer' })
  await using box = await rootfs.prepare()
  const { stdout: second } = await box.run('/bin/sh', ['-c', 'echo $$'])
  const child = box.spawn('/bin/true')
  await new Promise<void>((resolve) => child.once('close', (code: number | null) => resolve(void code)))
  const { exitCode, stdout } = result
  if (steps.length === 0 || bytes.stdout.length !== 0) throw new Error('no steps')
  console.log(JSON.stringify({ exitCode, stdout, second, node: process.versions.node }))
} catch (error) {
  if (error instanceof RootfsError) console.error(error.code, error.hint)
  throw error
}
`

for (const [which, node] of [
  ['this Node.js', () => process.execPath],
  ['the newest even Node.js', () => newest],
] as const) {
  for (const [title, { name, text }] of Object.entries(programs)) {
    testHere(`${which}: a container ${title}`, async (t) => {
      writeFileSync(join(project, name), text)
      await runs(t, node(), name)
    })
  }

  testHere(`${which}: a container from TypeScript, checked with strict rules`, async (t) => {
    mkdirSync(join(project, 'typed'), { recursive: true })
    writeFileSync(join(project, 'typed', 'main.mts'), typescript)
    const compilerOptions = {
      target: 'es2022',
      module: 'nodenext',
      moduleResolution: 'nodenext',
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      lib: ['es2023', 'esnext.disposable'],
      typeRoots: [join(checkout, 'node_modules', '@types')],
      types: ['node'],
    }
    writeFileSync(
      join(project, 'typed', 'tsconfig.json'),
      JSON.stringify({ compilerOptions, include: ['main.mts'] }),
    )
    const tsc = join(checkout, 'node_modules', 'typescript', 'bin', 'tsc')
    const checked = await runProgram(process.execPath, [tsc, '-p', 'typed', '--noEmit'], { cwd: project })
    t.is(checked.exitCode, 0, checked.stdout)
    await mustRun(process.execPath, [tsc, '-p', 'typed'], { cwd: project })
    await runs(t, node(), join('typed', 'main.mjs'))
  })
}

// ---------------------------------------------------------------- it is broken

interface Failed {
  code: string
  message: string
  tried?: string[]
  hint?: string
}

interface Circumstances {
  env?: Record<string, string>
  /** JavaScript that runs before the import. */
  before?: string
  uid?: number
}

/** How loading the package, and running a command, fails there. */
async function failure(
  where: string,
  { env = {}, before = '', uid = 0 }: Circumstances = {},
): Promise<Failed> {
  const program = `${before}
    try {
      const { Rootfs } = await import('rootfs')
      await new Rootfs(${JSON.stringify(image)}).defaults().run('/bin/true')
      console.log(JSON.stringify({ code: 'none' }))
    } catch ({ code, message, tried, hint }) {
      console.log(JSON.stringify({ code, message, tried, hint }))
    }`
  const node = [process.execPath, '--input-type=module', '--eval', program]
  const asUser = uid === 0 ? [] : ['setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups']
  const [command, ...args] = [...asUser, ...node]
  const options = { cwd: where, env: { PATH: process.env.PATH ?? '', ...env } }
  return JSON.parse(await mustRun(command!, args, options)) as Failed
}

/** A copy of the project, and the folder of the platform's package in it. */
function broken(): { where: string; inside: (...names: string[]) => string } {
  const where = copyProject(project, join(host.scratch('broken'), 'project'))
  return { where, inside: (...names) => join(where, 'node_modules', packageName, ...names) }
}

testHere('broken: the control is not', async (t) => {
  t.is((await failure(broken().where)).code, 'none')
})

testHere(
  'broken: without optional dependencies it installs, and says which package is missing',
  async (t) => {
    const where = await install(host.scratch('alone'), [tarballs.root])
    const { code, message, tried } = await failure(where)
    t.is(code, 'ERR_ROOTFS_UNSUPPORTED')
    t.true(message.includes(`the package ${packageName} is not installed`))
    t.regex(message, /--omit=optional/)
    t.is(tried?.length, 2)
    for (const place of tried!) t.true(message.includes(place))
  },
)

for (const [title, other, words] of [
  ['the other C library', platform.replace('gnu', 'musl'), 'for the other C library'],
  [
    'another processor',
    process.arch === 'x64' ? 'linux-arm64-gnu' : 'linux-x64-gnu',
    'for another processor',
  ],
] as const) {
  testHere(`broken: the package of ${title} is there instead`, async (t) => {
    const { where, inside } = broken()
    renameSync(inside(), join(where, 'node_modules', `rootfs-${other}`))
    const { code, message } = await failure(where)
    t.is(code, 'ERR_ROOTFS_UNSUPPORTED')
    t.true(message.includes(`rootfs-${other} is installed, which is ${words}`), message)
    t.true(message.includes(packageName))
  })
}

for (const [property, value] of [
  ['platform', 'darwin'],
  ['arch', 'ia32'],
] as const) {
  testHere(`broken: ${property} ${value}`, async (t) => {
    const before = `Object.defineProperty(process, '${property}', { value: '${value}' })`
    const { code, message } = await failure(project, { before })
    t.is(code, 'ERR_ROOTFS_UNSUPPORTED')
    t.regex(message, new RegExp(`Linux on x64 and arm64, and not on .*${value}`))
  })
}

testHere('broken: the addon is damaged', async (t) => {
  const { where, inside } = broken()
  const addon = inside(`rootfs.${platform}.node`)
  writeFileSync(addon, 'neither ELF nor anything')
  const { code, message, tried } = await failure(where)
  t.is(code, 'ERR_ROOTFS_UNSUPPORTED')
  t.regex(message, /the addon can't be loaded: /)
  t.deepEqual(tried, [addon])
})

testHere('broken: the supervisor is missing', async (t) => {
  const { where, inside } = broken()
  rmSync(inside('rootfs-supervisor'))
  const { code, message, tried } = await failure(where)
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.regex(message, /the supervisor is missing/)
  t.deepEqual(tried, [inside('rootfs-supervisor')])
})

testHere('broken: the supervisor can’t be read by this user', async (t) => {
  const { where, inside } = broken()
  chmodSync(inside('rootfs-supervisor'), 0o700)
  const { code, message } = await failure(where, { uid: 65534 })
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.regex(message, /the supervisor can't be read/)
})

testHere('the execute bit that is lost matters only where the path is executed', async (t) => {
  const { where, inside } = broken()
  const supervisor = inside('rootfs-supervisor')
  chmodSync(supervisor, 0o644)
  t.is((await failure(where)).code, 'none', 'it is copied to memory')
  const { code, message, hint } = await failure(where, { env: { ROOTFS_SUPERVISOR_EXEC: supervisor } })
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.true(message.includes(supervisor) && message.includes('EACCES'), message)
  t.regex(hint!, /chmod 755/)
  chmodSync(supervisor, 0o755)
  t.is((await failure(where, { env: { ROOTFS_SUPERVISOR_EXEC: supervisor } })).code, 'none')
})

testHere('a path of a supervisor that is not there', async (t) => {
  const env = { ROOTFS_SUPERVISOR_EXEC: '/no/such/supervisor' }
  const { code, message, hint } = await failure(project, { env })
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.true(message.includes('/no/such/supervisor') && message.includes('ENOENT'), message)
  t.true(message.includes('ROOTFS_SUPERVISOR_EXEC'), message)
  t.regex(hint!, /^let ROOTFS_SUPERVISOR_EXEC name/)
  t.is((await failure(project, { env: { ROOTFS_SUPERVISOR_EXEC: '' } })).code, 'none', 'empty is unset')
})

testHere('broken: an addon of another version than the package', async (t) => {
  const { where } = broken()
  const path = join(where, 'node_modules', 'rootfs', 'package.json')
  writeFileSync(path, readFileSync(path, 'utf8').replace(/"version": *"[^"]*"/, '"version": "9.9.9"'))
  const { code, message } = await failure(where)
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.true(message.includes('9.9.9') && message.includes(manifest(checkout).version), message)
})

/** A program that says one thing on the supervisor's socket. */
function impostor(frame: Buffer): string {
  const path = join(host.scratch('impostor'), 'supervisor')
  const code = `require('node:fs').writeSync(3, Buffer.from('${frame.toString('hex')}', 'hex')); setTimeout(() => {}, 1000)`
  writeFileSync(path, `#!${process.execPath}\n${code}\n`, { mode: 0o755 })
  return path
}

function hello(protocol: number, release: string): Buffer {
  const body = Buffer.concat([Buffer.from([2, release.length]), Buffer.from(release)])
  const header = Buffer.alloc(24)
  header.write('RTFS')
  header.writeUInt16LE(protocol, 4)
  header.writeUInt16LE(1, 6)
  header.writeUInt32LE(body.length, 16)
  return Buffer.concat([header, body])
}

const { version } = manifest(checkout)
const impostors: Array<[title: string, frame: Buffer, words: string[]]> = [
  ['a supervisor of another version', hello(1, '9.9.9'), ['9.9.9', version]],
  ['a supervisor of another protocol', hello(77, version), ['77', version]],
  ['a program that is no supervisor', Buffer.from('hello'), [version, "doesn't understand"]],
]
for (const [title, frame, words] of impostors) {
  testHere(`broken: ${title}`, async (t) => {
    const { code, message, hint } = await failure(project, {
      env: { ROOTFS_SUPERVISOR_EXEC: impostor(frame) },
    })
    t.is(code, 'ERR_ROOTFS_SUPERVISOR')
    for (const word of words) t.true(message.includes(word), message)
    t.regex(hint!, /of one version/)
  })
}

testHere('broken: a supervisor that ends at once', async (t) => {
  const { code, message } = await failure(project, { env: { ROOTFS_SUPERVISOR_EXEC: '/bin/true' } })
  t.is(code, 'ERR_ROOTFS_SUPERVISOR')
  t.regex(message, /ended before it said anything/)
})
