// Each check and each warning says what it is about: a value of an OCI config, or an argument of a builder's method.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { type OciSpec, Rootfs, type RootfsError } from 'rootfs'
import { guardHost } from './support/host.ts'
import { busyboxImage } from './support/images.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const root = '/srv/root'
const make = () => new Rootfs(root)

const config = (mounts: object[], linux: object = {}, rest: object = {}): OciSpec =>
  ({
    ociVersion: '1.2.0',
    root: { path: root },
    mounts,
    linux: { namespaces: [{ type: 'mount' }], ...linux },
    ...rest,
  }) as OciSpec

const mount = (options: string[], rest: object = {}) => ({
  destination: '/x',
  source: '/y',
  options,
  ...rest,
})
const tmpfs = (destination: string, options: string[] = []) => ({ destination, type: 'tmpfs', options })
const device = (path: string) => ({ path, type: 'c' as const, major: 1, minor: 3 })
const process = (capabilities: object) => ({
  process: { args: ['sh'], cwd: '/', user: { uid: 0, gid: 0 }, capabilities },
})

/** A warning, what it is about in a config, and in calls. */
const warnings: Array<[string, [OciSpec, string, string[]?] | undefined, [Rootfs, string]?]> = [
  ['ignored-field', [config([], { seccomp: { a: 1 } }), '/linux/seccomp', ['linux.seccomp']]],
  ['ignored-field', [config([tmpfs('/a'), tmpfs('/b')]), '/mounts/1', ['mounts[1]']]],
  ['not-enforced', [config([], { resources: { pids: { limit: 1 } } }), '/linux/resources']],
  ['ambient-dropped', [config([], {}, process({ ambient: ['CAP_KILL'] })), '/process/capabilities/ambient']],
  [
    'unknown-capability',
    [config([], {}, process({ bounding: ['CAP_KILL', 'CAP_X'] })), '/process/capabilities/bounding/1'],
  ],
  [
    'device-not-made',
    [config([], { devices: [device('/dev/x'), { type: 'c', major: 1, minor: 3 }] }), '/linux/devices/1'],
  ],
  [
    'device-not-made',
    [
      config([{ destination: '/dev', source: '/y', options: ['bind'] }], { devices: [device('/dev/x')] }),
      '/linux/devices/0',
    ],
  ],
  [
    'no-mount-namespace',
    [config([], { namespaces: [] }), '/linux/namespaces'],
    [make().namespaces({ mount: { path: '/proc/1/ns/mnt' } }), 'namespaces.mount'],
  ],
  [
    'relative-destination',
    [config([tmpfs('/a'), tmpfs('b')]), '/mounts/1/destination'],
    [make().tmpfs('b'), 'destination'],
  ],
  ['relative-destination', undefined, [make().mount(tmpfs('b')), 'mount.destination']],
  ['relative-destination', undefined, [make().directory('b'), 'destination']],
  ['relative-destination', undefined, [make().symlink('a', 'b'), 'path']],
  ['relative-destination', undefined, [make().mask(['/a', 'b']), 'paths']],
  ['relative-destination', undefined, [make().device(device('b')), 'node.path']],
  [
    'same-destination',
    [config([tmpfs('/a'), tmpfs('/b'), tmpfs('/a')]), '/mounts/2/destination'],
    [make().tmpfs('/a').mount(tmpfs('/a')), 'mount.destination'],
  ],
  [
    'hidden-mount',
    [config([tmpfs('/a/b'), tmpfs('/a')]), '/mounts/1/destination'],
    [make().tmpfs('/a/b').tmpfs('/a'), 'destination'],
  ],
  [
    'writes-to-source',
    [config([mount(['rbind', 'ro']), tmpfs('/x/a')]), '/mounts/0/source'],
    [make().bind('/y', '/x', { readonly: true }).tmpfs('/x/a'), 'source'],
  ],
  [
    'unknown-bind-option',
    [config([tmpfs('/a'), mount(['rbind', 'ro', 'mode=755', 'nodev'])]), '/mounts/1/options/2'],
    [make().mount(mount(['bind', 'size=1'])), 'mount.options[1]'],
  ],
  ['unknown-bind-option', [config([mount(['sync', 'rbind'])]), '/mounts/0/options/0']],
  [
    'unknown-option',
    [config([tmpfs('/a', ['size=1m', 'noexec', 'sizes=1m', 'noacl'])]), '/mounts/0/options/2'],
    [make().mount(tmpfs('/a', ['mode=700', 'hidepid=2'])), 'mount.options[1]'],
  ],
  [
    'unknown-option',
    [
      config([{ destination: '/x', type: 'ext4', source: '/dev/sda', options: ['data=ordered'] }]),
      '/mounts/0/options/0',
    ],
    [make().mount({ destination: '/x', type: 'mqueue', options: ['ro', 'gid=0'] }), 'mount.options[1]'],
  ],
  [
    'unknown-option',
    [
      config([tmpfs('/x'), { destination: '/x', options: ['remount', 'size=1m', 'bogus'] }]),
      '/mounts/1/options/2',
    ],
    [
      make().mount({
        destination: '/x',
        type: 'overlay',
        options: ['lowerdir=/a:/b', 'xino=off', 'bogus=on'],
      }),
      'mount.options[2]',
    ],
  ],
  [
    'nodev-device',
    [config([mount(['rbind', 'rnodev'], { source: '/dev/null' })]), '/mounts/0/options/1'],
    [make().bind('/dev/null', '/x'), 'nodev'],
  ],
  [
    'nodev-device',
    [
      config([tmpfs('/x', ['nodev'])], { devices: [device('/dev/a'), device('/x/b')] }),
      '/linux/devices/1/path',
    ],
    [make().tmpfs('/x').device(device('/x/b')), 'node.path'],
  ],
  [
    'ignored-device',
    [config([], { devices: [device('/dev/a'), device('/dev/ptmx')] }), '/linux/devices/1/path'],
    [make().dev().device(device('/dev/ptmx')), 'node.path'],
  ],
]

/** These can't have a step: nothing comes of what they are about. */
const withoutStep = [
  'ignored-field',
  'not-enforced',
  'ambient-dropped',
  'unknown-capability',
  'device-not-made',
]

for (const [code, fromConfig, fromCalls] of warnings) {
  const cases = [
    fromConfig && {
      plan: () => Rootfs.fromSpec(fromConfig[0], { ignore: fromConfig[2] ?? [] }).plan(),
      place: { pointer: fromConfig[1] },
    },
    fromCalls && { plan: () => fromCalls[0].plan(), place: { argument: fromCalls[1] } },
  ]
  for (const one of cases) {
    if (!one) continue
    test(`the warning ${code} is about ${Object.values(one.place)[0]}: ${warnings.findIndex(([, a, b]) => a === fromConfig && b === fromCalls)}`, (t) => {
      const plan = one.plan()
      const found = plan.warnings.filter((warning) => warning.code === code)
      t.is(found.length, 1, JSON.stringify(plan.warnings))
      const { pointer, argument, step } = found[0]!
      const place = Object.fromEntries(Object.entries({ pointer, argument }).filter(([, value]) => value))
      t.deepEqual(place, one.place)
      t.is(step === undefined, withoutStep.includes(code))
      if (step !== undefined) t.is(plan.steps[step]!.index, step)
    })
  }
}

test('the table has every warning that a plan can have', (t) => {
  const sources = ['plan.rs', 'oci/linux.rs', 'oci/node.rs', 'oci/process.rs', 'oci/read.rs', 'oci/mounts.rs']
  const codes = sources.flatMap((name) => {
    const text = readFileSync(new URL(`../crates/rootfs/src/${name}`, import.meta.url), 'utf8')
    return [...text.matchAll(/\bwarn\(\s*"([a-z-]+)"/g)].map(([, code]) => code!)
  })
  t.deepEqual([...new Set(codes)].sort(), [...new Set(warnings.map(([code]) => code))].sort())
})

const mapping = [{ containerID: 0, hostID: 0, size: 1 }]
const mappings = { uidMappings: mapping, gidMappings: mapping }

/** A mount that is refused whatever is done, and what of it is wrong. */
const refused: Array<[object, string]> = [
  [{ destination: '/x' }, '/type'],
  [{ destination: '/x', type: 'none' }, '/type'],
  [{ destination: '/x', type: 'bind', source: '/y', options: ['ro'] }, '/options'],
  [{ destination: '/x', options: ['rbind'] }, '/source'],
  [{ destination: '/x', type: 'proc', options: ['ro', 'tmpcopyup'] }, '/options/1'],
  [mount(['bind', 'tmpcopyup']), '/options/1'],
  [mount(['bind', 'idmap', 'ro']), '/options/1'],
  [mount(['ridmap', 'bind']), '/options/0'],
  [tmpfs('/x', ['ro', 'idmap']), '/options/1'],
  [{ ...tmpfs('/x'), ...mappings }, '/uidMappings'],
  [tmpfs('/x', ['ro', 'src-nofollow']), '/options/1'],
  [tmpfs('/x', ['copy-symlink']), '/options/0'],
  [{ destination: '/x', type: 'devpts', options: ['ro', 'dest-nofollow'] }, '/options/1'],
  [{ destination: '/x', type: 'overlay', options: ['ro', 'lowerdir=/a'] }, '/options/1'],
  [{ destination: '/x', type: 'overlay', options: ['lowerdir=/a', 'workdir'] }, '/options/1'],
  [{ destination: '/x', type: 'overlay', options: ['volatile', 'lowerdir=/a:/b'] }, '/options/0'],
]

for (const [index, [one, place]] of refused.entries()) {
  test(`a mount that is refused is so for its ${place}: ${index}`, (t) => {
    const error = t.throws<RootfsError>(() => Rootfs.fromSpec(config([tmpfs('/ok'), one])), {
      code: 'ERR_ROOTFS_SPEC',
    })
    t.is(error.pointer, `/mounts/1${place}`)
    const name = place.slice(1).replace(/\/(\d+)/, '[$1]')
    t.true(error.message.startsWith(`mounts[1].${name}: `), error.message)
    // Without a user namespace, so that nothing is left to be found out later.
    const builder = make().namespaces({ user: false }).tmpfs('/ok')
    const argument = t.throws(() => builder.mount(one as never), { code: 'ERR_INVALID_ARG_VALUE' })
    t.true(argument.message.startsWith(`mount.${name}: `), argument.message)
  })
}

test('an owner among the options that is not mapped is refused where it is', (t) => {
  const users = { namespaces: [{ type: 'mount' }, { type: 'user' }], ...mappings }
  const owned = tmpfs('/x', ['ro', 'uid=0', 'gid=1'])
  t.like(
    t.throws(() => Rootfs.fromSpec(config([owned], users))),
    {
      code: 'ERR_ROOTFS_SPEC',
      pointer: '/mounts/0/options/2',
      message: `mounts[0].options[2]: the option "gid=1": 1 is none of the groups that the container's user namespace maps: 0`,
    },
  )
  t.throws(() => make().namespaces({ user: true }).mount(owned), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^mount\.options\[2\]: the option "gid=1"/,
  })
})

testNeeding(['root', 'busybox'])('what is found out while it is prepared has its place too', async (t) => {
  const image = await busyboxImage(join(host.scratch('bundle'), 'image'))
  const file = join(host.scratch('file'), 'file')
  writeFileSync(file, '')
  const calls = await new Rootfs(image).defaults().bind(file, '/file').run('/bin/true')
  t.deepEqual(
    calls.warnings.map(({ code, pointer, argument }) => [code, pointer, argument]),
    [['single-file', undefined, 'destination']],
  )
  const spec = {
    ...config(
      [
        { destination: '/proc', type: 'proc' },
        { destination: '/file', source: file, options: ['bind'] },
      ],
      { maskedPaths: ['/proc/kcore'] },
    ),
    root: { path: image },
    ...process({ bounding: ['CAP_SYS_ADMIN'], effective: [], permitted: ['CAP_SYS_ADMIN'] }),
  } as unknown as OciSpec
  const { warnings } = await Rootfs.fromSpec(spec).run('/bin/true')
  t.deepEqual(warnings.map(({ code, pointer, argument }) => [code, pointer, argument]).sort(), [
    ['mask-removable', '/linux/maskedPaths/0', undefined],
    ['single-file', '/mounts/1', undefined],
  ])
})
