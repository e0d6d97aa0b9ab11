// Hooks: programs at all six points and functions at three, what they are told, and what their failure means.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type HookPoint, type HookState, Rootfs, RootfsError } from 'rootfs'
import { cells, openDirectory, runInCell } from './support/cells.ts'
import { becomesAgain, guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { containers, eventually, processesMarked } from './support/processes.ts'
import { mustRun, runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)
const testHere = testNeeding(['root', 'busybox'])

const points = [
  'prestart',
  'createRuntime',
  'createContainer',
  'startContainer',
  'poststart',
  'poststop',
] as const
const image = (): Promise<string> => busyboxImage(join(host.scratch('image'), 'root'), { mountpoints: false })

const program = (script: string, more: object = {}) => ({
  path: '/bin/sh',
  args: ['sh', '-ec', script],
  env: ['PATH=/usr/bin:/bin'],
  ...more,
})

const ways = {
  run: async (rootfs: Rootfs): Promise<unknown> => rootfs.run('/bin/sh', ['-c', 'sleep 0.3']),
  spawn: async (rootfs: Rootfs): Promise<unknown> => {
    const child = rootfs.spawn('/bin/sh', ['-c', 'sleep 0.3'])
    return new Promise((resolve, reject) => {
      let failure: unknown
      child.once('error', (error) => (failure = error))
      child.once('close', (...how) => (failure === undefined ? resolve(how) : reject(failure)))
    })
  },
  prepare: async (rootfs: Rootfs): Promise<unknown> => {
    const box = await rootfs.prepare()
    await delay(50)
    await box.close()
    return undefined
  },
} as const

/** Nothing of it is left, on the host or as a process. */
async function leavesNothing(t: ExecutionContext, root: string, work: () => Promise<void>) {
  const tree = snapshotTree(root)
  await work()
  t.deepEqual(snapshotTree(root), tree)
  t.deepEqual(
    await eventually(
      () => containers(),
      (left) => left.length === 0,
    ),
    [],
  )
}

for (const [way, begin] of Object.entries(ways)) {
  testHere(`${way}: programs run at all six points, in their order, and are told the state`, async (t) => {
    const root = await image()
    const evidence = openDirectory(host, 'evidence')
    const inside = '/evidence'
    const rootfs = new Rootfs(root).defaults().bind(evidence, inside)
    for (const point of points.toReversed()) {
      for (const name of ['a', 'b']) {
        const directory = point === 'startContainer' ? inside : evidence
        const script = `cat > ${directory}/${point}.${name}; echo ${point}.${name} >> ${directory}/order`
        rootfs.hook(point, program(script))
      }
    }
    await leavesNothing(t, root, async () => {
      await begin(rootfs)
    })
    const order = readFileSync(join(evidence, 'order'), 'utf8').trim().split('\n')
    t.deepEqual(
      order,
      points.flatMap((point) => [`${point}.a`, `${point}.b`]),
    )
    const states = points.map((point) => JSON.parse(readFileSync(join(evidence, `${point}.a`), 'utf8')))
    t.deepEqual(
      states.map(({ status }) => status),
      ['creating', 'creating', 'creating', 'created', 'running', 'stopped'],
    )
    for (const state of states) t.like(state, { ociVersion: '1.2.0', id: states[0].id, annotations: {} })
    for (const state of states.slice(0, 5)) t.is(state.pid, states[0].pid)
    t.false('pid' in states[5])
    for (const at of [0, 1, 2, 4, 5]) t.is(states[at].bundle, root)
  })

  testHere(`${way}: hooks of a root that the host doesn't have are told no path of the host`, async (t) => {
    const lower = await image()
    const evidence = openDirectory(host, 'evidence')
    const inside = '/evidence'
    const functions: [string, string | undefined, boolean][] = []
    // Read and written through `root` by the hook itself, where it is told one.
    const script = (directory: string, point: string) =>
      `cat > ${directory}/${point}; root=$(sed -n 's/.*"root":"\\([^"]*\\)".*/\\1/p' ${directory}/${point})
       test -z "$root" || { test -d "$root/own" && echo > "$root/own/${point}"; }`
    const rootfs = Rootfs.overlay({ lower: [lower] })
      .defaults()
      .tmpfs('/own')
      .bind(evidence, inside)
    for (const point of points) {
      rootfs.hook(point, program(script(point === 'startContainer' ? inside : evidence, point)))
    }
    for (const point of ['prestart', 'createRuntime', 'poststart', 'poststop'] as const) {
      rootfs.hook(point, ({ root }) => {
        functions.push([point, root, root !== undefined && existsSync(join(root, 'own', point))])
      })
    }
    await leavesNothing(t, lower, async () => {
      await begin(rootfs)
    })
    const states = points.map((point) => JSON.parse(readFileSync(join(evidence, point), 'utf8')))
    const proc = `/proc/${states[0].pid}/root`
    t.true(states[0].root.startsWith(`${proc}/`), states[0].root)
    t.is(states[1].root, states[0].root)
    t.is(states[2].root, states[0].root.slice(proc.length))
    t.deepEqual(
      states.slice(3).map(({ root, bundle }) => [root, bundle]),
      [
        ['/', '/'],
        [proc, proc],
        [undefined, undefined],
      ],
    )
    t.deepEqual(functions, [
      ['prestart', states[0].root, true],
      ['createRuntime', states[0].root, true],
      ['poststart', proc, true],
      ['poststop', undefined, false],
    ])
  })

  for (const point of points.slice(0, 5)) {
    testHere(
      `${way}: a ${point} program that fails undoes everything, and poststop still runs`,
      async (t) => {
        const root = await image()
        const evidence = openDirectory(host, 'evidence')
        const rootfs = new Rootfs(root)
          .defaults()
          .tmpfs('/made')
          .hook(point, program('true'))
          .hook(point, program('echo to stdout; echo to stderr >&2; exit 3'))
          .hook('poststop', program(`cat > ${evidence}/stopped`))
        await leavesNothing(t, root, async () => {
          const error = await t.throwsAsync(begin(rootfs), {
            instanceOf: RootfsError,
            code: 'ERR_ROOTFS_HOOK',
          })
          for (const part of [
            `${point}[1] /bin/sh`,
            'exit status 3',
            'stdout: to stdout',
            'stderr: to stderr',
          ]) {
            t.true(error!.message.includes(part), `${error!.message}: ${part}`)
          }
        })
        t.is(JSON.parse(readFileSync(join(evidence, 'stopped'), 'utf8')).status, 'stopped')
      },
    )
  }

  testHere(`${way}: functions run at their points, and are told the state`, async (t) => {
    const root = await image()
    const told: Array<[string, HookState]> = []
    const mounts: string[] = []
    const rootfs = new Rootfs(root)
      .defaults()
      .tmpfs('/made')
      .hook('poststop', (state) => void told.push(['poststop', state]))
      .hook('poststart', async (state) => {
        await delay(20)
        t.truthy(readlinkSync(state.mountNamespace))
        told.push(['poststart', state])
      })
      .hook('createRuntime', async (state) => {
        await delay(20)
        told.push(['createRuntime', state])
        const args = [`--mount=${state.mountNamespace}`, 'cat', '/proc/self/mountinfo']
        mounts.push((await runProgram('nsenter', args)).stdout)
      })
      .hook('prestart', async (state) => {
        await delay(20)
        t.truthy(readlinkSync(state.mountNamespace))
        told.push(['prestart', state])
      })
    await leavesNothing(t, root, async () => {
      await begin(rootfs)
    })
    t.deepEqual(
      told.map(([point]) => point),
      ['prestart', 'createRuntime', 'poststart', 'poststop'],
    )
    for (const [, state] of told) {
      t.deepEqual(state, {
        pid: told[0]![1].pid,
        root,
        mountNamespace: `/proc/${told[0]![1].pid}/ns/mnt`,
        annotations: {},
      })
    }
    t.true(told[0]![1].pid > 1)
    t.true(mounts[0]!.includes(` ${root}/made `), 'the tree is there in the mount namespace')
  })

  for (const point of ['prestart', 'createRuntime'] as const) {
    testHere(
      `${way}: a ${point} function that throws fails the preparation and undoes everything`,
      async (t) => {
        const root = await image()
        const cause = new Error('not today')
        for (const fn of [
          function network() {
            throw cause
          },
          async function network() {
            await delay(10)
            throw cause
          },
        ]) {
          let stopped = 0
          const rootfs = new Rootfs(root)
            .defaults()
            .tmpfs('/made')
            .hook(point, fn)
            .hook('poststop', () => void stopped++)
          await leavesNothing(t, root, async () => {
            const error = await t.throwsAsync(begin(rootfs), {
              instanceOf: RootfsError,
              code: 'ERR_ROOTFS_HOOK',
            })
            t.is((error as Error).cause, cause)
            t.true(error!.message.includes(`${point}[0] network: Error: not today`), error!.message)
            t.is((error as RootfsError).step?.type, 'hook')
          })
          t.is(stopped, 1)
        }
      },
    )
  }

  testHere(`${way}: a poststart function that throws kills the container`, async (t) => {
    const root = await image()
    const cause = new Error('not like this')
    let pid = 0
    const rootfs = new Rootfs(root)
      .defaults()
      .tmpfs('/made')
      .hook('poststart', async function ready(state) {
        pid = state.pid
        throw cause
      })
    await leavesNothing(t, root, async () => {
      const error = await t.throwsAsync(begin(rootfs), { instanceOf: RootfsError, code: 'ERR_ROOTFS_HOOK' })
      t.is((error as Error).cause, cause)
      t.regex(error!.message, /poststart\[0\] ready/)
    })
    t.false(existsSync(`/proc/${pid}`))
  })

  testHere(`${way}: what fails at poststop is a process warning only`, async (t) => {
    const root = await image()
    const cause = new Error('too late')
    const warnings: Error[] = []
    const listen = (warning: Error) => warnings.push(warning)
    process.on('warning', listen)
    t.teardown(() => process.off('warning', listen))
    const rootfs = new Rootfs(root)
      .defaults()
      .hook('poststop', program('exit 4'))
      .hook('poststop', program('exit 5'))
      .hook('poststop', () => {
        throw cause
      })
    await leavesNothing(t, root, async () => {
      await t.notThrowsAsync(begin(rootfs))
    })
    await eventually(
      () => warnings.length,
      (count) => count >= 3,
    )
    t.deepEqual(
      warnings.map((warning) => (warning as RootfsError).code),
      ['ERR_ROOTFS_HOOK', 'ERR_ROOTFS_HOOK', 'ERR_ROOTFS_HOOK'],
    )
    t.regex(warnings[2]!.message, /poststop\[2\] function: Error: too late/)
    t.regex(warnings[0]!.message, /poststop\[0\].*exit status 4/)
    t.regex(warnings[1]!.message, /poststop\[1\].*exit status 5/)
    t.is(warnings[2]!.cause, cause)
  })

  testHere(`${way}: a poststart program has run before the beginning is told`, async (t) => {
    const root = await image()
    const evidence = openDirectory(host, 'evidence')
    const rootfs = new Rootfs(root).defaults().hook('poststart', program(`sleep 0.2; echo > ${evidence}/ran`))
    const ran = () => existsSync(join(evidence, 'ran'))
    if (way === 'spawn') {
      const child = rootfs.spawn('/bin/sleep', ['0.3'])
      await once(child, 'spawn')
      t.true(ran())
      await once(child, 'close')
    } else if (way === 'prepare') {
      await using _box = await rootfs.prepare()
      t.true(ran())
    } else {
      await rootfs.run('/bin/true')
      t.true(ran(), 'also for a command that is over before')
    }
  })
}

testHere('poststart does not run for a command that could not be executed', async (t) => {
  const root = await image()
  const evidence = openDirectory(host, 'evidence')
  let called = 0
  const rootfs = new Rootfs(root)
    .defaults()
    .hook('poststart', program(`echo > ${evidence}/ran`))
    .hook('poststart', () => void called++)
  await t.throwsAsync(rootfs.run('/no/such/command'), { code: 'ERR_ROOTFS_EXEC' })
  await t.throwsAsync(ways.spawn(new Rootfs('/no/such/root').hook('poststart', () => void called++)), {
    code: 'ERR_ROOTFS_ROOT',
  })
  t.false(existsSync(join(evidence, 'ran')))
  t.is(called, 0)
})

for (const point of points.slice(0, 5)) {
  testHere(`a ${point} program over its timeout is killed with what it has begun`, async (t) => {
    const root = await image()
    const marker = `rootfs-hook-${point}-${Date.now()}`
    const hook = program('sleep 1000 & sleep 1000', {
      timeout: 1,
      env: ['PATH=/usr/bin:/bin', `MARKER=${marker}`],
    })
    const rootfs = new Rootfs(root).defaults().hook(point, hook)
    await leavesNothing(t, root, async () => {
      const error = await t.throwsAsync(ways.spawn(rootfs), { code: 'ERR_ROOTFS_HOOK' })
      t.regex(error!.message, /did not end within 1 s/)
    })
    t.deepEqual(
      await eventually(
        () => processesMarked(marker),
        (left) => left.length === 0,
      ),
      [],
    )
  })
}

testHere('a startContainer program without an environment has that of the command', async (t) => {
  const root = await image()
  const evidence = openDirectory(host, 'evidence')
  const hook = (env?: string[]) => ({
    path: '/bin/sh',
    args: ['sh', '-c', 'echo "$OWN $PATH" >> /evidence/env'],
    ...(env && { env }),
  })
  const rootfs = new Rootfs(root)
    .defaults()
    .bind(evidence, '/evidence')
    .hook('startContainer', hook())
    .hook('startContainer', hook(['OWN=hook', 'PATH=/bin']))
  await rootfs.run('/bin/true', [], { env: { PATH: '/bin:/usr/bin', OWN: 'command' } })
  t.is(readFileSync(join(evidence, 'env'), 'utf8'), 'command /bin:/usr/bin\nhook /bin\n')
})

testHere('programs at other points have an empty environment', async (t) => {
  const root = await image()
  const evidence = openDirectory(host, 'evidence')
  const rootfs = new Rootfs(root).defaults()
  for (const point of ['createRuntime', 'poststart', 'poststop'] as const) {
    rootfs.hook(point, { path: '/usr/bin/env', args: ['env'] })
    rootfs.hook(point, {
      path: '/bin/sh',
      args: ['sh', '-c', `/usr/bin/env | /bin/grep -c SECRET >> ${evidence}/env`],
    })
  }
  process.env.SECRET = 'of the caller'
  t.teardown(() => delete process.env.SECRET)
  await t.throwsAsync(rootfs.run('/bin/true'), { code: 'ERR_ROOTFS_HOOK', message: /exit status 1/ })
  t.true(readFileSync(join(evidence, 'env'), 'utf8').startsWith('0\n'))
})

for (const point of ['prestart', 'createRuntime', 'poststart'] as const) {
  testHere(`an abort during a ${point} function ends the container, and it is not waited for`, async (t) => {
    const root = await image()
    const controller = new AbortController()
    let release = () => {}
    const rootfs = new Rootfs(root)
      .defaults()
      .tmpfs('/made')
      .hook(point, () => {
        controller.abort()
        return new Promise<void>((resolve) => (release = resolve))
      })
    await leavesNothing(t, root, async () => {
      await t.throwsAsync(rootfs.prepare({ signal: controller.signal }), { name: 'AbortError' })
      release()
    })
  })
}

testHere(
  'the death of Node during a createRuntime function leaves nothing, and poststop programs run',
  async (t) => {
    const root = await image()
    const evidence = openDirectory(host, 'evidence')
    const script = `
    import('rootfs').then(({ Rootfs }) =>
      new Rootfs(process.argv[1]).defaults().tmpfs('/made')
        .hook('poststop', { path: '/bin/sh', args: ['sh', '-c', 'cat > ${evidence}/stopped'] })
        .hook('createRuntime', () => { console.log('there'); return new Promise(() => setInterval(() => {}, 1e6)) })
        .run('/bin/true'))`
    const tree = snapshotTree(root)
    const child = spawn(process.execPath, ['-e', script, root], { cwd: checkout })
    await once(child.stdout, 'data')
    t.notDeepEqual(snapshotTree(root), tree)
    child.kill('SIGKILL')
    await once(child, 'close')
    t.true(
      await eventually(
        () => existsSync(join(evidence, 'stopped')),
        (there) => there,
      ),
    )
    await becomesAgain(t, root, tree)
  },
)

testHere(
  'a builder keeps its functions for each container, and one that is added later is for later ones',
  async (t) => {
    const root = await image()
    let [first, second] = [0, 0]
    const rootfs = new Rootfs(root).defaults().hook('poststop', () => void first++)
    const running = rootfs.run('/bin/true')
    rootfs.hook('poststop', () => void second++)
    await running
    t.deepEqual([first, second], [1, 0])
    await rootfs.run('/bin/true')
    t.deepEqual([first, second], [2, 1])
  },
)

testHere('functions are refused at other points, and what is no hook everywhere', async (t) => {
  const rootfs = new Rootfs(await image())
  const hook = (when: unknown, what: unknown) => rootfs.hook(when as HookPoint, what as { path: string })
  for (const point of ['createContainer', 'startContainer', 'sometimes', undefined]) {
    t.regex((t.throws(() => hook(point, () => {})) as NodeJS.ErrnoException).code!, /^ERR_INVALID_ARG_/)
  }
  for (const point of ['createContainer', 'startContainer']) {
    t.throws(() => hook(point, () => {}), {
      instanceOf: TypeError,
      message: `Expected program ({ path }) for hook but received a function: hooks at ${point} run in the container's namespaces, where this process isn't; functions can run at prestart, createRuntime, poststart, poststop`,
    })
  }
  for (const what of [
    undefined,
    null,
    1,
    'text',
    {},
    { path: 'relative' },
    { path: '/bin/true', timeout: 0 },
  ]) {
    t.regex(
      (t.throws(() => hook('createRuntime', what)) as NodeJS.ErrnoException).code!,
      /^ERR_(INVALID_ARG_|OUT_OF_RANGE)/,
    )
  }
  t.is(rootfs.plan().steps.filter(({ type }) => type === 'hook').length, 0)
})

test('hooks are steps of the plan, in the order they run', (t) => {
  const rootfs = Rootfs.empty()
  for (const point of points.toReversed()) rootfs.hook(point, { path: `/bin/${point}` })
  rootfs.hook('createRuntime', function network() {})
  const steps = rootfs.plan().steps.filter(({ type }) => type === 'hook')
  t.deepEqual(
    steps.map(({ source, flags }) => [flags?.[0], source]),
    [
      ['prestart', '/bin/prestart'],
      ['createRuntime', '/bin/createRuntime'],
      ['createRuntime', 'network'],
      ['createContainer', '/bin/createContainer'],
      ['startContainer', '/bin/startContainer'],
      ['poststart', '/bin/poststart'],
      ['poststop', '/bin/poststop'],
    ],
  )
})

for (const cell of cells) {
  testNeeding([...cell.needs, 'busybox'])(`${cell.name}: programs run at all six points`, async (t) => {
    const root = await busyboxImage(join(host.scratch('cell'), 'root'), {
      mountpoints: false,
      owner: cell.owner,
    })
    const evidence = openDirectory(host, 'evidence')
    // They write as different users.
    writeFileSync(join(evidence, 'order'), '')
    chmodSync(join(evidence, 'order'), 0o666)
    const calls: Array<[string, ...unknown[]]> = [['defaults'], ['bind', evidence, '/evidence']]
    for (const point of points) {
      const directory = point === 'startContainer' ? '/evidence' : evidence
      // At createRuntime the container's namespaces can be entered, as whoever is asked.
      const enter = point === 'createRuntime' ? 'readlink /proc/$pid/ns/mnt >/dev/null || exit 9;' : ''
      const script = `state=$(cat); pid=$(echo "$state" | sed 's/.*"pid":\\([0-9]*\\).*/\\1/'); ${enter} echo ${point} >> ${directory}/order`
      calls.push(['hook', point, program(script)])
    }
    const job = { root, calls, mode: 'run' as const, commands: [{ command: '/bin/true' }] }
    const outcome = await runInCell(cell, job, host)
    t.is(outcome.error, undefined)
    t.deepEqual(readFileSync(join(evidence, 'order'), 'utf8').trim().split('\n'), [...points])
  })
}

// ---------------------------------------------------------------- the rights of a program of the image

/** What /proc/self/status says about who a process is and what it may do. */
const identity = (text: string): Record<string, string> =>
  Object.fromEntries(
    [...text.matchAll(/^((?:Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp|Umask):)[ \t]*(.*?)[ \t]*$/gm)].map(
      (line) => [line[1]!, line[2]!],
    ),
  )

/** The hook says who it is, and so does what it leaves in the background, while the command is there. */
const telling = {
  path: '/bin/sh',
  args: [
    'sh',
    '-ec',
    `cat /proc/self/status > /evidence/hook
    (sleep 0.2; cat /proc/self/status > /evidence/new; mv /evidence/new /evidence/left) < /dev/null > /dev/null 2>&1 &`,
  ],
  env: ['PATH=/bin'],
}
const waiting = 'cat /proc/self/status; until [ -e /evidence/left ]; do sleep 0.05; done'
const none = '0000000000000000'

for (const cell of cells) {
  const other = { uid: 1000, gid: 1001, additionalGids: [1002] }
  const hasOthers = cell.map === undefined || !cell.map[0]!.endsWith(' 1') || cell.map.length > 1
  const wholes = [{ uid: 0, gid: 0 }, ...(hasOthers ? [other] : [])]
  for (const user of wholes) {
    for (const [title, options] of [
      ['nothing said', {}],
      ['no capabilities', { capabilities: [] }],
      [
        'some capabilities and noNewPrivileges false',
        { capabilities: ['KILL', 'CHOWN'], noNewPrivileges: false },
      ],
    ] as const) {
      testNeeding([...cell.needs, 'busybox'])(
        `${cell.name}: a startContainer program is what the command is, user ${user.uid}, ${title}`,
        async (t) => {
          const root = await busyboxImage(join(host.scratch('cell'), 'root'), {
            mountpoints: false,
            owner: cell.owner,
          })
          const evidence = openDirectory(host, 'evidence')
          const calls: Array<[string, ...unknown[]]> = [
            ['defaults'],
            ['bind', evidence, '/evidence'],
            ['hook', 'startContainer', telling],
          ]
          const command = { command: '/bin/sh', args: ['-c', waiting], options: { ...options, user } }
          const { error, results } = await runInCell(
            cell,
            { root, calls, mode: 'run', commands: [command] },
            host,
          )
          t.is(error, undefined)
          const expected = identity(results[0]!.stdout)
          t.is(expected['Uid:']?.split(/\s+/)[0], `${user.uid}`)
          t.is(expected['NoNewPrivs:'], title.includes('false') ? '0' : '1')
          if (title === 'no capabilities') t.is(expected['CapBnd:'], none)
          for (const name of ['hook', 'left']) {
            t.deepEqual(identity(readFileSync(join(evidence, name), 'utf8')), expected, name)
          }
        },
      )
    }
  }

  testNeeding([...cell.needs, 'busybox'])(
    `${cell.name}: with prepare a startContainer program is what a command is by default`,
    async (t) => {
      const root = await busyboxImage(join(host.scratch('cell'), 'root'), {
        mountpoints: false,
        owner: cell.owner,
      })
      const evidence = openDirectory(host, 'evidence')
      const calls: Array<[string, ...unknown[]]> = [
        ['defaults'],
        ['bind', evidence, '/evidence'],
        ['hook', 'startContainer', telling],
      ]
      const commands = [{ command: '/bin/sh', args: ['-c', waiting] }]
      const { error, results } = await runInCell(cell, { root, calls, mode: 'prepare', commands }, host)
      t.is(error, undefined)
      const expected = identity(results[0]!.stdout)
      t.is(expected['NoNewPrivs:'], '1')
      // AUDIT_WRITE, KILL, NET_BIND_SERVICE.
      t.is(expected['CapBnd:'], '0000000020000420')
      for (const name of ['hook', 'left']) {
        t.deepEqual(identity(readFileSync(join(evidence, name), 'utf8')), expected, name)
      }
    },
  )
}

testHere('a startContainer program has the filter, the limits and the umask of the command', async (t) => {
  const root = await image()
  const evidence = openDirectory(host, 'evidence')
  // One instruction: everything is allowed. seccomp(2).
  const seccomp = Buffer.alloc(8)
  seccomp.writeUInt16LE(6, 0)
  seccomp.writeUInt32LE(0x7fff_0000, 4)
  const script = 'grep Seccomp: /proc/self/status; ulimit -n; ulimit -Hn; umask'
  const rootfs = new Rootfs(root)
    .defaults()
    .bind(evidence, '/evidence')
    .hook('startContainer', { path: '/bin/sh', args: ['sh', '-c', `(${script}) > /evidence/hook`] })
  for (const noNewPrivileges of [true, false]) {
    const { stdout } = await rootfs.run('/bin/sh', ['-c', script], {
      seccomp,
      noNewPrivileges,
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 20, hard: 30 }],
      user: { uid: 0, gid: 0, umask: 0o077 },
    })
    t.is(stdout, 'Seccomp:\t2\n20\n30\n0077\n')
    t.is(readFileSync(join(evidence, 'hook'), 'utf8'), stdout)
    // Those that nothing is said about too.
    const { stdout: usual } = await rootfs.run('/bin/sh', ['-c', script])
    t.is(readFileSync(join(evidence, 'hook'), 'utf8'), usual)
  }
})

testHere(
  'a startContainer program that can not be what the command is fails as a hook, with the hint',
  async (t) => {
    const rootfs = new Rootfs(await image()).defaults().namespaces({ user: true })
    rootfs.hook('startContainer', { path: '/bin/true' })
    const error = await t.throwsAsync(rootfs.run('/bin/true', [], { user: { uid: 1000, gid: 1000 } }), {
      instanceOf: RootfsError,
      code: 'ERR_ROOTFS_HOOK',
      message: /startContainer\[0\] \/bin\/true: .*gid 1000 is not mapped/,
    })
    t.regex((error as RootfsError).hint ?? '', /uids, gids/)
  },
)

// ---------------------------------------------------------------- executable memory

// The supervisor and the first process refuse it for themselves, PR_SET_MDWE; what they start compiles as it runs, perhaps.
for (const namespaces of [{}, { user: true }]) {
  testNeeding(['root', 'busybox', 'cc'])(
    `commands and hooks can make memory executable, with ${JSON.stringify(namespaces)}`,
    async (t) => {
      const root = await image()
      const evidence = host.scratch('evidence')
      chmodSync(evidence, 0o777)
      const memory = join(root, 'bin', 'memory')
      await mustRun('cc', ['-static', '-o', memory, join(checkout, '__test__', 'support', 'memory.c')])
      const rootfs = new Rootfs(root).defaults().namespaces(namespaces)
      const run = async (runner: { run(command: string): Promise<{ stdout: string }> }) =>
        (await runner.run('/bin/memory')).stdout
      t.is(await mustRun(memory, []), 'executed\n', 'the caller itself')
      t.is(await run(rootfs), 'executed\n')
      t.is(await run(rootfs), 'executed\n', 'in a first process that was made before')
      await using box = await rootfs.prepare()
      for (let turn = 0; turn < 2; turn++) t.is(await run(box), 'executed\n', 'in a prepared root')
      await using template = await rootfs.template()
      t.is(await run(template), 'executed\n', 'of a template')

      const hooked = new Rootfs(root).defaults().namespaces(namespaces).bind(evidence, '/evidence')
      for (const point of points) {
        const [command, to] = point === 'startContainer' ? ['/bin/memory', '/evidence'] : [memory, evidence]
        hooked.hook(point, program(`${command} >> ${to}/${point}`))
      }
      await run(hooked)
      await (await hooked.prepare()).close()
      const told = () =>
        points.map(
          (point) => existsSync(join(evidence, point)) && readFileSync(join(evidence, point), 'utf8'),
        )
      const twice = points.map(() => 'executed\nexecuted\n')
      t.deepEqual(await eventually(told, (all) => `${all}` === `${twice}`), twice)
    },
  )
}
