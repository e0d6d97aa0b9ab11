// What a command is and may do, looked at from inside; and builders and prepared roots that are used many times.
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { arch } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type NamespaceOptions, type PreparedRootfs, Rootfs, RootfsError, type SpawnOptions } from 'rootfs'
import { cells, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { containers, eventually } from './support/processes.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

let image: Promise<string> | undefined
const root = async (): Promise<Rootfs> => {
  image ??= busyboxImage(join(host.scratch('image'), 'root'))
  return new Rootfs(await image).defaults().tmpfs('/tmp')
}

/** A command as the first process, and as one more in a prepared root, without and with a user namespace. */
async function everywhere(
  options: SpawnOptions,
  script: string,
  check: (stdout: string, stderr: string) => void,
  users: readonly NonNullable<NamespaceOptions['user']>[] = [false, ranges],
) {
  for (const user of users) {
    const rootfs = (await root()).namespaces({ user })
    await using box = await rootfs.prepare()
    for (const runner of [rootfs, box] as Array<Rootfs | PreparedRootfs>) {
      const { stdout, stderr } = await runner.run('/bin/sh', ['-c', script], options)
      check(stdout, stderr)
    }
  }
}

const range = [{ containerId: 0, hostId: 0, size: 65_536 }]
const ranges = { uids: range, gids: range }

const status = (text: string): Map<string, string> =>
  new Map(text.split('\n').map((line) => line.split(':\t').map((part) => part.trim()) as [string, string]))

const bits = (...numbers: number[]): string =>
  numbers
    .reduce((set, number) => set | (1n << BigInt(number)), 0n)
    .toString(16)
    .padStart(16, '0')

const sets = {
  bounding: ['CHOWN', 'KILL', 'SETUID', 'NET_RAW'],
  permitted: ['CHOWN', 'KILL', 'SETUID'],
  effective: ['CHOWN'],
  inheritable: ['CHOWN', 'KILL'],
  ambient: ['CAP_KILL'],
}

testHere('each of the five capability sets is what was asked for, as root and as another user', async (t) => {
  const user = { uid: 1000, gid: 1000 }
  // The sets before the execution become these by the rules of capabilities(7), "Transformation of capabilities".
  await everywhere({ user, capabilities: sets }, 'cat /proc/self/status', (stdout) => {
    const found = status(stdout)
    t.is(found.get('CapBnd'), bits(0, 5, 7, 13))
    t.is(found.get('CapInh'), bits(0, 5))
    t.is(found.get('CapAmb'), bits(5))
    t.is(found.get('CapPrm'), bits(5), 'the ambient ones')
    t.is(found.get('CapEff'), bits(5))
  })
  for (const noNewPrivileges of [true, false]) {
    await everywhere({ capabilities: sets, noNewPrivileges }, 'cat /proc/self/status', (stdout) => {
      const found = status(stdout)
      t.is(found.get('CapBnd'), bits(0, 5, 7, 13))
      t.is(found.get('CapInh'), bits(0, 5))
      t.is(found.get('CapAmb'), bits(5))
      // For root a file has all capabilities that can be had, but nothing new comes with no_new_privs.
      const had = noNewPrivileges ? bits(0, 5, 7) : bits(0, 5, 7, 13)
      t.is(found.get('CapPrm'), had)
      t.is(found.get('CapEff'), had)
    })
  }
})

testHere('a list of capabilities is the bounding, effective and permitted set, and works', async (t) => {
  await everywhere(
    { capabilities: ['CHOWN'] },
    'cat /proc/self/status; touch /tmp/x; chown 7 /tmp/x && stat -c %u /tmp/x',
    (stdout) => {
      const found = status(stdout)
      for (const set of ['CapBnd', 'CapPrm', 'CapEff']) t.is(found.get(set), bits(0), set)
      for (const set of ['CapInh', 'CapAmb']) t.is(found.get(set), bits(), set)
      t.true(stdout.endsWith('\n7\n'))
    },
  )
  await everywhere({ capabilities: [] }, 'touch /tmp/y; chown 7 /tmp/y || echo refused', (stdout) => {
    t.is(stdout, 'refused\n')
  })
})

testHere('capability sets that contradict each other are refused at the call', async (t) => {
  const rootfs = await root()
  for (const capabilities of [
    { effective: ['KILL'] },
    { permitted: ['KILL'], ambient: ['KILL'] },
    { inheritable: ['KILL'], ambient: ['KILL'] },
    ['NOTHING'],
    { unknown: [] },
  ]) {
    await t.throwsAsync(rootfs.run('/bin/true', [], { capabilities } as SpawnOptions), {
      code: 'ERR_INVALID_ARG_VALUE',
    })
  }
})

testHere('resource limits are those that were asked for', async (t) => {
  const rlimits = [
    { type: 'RLIMIT_NOFILE', soft: 20, hard: 30 },
    { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
    { type: 'RLIMIT_FSIZE', soft: 4096, hard: Infinity },
    { type: 'RLIMIT_CPU', soft: 100, hard: 200 },
  ]
  const script = 'cat /proc/self/limits; head -c 5000 /dev/zero > /tmp/large; stat -c %s /tmp/large'
  await everywhere({ rlimits }, script, (stdout) => {
    t.regex(stdout, /^Max open files +20 +30 /m)
    t.regex(stdout, /^Max core file size +0 +0 /m)
    t.regex(stdout, /^Max file size +4096 +unlimited /m)
    t.regex(stdout, /^Max cpu time +100 +200 /m)
    t.true(stdout.endsWith('\n4096\n'))
  })
})

testHere('more descriptors than the limit of open files allows are passed all the same', async (t) => {
  const stdio = ['ignore', 'ignore', 'ignore', ...Array.from({ length: 40 }, () => 0)] as const
  const rlimits = [{ type: 'RLIMIT_NOFILE', soft: 20, hard: 20 }]
  // The descriptors are there before the limit is: getrlimit(2) allows that.
  t.is((await (await root()).run('/bin/true', [], { stdio: [...stdio], rlimits })).exitCode, 0)
})

for (const noNewPrivileges of [undefined, true, false]) {
  testHere(
    `noNewPrivileges ${noNewPrivileges}: a set-user-id program ${noNewPrivileges === false ? 'has' : 'has not'} its owner’s rights`,
    async (t) => {
      const directory = await busyboxImage(join(host.scratch('setuid'), 'root'))
      // busybox itself keeps the rights for this applet.
      // The image's own is a link whose target would be the host's.
      rmSync(join(directory, 'bin', 'su'), { force: true })
      copyFileSync(join(directory, 'bin', 'busybox'), join(directory, 'bin', 'su'))
      chmodSync(join(directory, 'bin', 'su'), 0o4755)
      const options = {
        user: { uid: 1000, gid: 1000 },
        capabilities: { bounding: ['SETUID', 'SETGID'] },
        ...(noNewPrivileges !== undefined && { noNewPrivileges }),
      }
      const script =
        'grep NoNewPrivs /proc/self/status; /bin/su root -c "id -u" </dev/null 2>/dev/null || echo refused'
      writeFileSync(
        join(directory, 'etc', 'passwd'),
        'root::0:0:root:/:/bin/sh\nuser::1000:1000:user:/:/bin/sh\n',
      )
      const { stdout } = await new Rootfs(directory).defaults().run('/bin/sh', ['-c', script], options)
      t.is(stdout, noNewPrivileges === false ? 'NoNewPrivs:\t0\n0\n' : 'NoNewPrivs:\t1\nrefused\n')
    },
  )
}

/** mkdir and mkdirat answer EDOM; everything else is allowed. seccomp(2), BPF instructions of eight bytes. */
function noDirectories(): Uint8Array {
  const calls = arch() === 'x64' ? [83, 258] : [34]
  const instruction = (code: number, jt: number, jf: number, k: number): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeUInt16LE(code, 0)
    bytes.writeUInt8(jt, 2)
    bytes.writeUInt8(jf, 3)
    bytes.writeUInt32LE(k, 4)
    return bytes
  }
  return Buffer.concat([
    instruction(0x20, 0, 0, 0),
    ...calls.map((call, index) => instruction(0x15, calls.length - index, 0, call)),
    instruction(0x06, 0, 0, 0x7fff0000),
    instruction(0x06, 0, 0, 0x00050000 | 33),
  ])
}

for (const noNewPrivileges of [true, false]) {
  testHere(`a seccomp filter is in force with noNewPrivileges ${noNewPrivileges}`, async (t) => {
    const script =
      'grep -E "^(Seccomp|NoNewPrivs):" /proc/self/status; mkdir /tmp/made; touch /tmp/file && echo still'
    for (const user of [
      { uid: 0, gid: 0 },
      { uid: 1000, gid: 1000 },
    ]) {
      await everywhere({ seccomp: noDirectories(), noNewPrivileges, user }, script, (stdout, stderr) => {
        t.regex(stdout, new RegExp(`^NoNewPrivs:\t${noNewPrivileges ? 1 : 0}$`, 'm'))
        t.regex(stdout, /^Seccomp:\t2$/m)
        t.regex(stderr, /mkdir.*(Numerical|domain)/i)
        t.true(stdout.endsWith('still\n'))
      })
    }
  })
}

testHere('a seccomp filter that the kernel refuses is an error, and nothing runs', async (t) => {
  const error = await t.throwsAsync((await root()).run('/bin/true', [], { seccomp: new Uint8Array(8) }), {
    instanceOf: RootfsError,
    code: 'ERR_ROOTFS_EXEC',
  })
  t.is((error as RootfsError).errnoName, 'EINVAL')
})

testHere('ids, groups and umask are those that were asked for', async (t) => {
  const user = { uid: 1234, gid: 2345, additionalGids: [10, 20, 3456], umask: 0o27 }
  const script =
    'id -u; id -g; grep ^Groups /proc/self/status; umask; touch /tmp/f; stat -c "%a %u %g" /tmp/f'
  await everywhere({ user }, script, (stdout) => {
    t.is(stdout.replace(/[ \t]+/g, ' '), '1234\n2345\nGroups: 10 20 3456 \n0027\n640 1234 2345\n')
  })
  await everywhere({}, 'id -u; id -g; grep ^Groups /proc/self/status; umask', (stdout) => {
    t.is(stdout.replace(/[ \t]+/g, ' '), '0\n0\nGroups: \n0022\n')
  })
})

const ordinary = cells.find(({ name }) => name === 'unprivileged')!

testNeeding([...ordinary.needs, 'busybox'])(
  'groups where setgroups is denied are an error that says why',
  async (t) => {
    const directory = await busyboxImage(join(host.scratch('groups'), 'root'), { owner: ordinary.owner })
    const options = { user: { uid: 0, gid: 0, additionalGids: [0] } }
    for (const mode of ['run', 'prepare'] as const) {
      const job = { root: directory, calls: [], mode, commands: [{ command: '/bin/true', options }] }
      const { error } = await runInCell(ordinary, job, host)
      t.is(error?.code, 'ERR_ROOTFS_EXEC')
      t.regex(error?.message ?? '', /additional groups.*setgroups is denied/)
    }
  },
)

testHere('a name without a slash is looked up inside, in the PATH of the command', async (t) => {
  const directory = await busyboxImage(join(host.scratch('lookup'), 'root'))
  mkdirSync(join(directory, 'first'))
  mkdirSync(join(directory, 'second'))
  mkdirSync(join(directory, 'first', 'tool'))
  for (const [place, mode] of [
    ['second', 0o644],
    ['bin', 0o755],
  ] as const) {
    writeFileSync(join(directory, place, 'tool'), `#!/bin/sh\necho ${place}\n`, { mode })
    chmodSync(join(directory, place, 'tool'), mode)
  }
  const rootfs = new Rootfs(directory).defaults()
  await using box = await rootfs.prepare()
  for (const runner of [rootfs, box] as Array<Rootfs | PreparedRootfs>) {
    // A directory and a file that can't be executed are passed over, as execvp(3) does.
    t.is((await runner.run('tool', [], { env: { PATH: '/first:/second:/bin' } })).stdout, 'bin\n')
    t.is((await runner.run('tool')).stdout, 'bin\n')
    await t.throwsAsync(runner.run('tool', [], { env: { PATH: '/etc' } }), { code: 'ERR_ROOTFS_EXEC' })
    await t.throwsAsync(runner.run('tool', [], { env: {} }), { code: 'ERR_ROOTFS_EXEC' })
    // It is there on the host, and not inside; nor is a relative directory taken.
    await t.throwsAsync(runner.run('node', [], { env: { PATH: process.env.PATH } }), {
      code: 'ERR_ROOTFS_EXEC',
    })
    await t.throwsAsync(runner.run('tool', [], { cwd: '/bin', env: { PATH: '.:' } }), {
      code: 'ERR_ROOTFS_EXEC',
    })
  }
})

// ---------------------------------------------------------------- builders and prepared roots

testHere('one builder runs 100 containers at once', async (t) => {
  const rootfs = await root()
  const tree = snapshotTree(await image!)
  const results = await Promise.all(
    Array.from({ length: 100 }, (_, index) =>
      index % 2 === 0
        ? rootfs.run('/bin/sh', ['-c', `echo ${index} > /tmp/own; cat /tmp/own`])
        : rootfs.prepare().then(async (box) => {
            const result = await box.run('/bin/sh', ['-c', `echo ${index} > /tmp/own; cat /tmp/own`])
            await box.close()
            return result
          }),
    ),
  )
  t.deepEqual(
    results.map(({ stdout }) => stdout),
    Array.from({ length: 100 }, (_, index) => `${index}\n`),
  )
  t.deepEqual(snapshotTree(await image!), tree)
})

testHere('a change of a builder changes nothing that runs or was begun', async (t) => {
  const rootfs = await root()
  const box = await rootfs.prepare()
  t.teardown(() => box.close())
  const child = rootfs.spawn('/bin/sh', ['-c', 'read line; ls -d /later; hostname'])
  const running = rootfs.run('/bin/sh', ['-c', 'ls -d /later; hostname'])
  rootfs.tmpfs('/later').hostname('changed').readonly()
  child.stdin!.end('\n')
  let output = ''
  child.stdout!.on('data', (chunk) => (output += chunk))
  child.stderr!.resume()
  await once(child, 'close')
  for (const stdout of [
    output,
    (await running).stdout,
    (await box.run('/bin/sh', ['-c', 'ls -d /later; hostname'])).stdout,
  ]) {
    t.false(stdout.includes('/later'))
    t.false(stdout.includes('changed'))
  }
  t.is((await rootfs.run('/bin/sh', ['-c', 'ls -d /later; hostname'])).stdout, '/later\nchanged\n')
})

testHere(
  'a prepared root whose first process is killed from outside is closed, with all in it',
  async (t) => {
    const box = await (await root()).prepare()
    const child = box.spawn('/bin/sleep', ['1000'])
    await once(child, 'spawn')
    const ended = once(child, 'close')
    process.kill(box.pid, 'SIGKILL')
    // Asked for right then, before this process has heard of it.
    const earlyEnd = new Promise<unknown>((resolve) => {
      try {
        const early = box.spawn('/bin/true')
        early.once('error', resolve)
        early.once('exit', resolve)
      } catch (error) {
        // The addon may have heard of it already.
        resolve(error)
      }
    })
    const run = box.run('/bin/true').then(
      () => undefined,
      (error: unknown) => error,
    )
    t.deepEqual(await ended, [null, 'SIGKILL'])
    t.like(await earlyEnd, { code: 'ERR_ROOTFS_CLOSED' })
    t.like(await run, { code: 'ERR_ROOTFS_CLOSED' })
    // As `Rootfs.spawn` has it: not thrown, and the streams are there.
    const late = box.spawn('/bin/echo', ['late'])
    const lateClose = new Promise((resolve) => late.once('close', resolve))
    const [failure] = await once(late, 'error')
    await lateClose
    t.true(failure instanceof RootfsError)
    t.like(failure, { code: 'ERR_ROOTFS_CLOSED' })
    t.regex(failure.stack, /process\.spec/)
    t.deepEqual([late.pid, late.spawnargs], [undefined, ['/bin/echo', 'late']])
    t.throws(() => box.spawn(1 as never), { instanceOf: TypeError, code: 'ERR_INVALID_ARG_TYPE' })
    await t.throwsAsync(box.run('/bin/true'), { instanceOf: RootfsError, code: 'ERR_ROOTFS_CLOSED' })
    await t.throwsAsync(box.mounts(), { instanceOf: RootfsError, code: 'ERR_ROOTFS_CLOSED' })
    await box.close()
    t.deepEqual(
      await eventually(
        () => containers(),
        (left) => left.length === 0,
      ),
      [],
    )
  },
)

testHere('close while commands begin ends them all, and each is told', async (t) => {
  const box = await (await root()).prepare()
  const children = Array.from({ length: 20 }, () => box.spawn('/bin/sleep', ['1000']))
  const ends = children.map(
    (child) =>
      new Promise<unknown>((resolve) => {
        child.once('error', (error) => resolve((error as RootfsError).code))
        child.once('exit', (_, signal) => resolve(signal))
      }),
  )
  await box.close()
  for (const end of await Promise.all(ends))
    t.true(end === 'SIGKILL' || end === 'ERR_ROOTFS_CLOSED', `${end}`)
})

test('what is wrong with the options of a command is said with all that is possible', async (t) => {
  const rootfs = new Rootfs('/srv')
  const nosuch = { nosuch: 1 } as object
  const control = 'signal, timeout, killSignal'
  const preparation = 'cgroup, verify, onStep'
  const message = (known: string) =>
    new RegExp(`^Unknown option nosuch: known ones are env, cwd, .*, ${known}$`)
  await t.throwsAsync(rootfs.run('x', [], nosuch), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: message(`stdio, ${control}, input, encoding, maxBuffer, ${preparation}`),
  })
  t.throws(() => rootfs.spawn('x', [], nosuch), { message: message(`stdio, ${control}, ${preparation}`) })
  await t.throwsAsync(rootfs.run('x', [], { capabilities: 'ALL' as never }), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected array of names, .* for capabilities but received 'ALL' of type string$/,
  })
  await t.throwsAsync(rootfs.run(''), { message: /but received '' of type string$/ })
  await t.throwsAsync(rootfs.run('x', [], { encoding: '' as never }), {
    message: /but received '' of type string$/,
  })
})
