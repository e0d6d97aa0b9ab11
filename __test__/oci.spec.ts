// OCI configs: what runc writes runs, with or without privileges, and whatever isn't enforced is refused by its pointer.
import { chmodSync, closeSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import test from 'ava'
import { type OciSpec, probe, Rootfs, RootfsError } from 'rootfs'
import { type Cell, cells, openDirectory, runInCell } from './support/cells.ts'
import { guardHost, snapshotTree } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import type { Job, Outcome } from './support/job.ts'
import { findProgram, mustRun } from './support/program.ts'
import { levels, testNeeding } from './support/requirements.ts'

const host = guardHost(test)

/** What of a config the tests change. */
interface Config extends Record<string, unknown> {
  process: Record<string, unknown> & { args: string[] }
  root: { path: string; readonly?: boolean }
  mounts: Array<Record<string, unknown>>
  linux: Record<string, unknown> & { namespaces: Array<{ type: string; path?: string }> }
}

interface Bundle {
  directory: string
  config: Config
}

const cellOf = (name: string): Cell => cells.find((cell) => cell.name === name)!
const asRoot = cellOf('root')
const unprivileged = cellOf('unprivileged')

/** A bundle with the config that `runc spec` writes in it, changed, without a terminal. */
async function makeBundle(
  change: (config: Config) => void = () => {},
  { cell = asRoot, rootless = false } = {},
): Promise<Bundle> {
  const directory = openDirectory(host, 'bundle')
  await busyboxImage(join(directory, 'rootfs'), { owner: cell.owner })
  // Whatever mode the host's has: with set-user-id its capabilities would not be those of the process.
  chmodSync(join(directory, 'rootfs', 'bin', 'busybox'), 0o755)
  const runc = [findProgram('runc')!, 'spec', '--bundle', directory, ...(rootless ? ['--rootless'] : [])]
  const { uid } = cell
  const [program, ...args] =
    uid === 0 ? runc : ['setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', ...runc]
  await mustRun(program!, args)
  const path = join(directory, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Config
  config.process.terminal = false
  change(config)
  rmSync(path)
  writeFileSync(path, JSON.stringify(config))
  return { directory, config }
}

const runBundle = (directory: string, job: Partial<Job> = {}): Job => ({
  root: { bundle: directory },
  calls: [],
  mode: 'run',
  commands: [{}],
  ...job,
})

function output(outcome: Outcome): string {
  if (outcome.error !== undefined) throw new Error(JSON.stringify(outcome.error, undefined, 2))
  const [result] = outcome.results
  if (result?.exitCode !== 0) throw new Error(`the command ended with ${JSON.stringify(result)}`)
  return result.stdout
}

const shell = (script: string) => (config: Config) => {
  config.process.args = ['sh', '-c', script]
}

for (const level of levels) {
  for (const [title, cell, rootless] of [
    ['runc spec, as root', asRoot, false],
    ['runc spec --rootless, as root', asRoot, true],
    ['runc spec --rootless, as an ordinary user', unprivileged, true],
  ] as const) {
    const name = `${title}, ${level}: what it writes runs`
    testNeeding([...cell.needs, 'runc'], level)(name, async (t) => {
      const { directory } = await makeBundle(
        shell('id -u; hostname; touch /x 2>&1; cat /proc/self/uid_map; ls /dev; grep Cap /proc/self/status'),
        { cell, rootless },
      )
      const before = snapshotTree(join(directory, 'rootfs'))
      const stdout = output(await runInCell(cell, runBundle(directory), host, { level }))
      const [uid, name, touch, map, ...rest] = stdout.trim().split('\n')
      t.is(uid, '0')
      t.is(name, 'runc')
      t.regex(touch!, /Read-only file system/)
      t.is(map!.trim().replace(/ +/g, ' '), rootless ? `0 ${cell.uid} 1` : '0 0 4294967295')
      for (const device of ['null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx', 'pts', 'shm'])
        t.true(rest.includes(device), device)
      const capabilities = rest.filter((line) => line.startsWith('Cap')).map((line) => line.split('\t')[1])
      const set = '0000000020000420'
      const none = '0000000000000000'
      t.deepEqual(capabilities, [none, set, set, set, none])
      t.deepEqual(snapshotTree(join(directory, 'rootfs')), before)
    })
  }
}

const testHere = testNeeding(['root', 'busybox', 'runc'])

testHere('each field of the process is what the process is', async (t) => {
  const { directory } = await makeBundle((config) => {
    shell(
      'pwd; id -u; id -G; umask; echo "$A"; cat /proc/self/oom_score_adj /proc/self/limits /proc/self/status',
    )(config)
    Object.assign(config.process, {
      cwd: '/made/here',
      env: ['PATH=/bin', 'A=b=c'],
      user: { uid: 7, gid: 8, additionalGids: [9, 10], umask: 0o27 },
      capabilities: {
        bounding: ['CAP_KILL', 'CAP_CHOWN', 'CAP_NOT_YET'],
        permitted: ['CAP_CHOWN'],
        inheritable: ['CAP_CHOWN'],
        ambient: ['CAP_CHOWN'],
      },
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: 100, hard: 200 },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
      noNewPrivileges: false,
      oomScoreAdj: 123,
    })
    config.root.readonly = false
  })
  const rootfs = await Rootfs.fromBundle(directory)
  const { stdout, stderr, warnings } = await rootfs.run()
  const [cwd, uid, groups, umask, variable, score, ...rest] = stdout.split('\n')
  t.deepEqual(
    [cwd, uid, groups, umask, variable, score],
    ['/made/here', '7', '8 9 10', '0027', 'b=c', '123'],
    stderr,
  )
  const line = (name: string) => rest.find((text) => text.startsWith(name))!.replace(/\s+/g, ' ')
  t.regex(line('Max open files'), /^Max open files 100 200 /)
  t.regex(line('Max core file size'), /^Max core file size 0 0 /)
  t.is(line('CapBnd:'), 'CapBnd: 0000000000000021')
  t.is(line('CapPrm:'), 'CapPrm: 0000000000000001')
  t.is(line('NoNewPrivs:'), 'NoNewPrivs: 0')
  t.deepEqual(
    warnings.map(({ code }) => code),
    ['not-enforced', 'unknown-capability'],
  )
})

testHere(
  'the score of the out-of-memory killer is set for an ordinary user too, and lowering it is refused',
  async (t) => {
    const { directory, config } = await makeBundle(
      (config) => {
        shell('cat /proc/self/oom_score_adj')(config)
        config.process.oomScoreAdj = 200
      },
      { cell: unprivileged, rootless: true },
    )
    t.is(output(await runInCell(unprivileged, runBundle(directory), host)), '200\n')
    config.process.oomScoreAdj = -500
    writeFileSync(join(directory, 'config.json'), JSON.stringify(config))
    const { error } = await runInCell(unprivileged, runBundle(directory), host)
    t.is(error?.code, 'ERR_ROOTFS_DENIED')
    t.is(error?.errnoName, 'EACCES')
    t.regex(error?.hint ?? '', /CAP_SYS_RESOURCE/)
  },
)

testHere(
  'options replace what they name in the process of the config, and a command its words',
  async (t) => {
    const { directory } = await makeBundle((config) => {
      shell('pwd; id -u; echo "$A:$PATH"')(config)
      Object.assign(config.process, { cwd: '/etc', env: ['PATH=/bin', 'A=b'] })
    })
    const rootfs = await Rootfs.fromBundle(directory)
    t.is((await rootfs.run()).stdout, '/etc\n0\nb:/bin\n')
    t.is((await rootfs.run({ cwd: '/tmp' })).stdout, '/tmp\n0\nb:/bin\n')
    t.is((await rootfs.run({ env: { PATH: '/bin' }, user: { uid: 5, gid: 5 } })).stdout, '/etc\n5\n:/bin\n')
    t.deepEqual((await rootfs.run({ encoding: 'buffer' })).stdout, Buffer.from('/etc\n0\nb:/bin\n'))
    const child = rootfs.spawn({ cwd: '/tmp' })
    t.is(await text(child.stdout!), '/tmp\n0\nb:/bin\n')
    t.deepEqual([child.spawnfile, child.spawnargs.slice(0, 2)], ['sh', ['sh', '-c']])
    const { stdout } = await rootfs.run('/bin/sh', ['-c', 'pwd; echo "$A:$PATH"'])
    t.is(stdout, '/etc\nb:/bin\n')
    await t.throwsAsync(rootfs.run({ nosuch: true } as object), { code: 'ERR_INVALID_ARG_VALUE' })
  },
)

testHere('a command of one’s own may do no more than the process of the config', async (t) => {
  const { directory } = await makeBundle((config) => {
    Object.assign(config.process, {
      cwd: '/etc',
      env: ['PATH=/bin', 'A=b'],
      user: { uid: 1000, gid: 1001, additionalGids: [1002], umask: 0o77 },
      capabilities: {},
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 100, hard: 200 }],
      noNewPrivileges: true,
      oomScoreAdj: 321,
    })
  })
  const script =
    'pwd; id -u; id -G; umask; echo "$A:$PATH"; ulimit -n; cat /proc/self/oom_score_adj; grep -E "Cap|NoNew" /proc/self/status'
  const command = ['/bin/sh', ['-c', script]] as const
  const none = ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb'].map((name) => `Cap${name}:\t0000000000000000\n`).join('')
  const expected = `/etc\n1000\n1001 1002\n0077\nb:/bin\n100\n321\n${none}NoNewPrivs:\t1\n`
  const rootfs = await Rootfs.fromBundle(directory)
  await using box = await rootfs.prepare()
  for (const [name, place] of [
    ['first', rootfs],
    ['prepared', box],
  ] as const) {
    const { stdout, stderr } = await place.run(...command)
    t.is(stdout, expected, `${name} ${stderr}`)
    t.is(await text(place.spawn(...command).stdout!), expected, name)
    const other = await place.run(...command, {
      cwd: '/tmp',
      env: { PATH: '/bin', A: 'c' },
      user: { uid: 7, gid: 8 },
      noNewPrivileges: false,
    })
    const lines = other.stdout.split('\n')
    t.deepEqual(lines.slice(0, 7), ['/tmp', '7', '8', '0077', 'c:/bin', '100', '321'], name)
    t.is(other.stdout.slice(other.stdout.indexOf('CapInh')), `${none}NoNewPrivs:\t0\n`, name)
    const given = await place.run('/bin/grep', ['CapPrm', '/proc/self/status'], {
      user: { uid: 0, gid: 0 },
      capabilities: ['CHOWN'],
    })
    t.is(given.stdout, 'CapPrm:\t0000000000000001\n', name)
  }
})

for (const [field, feature, value, file] of [
  ['apparmorProfile', 'apparmor', 'unconfined', 'apparmor/current'],
  ['selinuxLabel', 'selinux', 'system_u:system_r:container_t:s0:c1,c2', 'current'],
] as const) {
  testHere(`process.${field} is in force, or refused where nobody enforces it`, async (t) => {
    const script = `cat /proc/self/attr/${file}`
    const { directory } = await makeBundle((config) => {
      config.process[field] = value
      config.hooks = {
        startContainer: [{ path: '/bin/sh', args: ['sh', '-c', `${script} > /dev/shm/hook`] }],
      }
      shell(`cat /dev/shm/hook; ${script}`)(config)
    })
    const before = snapshotTree(join(directory, 'rootfs'))
    const rootfs = await Rootfs.fromBundle(directory)
    const begun = {
      run: () => rootfs.run(),
      'a command of one’s own': () => rootfs.run('/bin/sh', ['-c', script]),
      prepare: async () => {
        await using box = await rootfs.prepare()
        return await box.run('/bin/sh', ['-c', `cat /dev/shm/hook; ${script}`])
      },
    }
    for (const [name, begin] of Object.entries(begun)) {
      if ((await probe()).features[feature]!.available) {
        const { stdout, stderr } = await begin()
        const found = new Set(stdout.split(/[\n\0]/).filter((line) => line !== ''))
        t.deepEqual([...found], [value], `${name}: ${stderr}`)
        continue
      }
      const error = (await t.throwsAsync(begin, { instanceOf: RootfsError }, name)) as RootfsError
      t.like(error, { code: 'ERR_ROOTFS_UNSUPPORTED', pointer: `/process/${field}` }, name)
      t.regex(error.message, new RegExp(`^process\\.${field}: (AppArmor|SELinux) is not active here`))
      t.regex(error.hint!, /ignore/)
    }
    t.deepEqual(snapshotTree(join(directory, 'rootfs')), before)
    const ignoring = await Rootfs.fromBundle(directory, { ignore: [`process.${field}`, 'hooks'] })
    t.is((await ignoring.run('/bin/echo', ['ran'])).stdout, 'ran\n')
    const written = rootfs.toSpec() as unknown as Config
    t.is(written.process[field], value)
  })
}

testHere('in a prepared root a startContainer program is what the process of the config is', async (t) => {
  const script = 'id -u; id -G; umask; ulimit -n; echo "$A"; grep -E "Cap|NoNew" /proc/self/status'
  const { directory } = await makeBundle((config) => {
    Object.assign(config.process, {
      env: ['PATH=/bin', 'A=b'],
      user: { uid: 7, gid: 8, additionalGids: [9, 10], umask: 0o27 },
      capabilities: { bounding: ['CAP_KILL'], permitted: ['CAP_KILL'], inheritable: ['CAP_KILL'] },
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 100, hard: 200 }],
      noNewPrivileges: true,
    })
    config.hooks = {
      startContainer: [{ path: '/bin/sh', args: ['sh', '-c', `(${script}) > /dev/shm/hook`] }],
    }
  })
  await using box = await (await Rootfs.fromBundle(directory)).prepare()
  const own = await box.run('/bin/sh', ['-c', script])
  const hook = await box.run('/bin/cat', ['/dev/shm/hook'])
  t.is(hook.stdout, own.stdout, own.stderr)
  t.regex(own.stdout, /^7\n8 9 10\n0027\n100\nb\n/)
})

testHere('a prepared root of a bundle runs commands', async (t) => {
  const { directory } = await makeBundle()
  const box = await (await Rootfs.fromBundle(directory)).prepare()
  t.is((await box.run('/bin/hostname')).stdout, 'runc\n')
  await box.close()
})

testHere('builder methods go on from a config', async (t) => {
  const { directory } = await makeBundle(shell('cat /mnt/file; hostname'))
  const source = host.scratch('source')
  writeFileSync(join(source, 'file'), 'bound\n')
  const rootfs = (await Rootfs.fromBundle(directory)).bind(source, '/mnt').hostname('other')
  t.is((await rootfs.run()).stdout, 'bound\nother\n')
})

testHere('a relative bundle is taken from the working directory, and its root from the bundle', async (t) => {
  const { directory } = await makeBundle(shell('echo ran'))
  const code = `
    import { Rootfs } from 'rootfs'
    const reading = Rootfs.fromBundle(process.argv[1])
    process.chdir('/')
    console.log((await (await reading).run()).stdout)
  `
  const args = ['--input-type=module', '--eval', code, './bundle/']
  const parent = host.scratch('parent')
  symlinkSync(directory, join(parent, 'bundle'))
  symlinkSync(join(import.meta.dirname, '..', 'node_modules'), join(parent, 'node_modules'))
  const here = join(import.meta.dirname, '..', 'dist', 'index.js')
  const program = [...args]
  program[2] = code.replace("'rootfs'", JSON.stringify(here))
  t.is(await mustRun(process.execPath, program, { cwd: parent }), 'ran\n\n')
})

testHere('the bundle itself can be the root', async (t) => {
  const { directory } = await makeBundle((config) => {
    shell('ls /')(config)
    config.root = { path: 'rootfs' }
  })
  const image = join(directory, 'rootfs')
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Config
  config.root = { path: '.' }
  writeFileSync(join(image, 'config.json'), JSON.stringify(config))
  const { stdout } = await (await Rootfs.fromBundle(image)).run()
  t.true(stdout.includes('config.json\n'))
})

testHere(
  'a source below the root directory is one of the tree, and its path goes from a destination',
  async (t) => {
    const { directory } = await makeBundle((config) => {
      shell('cat /mnt/inner; ls /seen')(config)
      config.root.readonly = false
      config.mounts.push(
        { destination: '/work', type: 'tmpfs', source: 'tmpfs' },
        // The tmpfs is there only in the tree that is being built.
        { destination: '/seen', source: 'rootfs/work', options: ['bind'] },
        { destination: 'ROOT/mnt', source: 'rootfs/etc/secret-directory', options: ['bind', 'ro'] },
      )
      config.process.args[2] = 'cat /mnt/inner; touch /seen/here; ls /work'
    })
    const path = join(directory, 'config.json')
    writeFileSync(path, readFileSync(path, 'utf8').replace('ROOT', join(directory, 'rootfs')))
    const before = snapshotTree(join(directory, 'rootfs'))
    t.is((await (await Rootfs.fromBundle(directory)).run()).stdout, 'for the host only\nhere\n')
    t.deepEqual(snapshotTree(join(directory, 'rootfs')), before)
  },
)

testHere('hooks are told the bundle and its annotations', async (t) => {
  const out = openDirectory(host, 'out')
  const program = join(out, 'hook')
  writeFileSync(program, `#!/bin/sh\ncat > ${out}/$1\n`)
  chmodSync(program, 0o755)
  const { directory } = await makeBundle((config) => {
    config.process.args = ['true']
    config.annotations = { 'org.example.key': 'a value' }
    config.hooks = {
      createRuntime: [{ path: program, args: ['hook', 'createRuntime'], env: ['PATH=/bin:/usr/bin'] }],
      createContainer: [{ path: program, args: ['hook', 'createContainer'], env: ['PATH=/bin:/usr/bin'] }],
    }
  })
  await (await Rootfs.fromBundle(directory)).run()
  for (const point of ['createRuntime', 'createContainer']) {
    const state = JSON.parse(readFileSync(join(out, point), 'utf8'))
    t.is(state.bundle, directory)
    t.deepEqual(state.annotations, { 'org.example.key': 'a value' })
  }
})

testHere('domain name and sysctls of a config are those of the container', async (t) => {
  const { directory } = await makeBundle((config) => {
    shell('cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax')(config)
    config.domainname = 'example.org'
    config.linux.sysctl = { 'net.ipv4.ip_forward': '1', 'kernel.msgmax': '4321' }
  })
  t.is((await (await Rootfs.fromBundle(directory)).run()).stdout, 'example.org\n1\n4321\n')
})

testHere('devices of a config are made unless a bind covers /dev', async (t) => {
  const { directory, config } = await makeBundle((config) => {
    shell('ls -l /dev')(config)
    config.linux.devices = [
      { path: '/dev/extra', type: 'c', major: 1, minor: 3, fileMode: 0o600, uid: 3, gid: 4 },
      { path: '/dev/pipe', type: 'p' },
    ]
  })
  const { stdout } = await (await Rootfs.fromBundle(directory)).run()
  t.regex(stdout, /^crw------- +1 3 +4 +1, +3 .* extra$/m)
  t.regex(stdout, /^prw-rw-rw- .* pipe$/m)
  const own = host.scratch('dev')
  writeFileSync(join(own, 'only'), '')
  config.mounts = [
    ...config.mounts.filter(({ destination }) => !String(destination).startsWith('/dev')),
    { destination: '/dev', source: own, options: ['rbind'] },
  ]
  const covered = await Rootfs.fromSpec(config, { bundle: directory }).run({ env: { PATH: '/bin' } })
  t.regex(covered.stdout, /only\n$/)
  t.is(covered.stdout.trim().split('\n').length, 2)
  t.is(covered.warnings.filter(({ code }) => code === 'device-not-made').length, 2)
})

const minimal = (): OciSpec => ({
  ociVersion: '1.2.0',
  root: { path: '/srv/nothing' },
  linux: { namespaces: [{ type: 'mount' }] },
})

test('what is refused has its pointer, and passes when it is named', async (t) => {
  const seccomp = {
    ...minimal(),
    linux: { namespaces: [{ type: 'mount' }], seccomp: { defaultAction: 'X' } },
  }
  const error = t.throws(() => Rootfs.fromSpec(seccomp), { instanceOf: RootfsError })
  t.is(error.code, 'ERR_ROOTFS_SPEC')
  t.is(error.pointer, '/linux/seccomp')
  t.regex(error.hint!, /ignore: \['linux\.seccomp'\]/)
  for (const name of ['linux.seccomp', '/linux/seccomp']) {
    const { warnings } = Rootfs.fromSpec(seccomp, { ignore: [name] }).plan()
    t.deepEqual(
      warnings.map(({ code, message }) => [code, message]),
      [['ignored-field', 'linux.seccomp is ignored, as asked']],
    )
  }
  const hidden = { ...minimal(), linux: { maskedPaths: ['/x'] } }
  t.is(
    t.throws(() => Rootfs.fromSpec(hidden), { instanceOf: RootfsError }).pointer,
    '/linux/maskedPaths',
    'without a mount namespace nothing can be hidden',
  )
})

test('a name that a config has twice is refused', async (t) => {
  const directory = host.scratch('bundle')
  const first =
    '"linux": { "maskedPaths": ["/proc/kcore"], "seccomp": { "defaultAction": "SCMP_ACT_ERRNO" } }'
  writeFileSync(join(directory, 'config.json'), JSON.stringify(minimal()).replace('{', `{ ${first},`))
  for (const ignore of [[], ['linux', 'linux.seccomp']]) {
    const error = await t.throwsAsync(Rootfs.fromBundle(directory, { ignore }), { instanceOf: RootfsError })
    t.like(error, { code: 'ERR_ROOTFS_SPEC', pointer: '/linux' })
    t.regex(error.message, /^linux: this field is there twice, again at line 1, column \d+$/)
  }
})

test('what is wrong with the parts together is told by fromSpec, with its pointer', (t) => {
  const bind = { destination: '/x', source: '/y', options: ['bind', 'idmap'] }
  for (const [part, pointer, message] of [
    [
      { linux: { namespaces: [{ type: 'mount' }], maskedPaths: ['/etc', '/'] } },
      '/linux/maskedPaths/1',
      /^linux/,
    ],
    [
      { linux: { namespaces: [{ type: 'mount' }], readonlyPaths: ['/'] } },
      '/linux/readonlyPaths/0',
      /^linux/,
    ],
    [{ mounts: [{ destination: '/t', type: 'tmpfs' }, bind] }, '/mounts/1', /^mounts\[1\]: without mappings/],
    [
      { linux: {}, hooks: { createRuntime: [{ path: '/h' }] } },
      '/hooks/createRuntime',
      /^hooks\.createRuntime/,
    ],
  ] as const) {
    const error = t.throws(() => Rootfs.fromSpec({ ...minimal(), ...part }), { instanceOf: RootfsError })
    t.like(error, { code: 'ERR_ROOTFS_SPEC', pointer })
    t.regex(error.message, message)
  }
})

test('without a mount namespace the plan warns', (t) => {
  const codes = (linux: object, ignore: string[] = []) =>
    Rootfs.fromSpec({ ...minimal(), linux }, { ignore })
      .plan()
      .warnings.map(({ code }) => code)
  t.deepEqual(codes({}), ['no-mount-namespace'])
  t.deepEqual(codes({ namespaces: [] }), ['no-mount-namespace'])
  t.deepEqual(codes({ namespaces: [{ type: 'mount' }] }, ['linux.namespaces']), [
    'ignored-field',
    'no-mount-namespace',
  ])
  t.deepEqual(codes({ namespaces: [{ type: 'mount' }] }), [])
})

test('values that are no JSON are refused where they are, and bigints are numbers', (t) => {
  const cyclic: Record<string, unknown> = {}
  cyclic.again = cyclic
  for (const [value, pattern] of [
    [Number.NaN, /but received NaN of type number/],
    [() => {}, /but received a function/],
    [new Map(), /but received a Map/],
    [[undefined], /but received undefined/],
  ] as const) {
    const error = t.throws(() => Rootfs.fromSpec({ ...minimal(), 'a/b': value }), { instanceOf: RootfsError })
    t.is(error.code, 'ERR_ROOTFS_SPEC')
    t.is(error.pointer, Array.isArray(value) ? '/a~1b/0' : '/a~1b')
    t.regex(error.message, pattern)
  }
  const again = t.throws(() => Rootfs.fromSpec({ ...minimal(), cyclic }), { instanceOf: RootfsError })
  t.like(again, { code: 'ERR_ROOTFS_SPEC', pointer: '/cyclic/again' })
  t.regex(again.message, /but received a cyclic object$/)
  let deep: object = {}
  for (let depth = 0; depth < 100; depth++) deep = { deep }
  t.throws(() => Rootfs.fromSpec({ ...minimal(), deep }), { message: /nested too deep/ })
  // What is there twice is no cycle.
  const limit = { type: 'RLIMIT_CORE', soft: 0, hard: 0 }
  const twice = { args: ['x'], cwd: '/', rlimits: [limit, limit] }
  const error = t.throws(() => Rootfs.fromSpec({ ...minimal(), process: twice }), { instanceOf: RootfsError })
  t.like(error, { code: 'ERR_ROOTFS_SPEC', pointer: '/process/rlimits/1/type' })
  const limits = (hard: unknown) => ({
    ...minimal(),
    process: { args: ['x'], cwd: '/', rlimits: [{ type: 'RLIMIT_CORE', soft: 0, hard }] },
  })
  const hard = (spec: OciSpec) =>
    (Rootfs.fromSpec(spec).toSpec() as { process: { rlimits: Array<{ hard: number }> } }).process.rlimits[0]!
      .hard
  t.is(hard(limits(2n ** 64n - 1n)), 2 ** 64)
  t.is(hard(limits(2 ** 64)), 2 ** 64)
  t.is(hard(limits(2 ** 53)), 2 ** 53)
  t.throws(() => hard(limits(2n ** 53n + 1n)), { code: 'ERR_ROOTFS_UNSUPPORTED' })
  t.throws(() => Rootfs.fromSpec(limits(2n ** 65n)), {
    message: /^Expected integer between 0 and 18446744073709551615/,
  })
})

test('arguments are checked', async (t) => {
  const from = (spec: unknown, options?: unknown) => Rootfs.fromSpec(spec as OciSpec, options as object)
  for (const spec of [undefined, null, [], 'x', 3]) {
    t.throws(() => from(spec), { code: 'ERR_INVALID_ARG_TYPE', message: /^Expected object for spec/ })
  }
  t.throws(() => from(minimal(), { ignore: 'linux' }), { message: /^Expected array for ignore but received/ })
  t.throws(() => from(minimal(), { ignore: [1] }), {
    message: /for ignore\[0\] but received 1 of type number/,
  })
  t.throws(() => from(minimal(), { expectRoot: 1 }), { message: /^Expected boolean for expectRoot/ })
  t.throws(() => from(minimal(), { bundle: 1 }), { message: /for bundle but received 1/ })
  t.throws(() => from(minimal(), { nosuch: 1 }), { code: 'ERR_INVALID_ARG_VALUE' })
  for (const [directory, code] of [
    [undefined, 'ERR_INVALID_ARG_TYPE'],
    ['', 'ERR_INVALID_ARG_VALUE'],
    ['/a\0b', 'ERR_INVALID_ARG_VALUE'],
  ] as const) {
    await t.throwsAsync(Rootfs.fromBundle(directory as string), { code })
  }
  const directory = host.scratch('bundle')
  await t.throwsAsync(Rootfs.fromBundle(directory, { bundle: '/x' } as object), { code: 'ERR_ROOTFS_SOURCE' })
  writeFileSync(join(directory, 'config.json'), JSON.stringify(minimal()))
  await t.throwsAsync(Rootfs.fromBundle(directory, { bundle: '/x' } as object), {
    code: 'ERR_INVALID_ARG_VALUE',
  })
  t.true((await Rootfs.fromBundle(Buffer.from(directory))) instanceof Rootfs)
})

test('a config that is missing or no JSON is told', async (t) => {
  const directory = host.scratch('bundle')
  const missing = await t.throwsAsync(Rootfs.fromBundle(directory), { instanceOf: RootfsError })
  t.is(missing.code, 'ERR_ROOTFS_SOURCE')
  t.is(missing.errnoName, 'ENOENT')
  t.is(missing.source, join(directory, 'config.json'))
  t.regex(missing.stack!, /oci\.spec/)
  writeFileSync(join(directory, 'config.json'), '{ "ociVersion": "1.2.0",\n oops')
  const wrong = await t.throwsAsync(Rootfs.fromBundle(directory), { instanceOf: RootfsError })
  t.is(wrong.code, 'ERR_ROOTFS_SPEC')
  t.regex(wrong.message, /line 2/)
})

test('without a command there must be a config with a process', async (t) => {
  const message =
    /^Expected string or Uint8Array for command but received undefined, and there is no OCI config/
  const code = 'ERR_INVALID_ARG_TYPE'
  await t.throwsAsync(new Rootfs('/srv').run(), { instanceOf: TypeError, code, message })
  await t.throwsAsync(new Rootfs('/srv').run({ cwd: '/' }), { code, message })
  t.throws(() => new Rootfs('/srv').spawn(), { instanceOf: TypeError, code, message })
  const missing = {
    instanceOf: RootfsError,
    code: 'ERR_ROOTFS_SPEC',
    message: /^process: the config has none/,
  }
  t.is((await t.throwsAsync(Rootfs.fromSpec(minimal()).run(), missing))?.pointer, '/process')
  t.is(t.throws(() => Rootfs.fromSpec(minimal()).spawn(), missing)?.pointer, '/process')
  const process = { args: ['x'], cwd: '/' }
  const rootfs = Rootfs.fromSpec({ ...minimal(), process })
  const run = rootfs.run.bind(rootfs) as (...args: unknown[]) => Promise<unknown>
  await t.throwsAsync(run(undefined, ['y']), { code, message: /as there are arguments/ })
  await t.throwsAsync(run(null), { code })
  await t.throwsAsync(run([]), { code })
})

test('without a root there is an empty one, if that is expected', async (t) => {
  const spec = { ...minimal(), root: undefined }
  t.is(t.throws(() => Rootfs.fromSpec(spec), { instanceOf: RootfsError }).pointer, '/root')
  t.is(Rootfs.fromSpec(spec, { expectRoot: false }).plan().steps[1]?.source, 'tmpfs')
})

test('what OCI has no words for is named', (t) => {
  const fd = openSync(host.scratch('source'), 'r')
  t.teardown(() => closeSync(fd))
  const base = () => new Rootfs('/srv/root').defaults()
  t.notThrows(() => base().toSpec())
  for (const [rootfs, pattern] of [
    [Rootfs.empty().defaults(), /^root: /],
    [new Rootfs('/srv/root'), /^no dev\(\): .* dev\(\) or defaults\(\)/],
    [base().bind('/x', '/y', { optional: true }), /^mounts\[7\]: .* mount on \/y/],
    [base().bind({ fd }, '/y'), /^mounts\[7\]: .* file descriptor/],
    [base().bind('/srv/root/x', '/y'), /^mounts\[7\]: /],
    [base().mask('/x', { missing: 'error' }), /^mask: /],
    [base().readonly({ recursive: true }), /^readonly: /],
    [new Rootfs(Buffer.from('/srv/\xff', 'latin1')).defaults(), /^root: .* not UTF-8/],
  ] as const) {
    t.throws(() => rootfs.toSpec(), { code: 'ERR_ROOTFS_UNSUPPORTED', message: pattern })
  }
})

test('what is written is read as the same plan', (t) => {
  const rootfs = new Rootfs('/srv/root')
    .defaults()
    .bind('/srv/data', '/data', { readonly: true, noexec: true, atime: 'noatime' })
    .bind({ inRoot: '/data/x' }, '/mnt', { recursive: false, propagation: 'slave' })
    .tmpfs('/tmp', { size: '16m', mode: 0o1777, noexec: true })
    .proc('/other', { hidepid: 'invisible' })
    .mask(['/etc/shadow'])
    .readonlyPaths('/etc')
    .readonly()
    .propagation('rprivate')
    .hostname('box')
    .namespaces({
      user: {
        uids: [{ containerId: 0, hostId: 5, size: 1 }],
        gids: [{ containerId: 0, hostId: 6, size: 2 }],
      },
    })
    .hook('startContainer', { path: '/hook', args: ['hook', 'x'], env: ['A=b'], timeout: 3 })
  const spec = rootfs.toSpec()
  const again = Rootfs.fromSpec(spec)
  t.deepEqual(again.plan().toJSON(), rootfs.plan().toJSON())
  t.deepEqual(again.toSpec(), spec)
})

testNeeding(['root', 'busybox', 'runc', 'unshare'])('runc runs what is written', async (t) => {
  const directory = host.scratch('bundle')
  const image = await busyboxImage(join(directory, 'image'))
  const data = host.scratch('data')
  writeFileSync(join(data, 'file'), 'from the host\n')
  const spec = new Rootfs(image)
    .defaults({ cgroup: false })
    .bind(data, '/data', { readonly: true })
    .hostname('box')
    .readonly()
    .toSpec() as OciSpec & { linux: { namespaces: Array<{ type: string }> } }
  // Debian's runc is of the time before cgroup namespaces on hosts with cgroup v1.
  spec.linux.namespaces = spec.linux.namespaces.filter(({ type }) => type !== 'cgroup')
  const script =
    'cat /data/file; hostname; touch /data/x 2>/dev/null || echo readonly; test -c /dev/null && echo dev'
  spec.process = {
    args: ['/bin/sh', '-c', script],
    cwd: '/',
    user: { uid: 0, gid: 0 },
    env: ['PATH=/bin'],
    capabilities: {},
  }
  writeFileSync(join(directory, 'config.json'), JSON.stringify(spec))
  const expected = 'from the host\nbox\nreadonly\ndev\n'
  t.is((await (await Rootfs.fromBundle(directory)).run()).stdout, expected)
  const state = host.scratch('runc')
  const theirs = await mustRun('unshare', [
    '--mount',
    '--propagation',
    'private',
    'sh',
    '-ec',
    'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec runc --root "$1" run --bundle "$2" "$3"',
    'sh',
    state,
    directory,
    `rootfs-oci-test-${process.pid}`,
  ])
  t.is(theirs, expected)
})
