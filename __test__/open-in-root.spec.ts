// openInRoot: what is opened, that no link leads out, and that nothing is left open.
import {
  closeSync,
  constants,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { openInRoot, RootfsError } from 'rootfs'
import { exchange } from './support/exchange.ts'
import { filtered } from './support/filter.ts'
import { guardHost } from './support/host.ts'
import { checkout } from './support/images.ts'
import { mustRun } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)

interface Tree {
  /** What the attacker fills. */
  root: string
  /** What must not be reached. */
  outside: string
}

function tree(): Tree {
  const top = host.scratch('tree')
  const [root, outside] = [join(top, 'root'), join(top, 'outside')]
  for (const directory of [root, outside, join(root, 'etc'), join(root, 'dir')]) mkdirSync(directory)
  writeFileSync(join(root, 'etc', 'name'), 'inside\n')
  writeFileSync(join(outside, 'name'), 'outside\n')
  writeFileSync(join(top, 'name'), 'above\n')
  return { root, outside }
}

const openFds = (): number => readdirSync('/proc/self/fd').length

async function content(root: string, path: string | Uint8Array): Promise<string> {
  const handle = await openInRoot(root, path)
  try {
    return await handle.readFile('utf8')
  } finally {
    await handle.close()
  }
}

async function refused(
  t: ExecutionContext,
  call: () => Promise<unknown>,
  code: string,
  errnoName?: string,
): Promise<RootfsError> {
  const before = openFds()
  const error = await t.throwsAsync<RootfsError>(call, { instanceOf: RootfsError, code })
  if (errnoName !== undefined) t.is(error?.errnoName, errnoName)
  t.regex(error?.stack ?? '', /open-in-root\.spec/, 'the stack leads to the caller')
  t.is(openFds(), before, 'nothing is left open')
  return error!
}

test.serial('a path is opened, absolute or relative, as string or bytes', async (t) => {
  const { root } = tree()
  for (const path of ['/etc/name', 'etc/name', './etc//name', 'dir/../etc/name', Buffer.from('etc/name')]) {
    t.is(await content(root, path), 'inside\n')
  }
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff])]), 'bytes\n')
  t.is(await content(root, new Uint8Array([0xff])), 'bytes\n')
})

test.serial('it is a FileHandle of Node: everything works, and close closes it', async (t) => {
  const { root } = tree()
  const before = openFds()
  const handle = await openInRoot(root, 'etc/name', 'r+')
  t.is(readlinkSync(`/proc/self/fd/${handle.fd}`), join(root, 'etc', 'name'))
  t.is((await handle.stat()).ino, statSync(join(root, 'etc', 'name')).ino)
  await handle.write('INSIDE')
  const { buffer } = await handle.read({ buffer: Buffer.alloc(6), position: 0 })
  t.is(`${buffer}`, 'INSIDE')
  await handle.close()
  t.is(openFds(), before)
  const streamed = await openInRoot(root, 'etc/name')
  let text = ''
  for await (const chunk of streamed.createReadStream({ encoding: 'utf8' })) text += chunk
  t.is(text, 'INSIDE\n')
  t.is(openFds(), before, 'a stream closes it at its end')
})

test.serial('the descriptor is not for programs that this process executes', async (t) => {
  const { root } = tree()
  const handle = await openInRoot(root, 'etc/name')
  t.regex(readFileSync(`/proc/self/fdinfo/${handle.fd}`, 'utf8'), /^flags:\s+02/m, 'close-on-exec')
  await handle.close()
})

// ---------------------------------------------------------------- hostile links

const links: Array<[title: string, make: (tree: Tree) => string, result: string]> = [
  ['an absolute link', ({ outside }) => join(outside, 'name'), 'ENOENT'],
  ['a link with many ..', () => `${'../'.repeat(40)}etc/name`, 'inside\n'],
  ['a relative link that leaves', () => '../outside/name', 'ENOENT'],
  ['an absolute link that is right in the root', () => '/etc/name', 'inside\n'],
  ['a link to the host’s /etc/passwd', () => '/etc/passwd', 'ENOENT'],
]
for (const [title, target, result] of links) {
  test.serial(`${title} stays inside`, async (t) => {
    const made = tree()
    symlinkSync(target(made), join(made.root, 'link'))
    symlinkSync('link', join(made.root, 'link-to-link'))
    symlinkSync('/', join(made.root, 'top'))
    for (const path of ['link', '/link-to-link', 'top/link', 'dir/../top/top/link']) {
      if (result === 'ENOENT') {
        await refused(t, () => openInRoot(made.root, path), 'ERR_ROOTFS_SOURCE', 'ENOENT')
      } else {
        t.is(await content(made.root, path), result)
      }
    }
  })
}

test.serial('.. at the top stays there', async (t) => {
  const { root } = tree()
  t.is(await content(root, '../../../etc/name'), 'inside\n')
  await refused(t, () => openInRoot(root, '../name'), 'ERR_ROOTFS_SOURCE', 'ENOENT')
})

test.serial('a file that is made through a link is made inside', async (t) => {
  const { root, outside } = tree()
  symlinkSync(join(outside, 'made'), join(root, 'link'))
  symlinkSync('/etc/made', join(root, 'good'))
  await refused(t, () => openInRoot(root, 'link', 'w'), 'ERR_ROOTFS_SOURCE', 'ENOENT')
  t.deepEqual(readdirSync(outside), ['name'])
  await (await openInRoot(root, 'good', 'w')).close()
  t.true(existsSync(join(root, 'etc', 'made')))
})

test.serial('a loop of links is an error', async (t) => {
  const { root } = tree()
  symlinkSync('loop', join(root, 'loop'))
  await refused(t, () => openInRoot(root, 'loop/x'), 'ERR_ROOTFS_SOURCE', 'ELOOP')
})

test.serial('magic links are refused', async (t) => {
  const fd = openSync('/etc', constants.O_RDONLY | constants.O_DIRECTORY)
  for (const path of [
    '/proc/self/root/etc/passwd',
    '/proc/self/cwd',
    `/proc/self/fd/${fd}/passwd`,
    '/proc/self/exe',
  ]) {
    const error = await refused(t, () => openInRoot('/', path), 'ERR_ROOTFS_ESCAPE', 'ELOOP')
    t.true(error.message.includes('magic link'))
  }
  t.is(await content('/', '/proc/self/comm').then((text) => text.trim() !== ''), true)
  closeSync(fd)
})

// ---------------------------------------------------------------- the root

test.serial('a root that is none', async (t) => {
  const { root } = tree()
  symlinkSync(root, `${root}-link`)
  for (const ending of ['', '/', '/.'])
    await refused(t, () => openInRoot(`${root}-link${ending}`, 'etc/name'), 'ERR_ROOTFS_ROOT')
  await refused(t, () => openInRoot(join(root, 'missing'), 'x'), 'ERR_ROOTFS_ROOT', 'ENOENT')
  await refused(t, () => openInRoot(join(root, 'etc', 'name'), 'x'), 'ERR_ROOTFS_ROOT', 'ENOTDIR')
})

// ---------------------------------------------------------------- flags and mode

test.serial('each flag word does what it does in fs.open', async (t) => {
  const { root } = tree()
  const { O_RDONLY, O_RDWR, O_WRONLY, O_APPEND, O_SYNC } = constants
  const kept = O_RDONLY | O_RDWR | O_WRONLY | O_APPEND | O_SYNC
  const words = ['r', 'rs', 'sr', 'r+', 'rs+', 'sr+', 'w', 'w+', 'a', 'as', 'sa', 'a+', 'as+', 'sa+']
  const { open } = await import('node:fs/promises')
  const flagsOf = (fd: number): number =>
    Number.parseInt(/^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!, 8) & kept
  for (const word of words) {
    const [ours, nodes] = [
      await openInRoot(root, 'dir/file', 'a'),
      await open(join(root, 'dir', 'file'), word),
    ]
    await ours.writeFile('text')
    await ours.close()
    const handle = await openInRoot(root, 'dir/file', word)
    t.is(flagsOf(handle.fd), flagsOf(nodes.fd), word)
    t.is((await handle.stat()).size, word.startsWith('w') ? 0 : (await nodes.stat()).size, word)
    await Promise.all([handle.close(), nodes.close()])
  }
  for (const word of ['wx', 'xw', 'wx+', 'xw+', 'ax', 'xa', 'ax+', 'xa+']) {
    await refused(t, () => openInRoot(root, 'dir/file', word), 'ERR_ROOTFS_SOURCE', 'EEXIST')
    await (await openInRoot(root, `dir/${word}`, word)).close()
    t.true(existsSync(join(root, 'dir', word)))
  }
})

test.serial('the mode of what is made, less the umask', async (t) => {
  const { root } = tree()
  const before = process.umask(0o027)
  t.teardown(() => process.umask(before))
  await (await openInRoot(root, 'default', 'w')).close()
  await (await openInRoot(root, 'given', 'w', 0o777)).close()
  t.is(statSync(join(root, 'default')).mode & 0o7777, 0o640)
  t.is(statSync(join(root, 'given')).mode & 0o7777, 0o750)
})

test.serial('numbers: a directory, a place, an unnamed file', async (t) => {
  const { root } = tree()
  const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants
  const directory = await openInRoot(root, '/', O_RDONLY | O_DIRECTORY)
  t.true((await directory.stat()).isDirectory())
  await directory.close()
  symlinkSync('etc/name', join(root, 'link'))
  await refused(t, () => openInRoot(root, 'link', O_RDONLY | O_NOFOLLOW), 'ERR_ROOTFS_SOURCE', 'ELOOP')
  await refused(t, () => openInRoot(root, 'etc/name', O_RDONLY | O_DIRECTORY), 'ERR_ROOTFS_SOURCE', 'ENOTDIR')
})

test.serial('a named pipe in the image stops nobody', async (t) => {
  const { root } = tree()
  await mustRun('mkfifo', [join(root, 'pipe')])
  const handle = await openInRoot(root, 'pipe')
  t.true((await handle.stat()).isFIFO())
  const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${handle.fd}`, 'utf8'))![1]!
  t.is(Number.parseInt(flags, 8) & constants.O_NONBLOCK, 0, 'what was added is taken back')
  await handle.close()
  await refused(t, () => openInRoot(root, 'pipe', 'w'), 'ERR_ROOTFS_SOURCE', 'ENXIO')
})

// ---------------------------------------------------------------- wrong arguments

const wrong: Array<[title: string, args: unknown[], code: string, name: string]> = [
  ['a relative root', ['root', 'x'], 'ERR_INVALID_ARG_VALUE', 'root'],
  ['no root', [undefined, 'x'], 'ERR_INVALID_ARG_TYPE', 'root'],
  ['no path', ['/', undefined], 'ERR_INVALID_ARG_TYPE', 'path'],
  ['an empty path', ['/', ''], 'ERR_INVALID_ARG_VALUE', 'path'],
  ['a NUL byte', ['/', 'a\0b'], 'ERR_INVALID_ARG_VALUE', 'path'],
  ['an unknown word', ['/', 'x', 'rw'], 'ERR_INVALID_ARG_VALUE', 'flags'],
  ['both s and x', ['/', 'x', 'wsx'], 'ERR_INVALID_ARG_VALUE', 'flags'],
  ['an exclusive r', ['/', 'x', 'rx'], 'ERR_INVALID_ARG_VALUE', 'flags'],
  ['an s of w', ['/', 'x', 'ws'], 'ERR_INVALID_ARG_VALUE', 'flags'],
  ['flags that are no text', ['/', 'x', {}], 'ERR_INVALID_ARG_TYPE', 'flags'],
  ['flags below zero', ['/', 'x', -1], 'ERR_OUT_OF_RANGE', 'flags'],
  ['flags too large', ['/', 'x', 2 ** 32], 'ERR_OUT_OF_RANGE', 'flags'],
  ['flags with a fraction', ['/', 'x', 1.5], 'ERR_OUT_OF_RANGE', 'flags'],
  ['a mode too large', ['/', 'x', 'w', 0o10000], 'ERR_OUT_OF_RANGE', 'mode'],
]
for (const [title, args, code, name] of wrong) {
  test.serial(`wrong: ${title}`, async (t) => {
    const before = openFds()
    const error = await t.throwsAsync(Reflect.apply(openInRoot, undefined, args), { code })
    t.regex(error!.message, new RegExp(`^Expected .* for ${name} but received `))
    t.is(openFds(), before)
  })
}

// ---------------------------------------------------------------- races and kernels

testNeeding(['python3'])(
  'a directory that is exchanged with a link all the time: inside, or an error',
  async (t) => {
    const { root, outside } = tree()
    mkdirSync(join(root, 'swap'))
    writeFileSync(join(root, 'swap', 'name'), 'inside\n')
    symlinkSync(outside, join(root, 'evil'))
    const racer = exchange(join(root, 'swap'), join(root, 'evil'))
    t.teardown(() => racer.kill('SIGKILL'))
    const counts: Record<string, number> = {}
    let naive = 0
    for (let index = 0; index < 3000; index += 1) {
      const outcome = await content(root, 'swap/../swap/name').catch((error: RootfsError) => {
        if (!(error instanceof RootfsError)) throw error
        return `${error.code} ${error.errnoName}`
      })
      counts[outcome] = (counts[outcome] ?? 0) + 1
      try {
        if (readFileSync(join(root, 'swap', 'name'), 'utf8') === 'outside\n') naive += 1
      } catch {
        // It is being exchanged.
      }
    }
    t.log(counts, { naive })
    t.true(naive > 0, 'positive control: a path that is joined is led out')
    t.is(counts['outside\n'], undefined)
    t.true((counts['inside\n'] ?? 0) > 0)
    const expected = [
      'inside\n',
      'ERR_ROOTFS_SOURCE ENOENT',
      'ERR_ROOTFS_SOURCE ENOTDIR',
      'ERR_ROOTFS_RACE EAGAIN',
    ]
    t.deepEqual(
      Object.keys(counts).filter((outcome) => !expected.includes(outcome)),
      [],
    )
  },
)

test.serial('many at once', async (t) => {
  const { root } = tree()
  const before = openFds()
  linkSync(join(root, 'etc', 'name'), join(root, 'dir', 'again'))
  const all = await Promise.all(Array.from({ length: 100 }, () => content(root, 'dir/again')))
  t.true(all.every((text) => text === 'inside\n'))
  t.is(openFds(), before)
})

// ---------------------------------------------------------------- other kernels, other users

/** What a program in a process of its own prints for each path: the content, or the error. */
async function elsewhere(wrapper: string[], root: string, paths: string[]): Promise<string[]> {
  const program = `
    import { openInRoot } from 'rootfs'
    const outcomes = []
    for (const path of ${JSON.stringify(paths)}) {
      const outcome = openInRoot(${JSON.stringify(root)}, path).then(async (handle) => {
        const text = await handle.readFile('utf8')
        await handle.close()
        return text
      })
      outcomes.push(await outcome.catch((error) => error.code + ' ' + error.errnoName))
    }
    console.log(JSON.stringify(outcomes))`
  const [command, ...args] = [...wrapper, process.execPath, '--input-type=module', '--eval', program]
  return JSON.parse(await mustRun(command!, args, { cwd: checkout })) as string[]
}

for (const how of ['ENOSYS', 'EPERM'] as const) {
  testNeeding(['python3'])(`where openat2 answers ${how}, the emulation gives the same`, async (t) => {
    const { root, outside } = tree()
    symlinkSync(join(outside, 'name'), join(root, 'out'))
    symlinkSync('../../../outside/name', join(root, 'up'))
    symlinkSync('/etc/name', join(root, 'in'))
    symlinkSync('loop', join(root, 'loop'))
    const paths = ['etc/name', '/etc/name', 'in', 'dir/../../etc/name', 'out', 'up', 'loop', 'etc/name/x']
    const emulated = await elsewhere(filtered(['openat2'], how), root, paths)
    const inside = 'inside\n'
    const none = 'ERR_ROOTFS_SOURCE ENOENT'
    t.deepEqual(emulated, [
      ...[inside, inside, inside, inside, none, none],
      'ERR_ROOTFS_SOURCE ELOOP',
      'ERR_ROOTFS_SOURCE ENOTDIR',
    ])
    t.deepEqual(emulated, await elsewhere([], root, paths))
    const [magic] = await elsewhere(filtered(['openat2'], how), '/', ['/proc/self/root/etc/hostname'])
    t.regex(magic!, /^ERR_ROOTFS_(ESCAPE|SOURCE) /)
  })
}

testNeeding(['root', 'setpriv'])('an ordinary user opens what he may', async (t) => {
  const { root } = tree()
  writeFileSync(join(root, 'secret'), 'secret\n', { mode: 0o600 })
  const user = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']
  t.deepEqual(await elsewhere(user, root, ['etc/name', 'secret']), ['inside\n', 'ERR_ROOTFS_SOURCE EACCES'])
})
