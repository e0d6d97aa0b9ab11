// The builder: arguments are checked at the call, calls chain and can be reused, and the plan is an ordered list.
import test, { type ExecutionContext } from 'ava'
import { Rootfs } from 'rootfs'
import { guardHost } from './support/host.ts'
import { defaultMasks, defaultReadonlyPaths } from './support/inspect.ts'

guardHost(test)

/** Nothing here touches the system, so the root need not exist. */
const make = (): Rootfs => new Rootfs('/no/such/root')

// ---------------------------------------------------------------- wrong arguments

type Code = 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE'

interface Mistake {
  title: string
  call: () => unknown
  code: Code
  message: RegExp
}

/** A call as plain JavaScript could make it. */
const untyped = (method: string, ...args: unknown[]) => {
  const rootfs = make()
  const call = Reflect.get(rootfs, method) as (...args: unknown[]) => unknown
  return () => call.apply(rootfs, args)
}
const construct =
  (...args: unknown[]) =>
  () =>
    Reflect.construct(Rootfs, args)
const empty = (options: unknown) => () => (Rootfs.empty as (options: unknown) => unknown)(options)

const overlay = (options: unknown) => () => (Rootfs.overlay as (options: unknown) => unknown)(options)

const mistakes: Mistake[] = [
  // The form of the message.
  {
    title: 'a mode that is too large',
    call: untyped('tmpfs', '/tmp', { mode: 99999 }),
    code: 'ERR_OUT_OF_RANGE',
    message: /^Expected integer between 0 and 4095 for mode but received 99999 of type number$/,
  },
  {
    title: 'the mode of an empty root',
    call: empty({ mode: 99999 }),
    code: 'ERR_OUT_OF_RANGE',
    message: /^Expected integer between 0 and 4095 for mode but received 99999 of type number$/,
  },
  {
    title: 'a mode that is a string',
    call: untyped('tmpfs', '/tmp', { mode: '755' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected integer between 0 and 4095 for mode but received '755' of type string$/,
  },

  // Numbers: never wrapped, never rounded.
  ...([2 ** 32, 2 ** 32 - 1, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY] as const).map(
    (uid): Mistake => ({
      title: `uid ${uid}`,
      call: untyped('tmpfs', '/tmp', { uid }),
      code: 'ERR_OUT_OF_RANGE',
      message: /^Expected integer between 0 and 4294967294 for uid but received .* of type number$/,
    }),
  ),
  {
    title: 'a uid that is a string',
    call: untyped('tmpfs', '/tmp', { uid: '1' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /for uid but received '1' of type string$/,
  },
  {
    title: 'a negative number of inodes',
    call: untyped('tmpfs', '/tmp', { inodes: -1 }),
    code: 'ERR_OUT_OF_RANGE',
    message: /for inodes but received -1 of type number$/,
  },
  {
    title: 'a negative size',
    call: untyped('tmpfs', '/tmp', { size: -1 }),
    code: 'ERR_OUT_OF_RANGE',
    message: /for size but received -1 of type number$/,
  },
  {
    title: 'a size with an unknown suffix',
    call: untyped('tmpfs', '/tmp', { size: '1x' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /for size but received '1x' of type string$/,
  },
  {
    title: 'a size that is a boolean',
    call: untyped('tmpfs', '/tmp', { size: true }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /for size but received true of type boolean$/,
  },

  // Types.
  {
    title: 'a root that is a number',
    call: construct(1),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /but received 1 of type number$/,
  },
  { title: 'no root', call: construct(), code: 'ERR_INVALID_ARG_TYPE', message: /undefined/ },
  {
    title: 'a destination that is an object',
    call: untyped('tmpfs', {}),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /destination/,
  },
  {
    title: 'a bind without destination',
    call: untyped('bind', '/srv'),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /destination/,
  },
  {
    title: 'a flag that is not a boolean',
    call: untyped('bind', '/srv', '/srv', { readonly: 'yes' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected boolean for readonly but received 'yes' of type string$/,
  },
  {
    title: 'options that are no object',
    call: untyped('tmpfs', '/tmp', 'ro'),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /but received 'ro' of type string$/,
  },
  {
    title: 'a hostname that is a number',
    call: untyped('hostname', 5),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /but received 5 of type number$/,
  },
  {
    title: 'paths to mask that are numbers',
    call: untyped('mask', [1]),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /but received 1 of type number$/,
  },
  {
    title: 'mount options that are one string',
    call: untyped('mount', { destination: '/x', type: 'tmpfs', options: 'ro,nosuid' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /options but received/,
  },

  // Paths.
  {
    title: 'a relative root',
    call: construct('images/alpine'),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /absolute.* but received 'images\/alpine' of type string$/,
  },
  { title: 'an empty root', call: construct(''), code: 'ERR_INVALID_ARG_VALUE', message: /absolute/ },
  {
    title: 'a NUL byte in the root',
    call: construct('/srv/a\0b'),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },
  {
    title: 'a NUL byte in a source',
    call: untyped('bind', '/srv/a\0b', '/x'),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },
  {
    title: 'a NUL byte in a destination of bytes',
    call: untyped('tmpfs', Uint8Array.of(0x2f, 0x61, 0, 0x62)),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },
  {
    title: 'a NUL byte in a path to mask',
    call: untyped('mask', ['/ok', '/a\0b']),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },
  {
    title: 'a NUL byte in a hostname',
    call: untyped('hostname', 'a\0b'),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },
  {
    title: 'a NUL byte in an option word',
    call: untyped('mount', { destination: '/x', type: 'tmpfs', options: ['size=1\0'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /NUL|null byte/i,
  },

  // Words out of a list.
  {
    title: 'an unknown propagation',
    call: untyped('bind', '/srv', '/srv', { propagation: 'public' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /rprivate.* for propagation but received 'public' of type string$/,
  },
  {
    title: 'an unknown atime',
    call: untyped('bind', '/srv', '/srv', { atime: 'sometimes' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /relatime.* for atime but received 'sometimes' of type string$/,
  },
  {
    title: 'an unknown hidepid',
    call: untyped('proc', '/proc', { hidepid: 'yes' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /invisible.* for hidepid but received 'yes' of type string$/,
  },
  ...(
    [
      [
        'content that is a number',
        ['file', '/x', 1],
        'ERR_INVALID_ARG_TYPE',
        /^Expected string or Uint8Array for content but received 1 of type number$/,
      ],
      ['no content', ['file', '/x'], 'ERR_INVALID_ARG_TYPE', /for content but received undefined$/],
      [
        'a mode of a file that is too large',
        ['file', '/x', '', { mode: 0o10000 }],
        'ERR_OUT_OF_RANGE',
        /^Expected integer between 0 and 4095 for mode but received 4096 of type number$/,
      ],
      [
        'an owner of a file that is negative',
        ['file', '/x', '', { uid: -1 }],
        'ERR_OUT_OF_RANGE',
        /for uid but received -1/,
      ],
      [
        'writable that is a string',
        ['file', '/x', '', { writable: 'yes' }],
        'ERR_INVALID_ARG_TYPE',
        /^Expected boolean for writable but received 'yes' of type string$/,
      ],
      [
        'a directory that is a number',
        ['directory', 1],
        'ERR_INVALID_ARG_TYPE',
        /for destination but received 1 of type number$/,
      ],
      [
        'an owner of a directory that is too large',
        ['directory', '/x', { gid: 2 ** 32 }],
        'ERR_OUT_OF_RANGE',
        /for gid but received 4294967296/,
      ],
      [
        'a link that says nothing',
        ['symlink', '', '/x'],
        'ERR_INVALID_ARG_VALUE',
        /^Expected path that is not empty for target/,
      ],
      [
        'a link without a path',
        ['symlink', '/x'],
        'ERR_INVALID_ARG_TYPE',
        /for path but received undefined$/,
      ],
      [
        'a link that is the root',
        ['symlink', '/x', '/.'],
        'ERR_INVALID_ARG_VALUE',
        /^Expected path that ends in a name for path but received '\/\.' of type string$/,
      ],
      [
        'a device that is a path',
        ['device', '/dev/null'],
        'ERR_INVALID_ARG_TYPE',
        /^Expected object for node/,
      ],
      [
        'a device without a path',
        ['device', { type: 'p' }],
        'ERR_INVALID_ARG_TYPE',
        /for node\.path but received undefined$/,
      ],
      [
        'a device of an unknown type',
        ['device', { path: '/x', type: 's' }],
        'ERR_INVALID_ARG_VALUE',
        /^Expected one of 'c', 'b', 'p', 'u' for node\.type but received 's' of type string$/,
      ],
      [
        'a device without a number',
        ['device', { path: '/x', type: 'c', major: 1 }],
        'ERR_INVALID_ARG_TYPE',
        /^Expected integer between 0 and 1048575 for node\.minor but received undefined$/,
      ],
      [
        'a major number that is too large',
        ['device', { path: '/x', type: 'b', major: 4096, minor: 0 }],
        'ERR_OUT_OF_RANGE',
        /^Expected integer between 0 and 4095 for node\.major but received 4096 of type number$/,
      ],
      [
        'a fifo with a number',
        ['device', { path: '/x', type: 'p', major: 1 }],
        'ERR_INVALID_ARG_VALUE',
        /for node\.major but received 1/,
      ],
      [
        'a domain name that is too long',
        ['domainname', 'x'.repeat(65)],
        'ERR_INVALID_ARG_VALUE',
        /^Expected string of 1 to 64 bytes for name/,
      ],
      [
        'a domain name that is a number',
        ['domainname', 5],
        'ERR_INVALID_ARG_TYPE',
        /^Expected string for name/,
      ],
      [
        'a parameter without parts',
        ['sysctl', 'ipforward', '1'],
        'ERR_INVALID_ARG_VALUE',
        /^Expected name of a kernel parameter \(.*\) for name but received 'ipforward'/,
      ],
      [
        'a parameter that leads elsewhere',
        ['sysctl', 'net/../kernel/panic', '1'],
        'ERR_INVALID_ARG_VALUE',
        /for name but received 'net\/\.\.\/kernel\/panic'/,
      ],
      [
        'a value that is a number',
        ['sysctl', 'kernel.msgmax', 1],
        'ERR_INVALID_ARG_TYPE',
        /^Expected string for value but received 1 of type number$/,
      ],
      [
        'the host name as a parameter',
        ['sysctl', 'kernel.hostname', 'x'],
        'ERR_INVALID_ARG_VALUE',
        /^sysctl kernel\.hostname: the host name is set with hostname$/,
      ],
      [
        'a parameter of the machine',
        ['sysctl', 'kernel.panic', '1'],
        'ERR_INVALID_ARG_VALUE',
        /^sysctl kernel\.panic: it belongs to no namespace/,
      ],
      [
        'an unknown fallback',
        ['proc', '/proc', { fallback: 'skip' }],
        'ERR_INVALID_ARG_VALUE',
        /^Expected one of 'error', 'bind' for fallback/,
      ],
    ] as const
  ).map(
    ([title, [method, ...args], code, message]): Mistake => ({
      title,
      call: untyped(method, ...args),
      code,
      message,
    }),
  ),
  {
    title: 'an unknown choice for missing paths',
    call: untyped('mask', '/x', { missing: 'panic' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /skip.* for missing but received 'panic' of type string$/,
  },

  // Namespaces.
  {
    title: 'a mapping of no ids',
    call: untyped('namespaces', { user: { uids: [{ containerId: 0, hostId: 0, size: 0 }], gids: [] } }),
    code: 'ERR_OUT_OF_RANGE',
    message: /for .*size but received 0 of type number$/,
  },
  {
    title: 'a mapping beyond the last id',
    call: untyped('namespaces', {
      user: {
        uids: [{ containerId: 0, hostId: 2 ** 32, size: 1 }],
        gids: [{ containerId: 0, hostId: 0, size: 1 }],
      },
    }),
    code: 'ERR_OUT_OF_RANGE',
    message: /for .*hostId but received 4294967296 of type number$/,
  },
  {
    title: 'mappings that overlap',
    call: untyped('namespaces', {
      user: {
        uids: [
          { containerId: 0, hostId: 1000, size: 10 },
          { containerId: 5, hostId: 2000, size: 10 },
        ],
        gids: [{ containerId: 0, hostId: 1000, size: 10 }],
      },
    }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /overlap/,
  },

  // Mounts in OCI form.
  {
    title: 'a bind type without the word that makes it one',
    call: untyped('mount', { destination: '/x', source: '/srv', type: 'bind' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /rbind/,
  },
  {
    title: 'a bind that is filled with a copy',
    call: untyped('mount', { destination: '/x', source: '/srv', options: ['bind', 'tmpcopyup'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /"tmpcopyup" is for a mount of type tmpfs/,
  },
  {
    title: 'a ramfs that is filled with a copy',
    call: untyped('mount', { destination: '/x', type: 'ramfs', options: ['tmpcopyup'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /"tmpcopyup" is for a tmpfs, and this is a ramfs/,
  },
  {
    title: 'an idmapped tmpfs',
    call: untyped('mount', { destination: '/x', type: 'tmpfs', options: ['idmap'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /idMap: only a bind can be idmapped/,
  },
  {
    title: 'uidMappings without gidMappings',
    call: untyped('mount', {
      destination: '/x',
      source: '/srv',
      options: ['bind'],
      uidMappings: [{ containerID: 0, hostID: 0, size: 1 }],
    }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^Expected array of mappings for mount\.gidMappings together with mount\.uidMappings$/,
  },
  {
    title: 'an OCI mapping beyond the last id',
    call: untyped('mount', {
      destination: '/x',
      source: '/srv',
      options: ['bind'],
      uidMappings: [{ containerID: 2 ** 32, hostID: 0, size: 1 }],
    }),
    code: 'ERR_OUT_OF_RANGE',
    message: /for mount\.uidMappings\[0\]\.containerID but received 4294967296 of type number$/,
  },
  {
    title: 'an overlay in OCI form without lower directories',
    call: untyped('mount', { destination: '/x', type: 'overlay', options: ['upperdir=/u', 'workdir=/w'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /at least one lower directory/,
  },

  // Idmapped binds.
  {
    title: 'an idMap that is a number',
    call: untyped('bind', '/srv', '/srv', { idMap: 1 }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected object or 'userns' for idMap but received 1 of type number$/,
  },
  {
    title: 'an idMap of an unknown word',
    call: untyped('bind', '/srv', '/srv', { idMap: 'user' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^Expected object or 'userns' for idMap but received 'user' of type string$/,
  },
  {
    title: 'an idMap without gids',
    call: untyped('bind', '/srv', '/srv', { idMap: { uids: [] } }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected array for idMap\.gids but received undefined$/,
  },
  {
    title: 'an idMap of nothing',
    call: untyped('bind', '/srv', '/srv', { idMap: { uids: [], gids: [] } }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /idMap\.uids: at least one mapping is needed/,
  },
  {
    title: 'an idMap of a user namespace that there is not',
    call: () => make().namespaces({ user: false }).bind('/srv', '/srv', { idMap: 'userns' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /there is none/,
  },
  {
    title: "the container's own ids for what is in the root",
    call: untyped('bind', { inRoot: '/srv' }, '/srv', { idMap: 'userns' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /a mapping must be given/,
  },

  // Copies.
  {
    title: 'copyUp that is a path',
    call: untyped('tmpfs', '/etc', { copyUp: '/etc' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected boolean for copyUp but received '\/etc' of type string$/,
  },

  // Overlays.
  {
    title: 'an overlay without options',
    call: untyped('overlay', '/x'),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected object for options but received undefined$/,
  },
  {
    title: 'an overlay root without lower',
    call: overlay({}),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected array for options\.lower but received undefined$/,
  },
  {
    title: 'an overlay root of a single path',
    call: overlay({ lower: '/a' }),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected array for options\.lower but received '\/a' of type string$/,
  },
  {
    title: 'an overlay root of nothing',
    call: overlay({ lower: [] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^Expected array of 1 to 500 directories for options\.lower but received an array$/,
  },
  {
    title: 'an overlay of more layers than the kernel takes',
    call: overlay({ lower: Array.from({ length: 501 }, (_, number) => `/${number}`) }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /1 to 500 directories/,
  },
  {
    title: 'a NUL byte in a layer',
    call: overlay({ lower: ['/a', '/b\0'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /for options\.lower\[1\] but received/,
  },
  {
    title: 'a layer that is given twice',
    call: overlay({ lower: ['/a', '/b/../a'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /lower: \/b\/\.\.\/a is given twice/,
  },
  {
    title: 'upper without work',
    call: overlay({ lower: ['/a'], upper: '/u' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^work: an overlay with upper needs work/,
  },
  {
    title: 'work without upper',
    call: untyped('overlay', '/x', { lower: ['/a', '/b'], work: '/w' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^upper: an overlay with work needs upper/,
  },
  {
    title: 'a size of an overlay that has upper',
    call: overlay({ lower: ['/a'], upper: '/u', work: '/w', size: '1m' }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /size is of the tmpfs/,
  },
  {
    title: 'an overlay of one directory that is only read',
    call: untyped('overlay', '/x', { lower: ['/a'] }),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /two lower directories or more; for one, use a bind/,
  },

  // Labels.
  {
    title: 'a label that is no string',
    call: untyped('mountLabel', 1),
    code: 'ERR_INVALID_ARG_TYPE',
    message: /^Expected string for label but received 1 of type number$/,
  },
  {
    title: 'an empty label',
    call: untyped('mountLabel', ''),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^Expected string of 1 to 255 bytes for label but received/,
  },
  {
    title: 'a label that is too long',
    call: untyped('mountLabel', 'x'.repeat(256)),
    code: 'ERR_INVALID_ARG_VALUE',
    message: /^Expected string of 1 to 255 bytes for label but received/,
  },
]

for (const { title, call, code, message } of mistakes) {
  test(`${title} is refused at the call with ${code}`, (t) => {
    const error = t.throws(call, { code, message })
    t.true(code === 'ERR_OUT_OF_RANGE' ? error instanceof RangeError : error instanceof TypeError)
    // As Node's own: the code is in the stack's first line or the name, and the caller's line follows.
    t.regex(error?.stack ?? '', /builder\.spec/)
  })
}

/** A method, its arguments but for the options, and an option it does not have. */
const unknownOptions: Array<[method: string, args: unknown[], key: string]> = [
  ['defaults', [], 'cgroups'],
  ['bind', ['/srv', '/srv'], 'readOnly'],
  ['tmpfs', ['/tmp'], 'nr_inodes'],
  ['proc', ['/proc'], 'readOnly'],
  ['sysfs', ['/sys'], 'ro'],
  ['cgroup', ['/sys/fs/cgroup'], 'ro'],
  ['dev', [], 'readOnly'],
  ['mask', ['/x'], 'mising'],
  ['file', ['/x', ''], 'perm'],
  ['directory', ['/x'], 'owner'],
  ['readonly', [], 'recursiv'],
  ['namespaces', [], 'net'],
]

for (const [method, args, key] of unknownOptions) {
  test(`${method}() refuses an option it does not have`, (t) => {
    const message = new RegExp(`\\b${key}\\b`)
    const error = t.throws(untyped(method, ...args, { [key]: true }), {
      code: 'ERR_INVALID_ARG_VALUE',
      message,
    })
    t.true(error instanceof TypeError)
  })
}

test('mount() refuses a field it does not have', (t) => {
  const mount = { destination: '/x', type: 'tmpfs', option: ['ro'] }
  t.throws(untyped('mount', mount), { code: 'ERR_INVALID_ARG_VALUE', message: /\boption\b/ })
})

test('overlays refuse an option they do not have', (t) => {
  const options = { lower: ['/a', '/b'], lowr: [] }
  const expected = { code: 'ERR_INVALID_ARG_VALUE', message: /\blowr\b/ }
  t.throws(overlay(options), expected)
  t.throws(untyped('overlay', '/x', options), expected)
})

test('device() refuses a field it does not have', (t) => {
  const node = { path: '/dev/x', type: 'c', major: 1, minor: 3, fileMode: 0o666 }
  t.throws(untyped('device', node), { code: 'ERR_INVALID_ARG_VALUE', message: /\bnode\.fileMode\b/ })
})

test('device() refuses the console: there is no terminal', (t) => {
  for (const path of ['/dev/console', 'dev/./console', '//dev/x/../console']) {
    t.throws(untyped('device', { path, type: 'c', major: 5, minor: 1 }), {
      code: 'ERR_ROOTFS_UNSUPPORTED',
      message: /terminal/,
    })
  }
})

test('a parameter of the network needs a network namespace, before or after it', (t) => {
  const spec = {
    code: 'ERR_ROOTFS_SPEC',
    message: /^sysctl net\.core\.somaxconn: needs a network namespace of its own/,
  }
  t.throws(() => make().sysctl('net.core.somaxconn', '1').plan(), spec)
  for (const rootfs of [
    make().sysctl('net.core.somaxconn', '1').namespaces({ network: true }),
    make().namespaces({ network: true }).sysctl('net.core.somaxconn', '1'),
  ]) {
    const step = rootfs.plan().steps.find(({ type }) => type === 'sysctl')
    t.like(step, { source: 'net.core.somaxconn', flags: ['1'] })
  }
})

test('a name in the namespace of the host is refused at either call', (t) => {
  const code = { code: 'ERR_INVALID_ARG_VALUE' }
  t.throws(() => make().namespaces({ uts: false }).domainname('x'), code)
  t.throws(() => make().domainname('x').namespaces({ uts: false }), code)
  t.throws(() => make().namespaces({ ipc: false }).sysctl('kernel.shmmax', '1'), code)
  t.throws(() => make().sysctl('kernel.shmmax', '1').namespaces({ ipc: false }), code)
})

test('Rootfs.empty() refuses an option it does not have', (t) => {
  t.throws(empty({ sise: '1m' }), { code: 'ERR_INVALID_ARG_VALUE', message: /\bsise\b/ })
})

test('a command line that is wrong is refused at the call', async (t) => {
  const rootfs = make()
  const run = rootfs.run as (...args: unknown[]) => unknown
  const refused = (code: Code, ...args: unknown[]) =>
    t.throwsAsync(async () => run.apply(rootfs, args), { code })
  await refused('ERR_INVALID_ARG_TYPE', 1)
  await refused('ERR_INVALID_ARG_VALUE', '/bin/a\0b')
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', ['a\0b'])
  await refused('ERR_INVALID_ARG_TYPE', '/bin/true', [1])
  await refused('ERR_INVALID_ARG_TYPE', '/bin/true', 'argument')
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], { shell: true })
  await refused('ERR_INVALID_ARG_TYPE', '/bin/true', [], { env: { A: 1 } })
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], { env: { 'A=B': '1' } })
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], { env: { A: 'a\0b' } })
  await refused('ERR_OUT_OF_RANGE', '/bin/true', [], { user: { uid: 2 ** 32, gid: 0 } })
  await refused('ERR_OUT_OF_RANGE', '/bin/true', [], { user: { uid: 0, gid: -1 } })
  await refused('ERR_OUT_OF_RANGE', '/bin/true', [], { timeout: -1 })
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], {
    rlimits: [{ type: 'RLIMIT_NOTHING', soft: 1, hard: 1 }],
  })
  const core = { type: 'RLIMIT_CORE', soft: 0, hard: 0 }
  const twice = { rlimits: [core, { ...core, type: 'RLIMIT_CPU' }, core] }
  t.regex((await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], twice)).message, /rlimits\[2\]\.type/)
  await refused('ERR_INVALID_ARG_VALUE', '/bin/true', [], { capabilities: ['CAP_EVERYTHING'] })
  await refused('ERR_INVALID_ARG_TYPE', '/bin/true', [], { signal: {} })
})

// ---------------------------------------------------------------- chaining and reuse

const chained: Record<string, (rootfs: Rootfs) => unknown> = {
  defaults: (rootfs) => rootfs.defaults(),
  bind: (rootfs) => rootfs.bind('/srv', '/srv'),
  tmpfs: (rootfs) => rootfs.tmpfs('/tmp'),
  proc: (rootfs) => rootfs.proc(),
  sysfs: (rootfs) => rootfs.sysfs(),
  cgroup: (rootfs) => rootfs.cgroup(),
  dev: (rootfs) => rootfs.dev(),
  mount: (rootfs) => rootfs.mount({ destination: '/x', type: 'tmpfs', source: 'tmpfs' }),
  mask: (rootfs) => rootfs.mask('/x'),
  readonlyPaths: (rootfs) => rootfs.readonlyPaths('/x'),
  readonly: (rootfs) => rootfs.readonly(),
  namespaces: (rootfs) => rootfs.namespaces({ network: true }),
  hostname: (rootfs) => rootfs.hostname('box'),
  overlay: (rootfs) => rootfs.overlay('/x', { lower: ['/a', '/b'] }),
  mountLabel: (rootfs) => rootfs.mountLabel('system_u:object_r:container_file_t:s0:c1,c2'),
  hook: (rootfs) => rootfs.hook('createRuntime', { path: '/bin/true' }),
  file: (rootfs) => rootfs.file('/x', ''),
  directory: (rootfs) => rootfs.directory('/x'),
  symlink: (rootfs) => rootfs.symlink('/x', '/y'),
  device: (rootfs) => rootfs.device({ path: '/x', type: 'p' }),
  domainname: (rootfs) => rootfs.domainname('example.org'),
  sysctl: (rootfs) => rootfs.sysctl('kernel.msgmax', '1'),
}

for (const [name, call] of Object.entries(chained)) {
  test(`${name}() returns the builder itself`, (t) => {
    const rootfs = make()
    t.is(call(rootfs), rootfs)
  })
}

test('Rootfs.empty() gives a builder', (t) => {
  const rootfs = Rootfs.empty({ size: '16m', mode: 0o700 })
  t.true(rootfs instanceof Rootfs)
  t.is(rootfs.tmpfs('/tmp'), rootfs)
})

test('Rootfs.overlay() gives a builder', (t) => {
  const rootfs = Rootfs.overlay({ lower: ['/a'], size: '16m' })
  t.true(rootfs instanceof Rootfs)
  t.is(rootfs.tmpfs('/tmp'), rootfs)
})

test('a refused call leaves the builder as it was', (t) => {
  const rootfs = make().tmpfs('/tmp')
  const before = rootfs.plan().toString()
  t.throws(() => rootfs.tmpfs('/more', { mode: -1 }))
  t.is(rootfs.plan().toString(), before)
})

test('a builder can be asked for its plan again, and goes on from there', (t) => {
  const rootfs = make().defaults()
  const first = rootfs.plan()
  t.deepEqual(JSON.stringify(rootfs.plan()), JSON.stringify(first))
  const count = first.steps.length
  rootfs.tmpfs('/tmp')
  t.is(first.steps.length, count, 'a plan is a snapshot')
  t.is(rootfs.plan().steps.length, count + 1)
})

test('two builders with the same calls have the same plan', (t) => {
  const build = () => make().defaults().bind('/srv', '/data', { readonly: true }).readonly().hostname('box')
  t.is(JSON.stringify(build().plan()), JSON.stringify(build().plan()))
})

test('what is given to the builder is copied', (t) => {
  const paths = ['/one']
  const options = { readonly: true }
  const rootfs = make().mask(paths).bind('/srv', '/srv', options)
  const before = JSON.stringify(rootfs.plan())
  paths.push('/two')
  options.readonly = false
  t.is(JSON.stringify(rootfs.plan()), before)
})

// ---------------------------------------------------------------- the plan

/** The stages go only forward; which stage a type of step belongs to. */
const stages: Record<string, number> = {
  namespaces: 0,
  root: 1,
  mount: 2,
  file: 2,
  directory: 2,
  device: 3,
  symlink: 3,
  stub: 3,
  hook: 4,
  pivot: 5,
  propagation: 6,
  readonly: 6,
  mask: 6,
  hostname: 6,
  domainname: 6,
  sysctl: 6,
  verify: 7,
}

const full = (): Rootfs =>
  make()
    .hostname('box')
    .readonly()
    .mask('/etc/shadow', { missing: 'stub' })
    .domainname('example.org')
    .sysctl('kernel.msgmax', '9000')
    .device({ path: '/run/fifo', type: 'p' })
    .directory('/run/made')
    .file('/etc/motd', 'hello')
    .hook('createContainer', { path: '/bin/true' })
    .defaults()
    .bind('/srv', '/data')
    .namespaces({ network: true })

test('the steps of a plan are in the order of their stages, whatever order the calls had', (t) => {
  const { steps } = full().plan()
  const order = steps.map(({ type }) => stages[type])
  t.false(order.includes(undefined), `a type without a stage: ${steps.map(({ type }) => type)}`)
  t.deepEqual(
    order,
    [...order].sort((a, b) => a! - b!),
  )
})

test('steps are numbered by their place', (t) => {
  const { steps } = full().plan()
  t.deepEqual(
    steps.map(({ index }) => index),
    steps.map((_, index) => index),
  )
})

test('mounts are planned in the order they were asked for', (t) => {
  const destinations = make()
    .tmpfs('/b')
    .tmpfs('/a')
    .bind('/srv', '/a/inner')
    .plan()
    .steps.filter(({ type }) => type === 'mount')
    .map(({ destination }) => destination)
  t.deepEqual(destinations, ['/b', '/a', '/a/inner'])
})

function destinationsOf(t: ExecutionContext, rootfs: Rootfs, type: string): Array<string | undefined> {
  const found = rootfs.plan().steps.filter((step) => step.type === type)
  t.true(found.length > 0, type)
  return found.map(({ destination }) => destination)
}

test('defaults() plans what an OCI runtime gives every container, in its order', (t) => {
  const rootfs = make().defaults()
  t.deepEqual(destinationsOf(t, rootfs, 'mount'), [
    '/proc',
    '/dev',
    '/dev/pts',
    '/dev/shm',
    '/dev/mqueue',
    '/sys',
    '/sys/fs/cgroup',
  ])
  const devices = ['null', 'zero', 'full', 'random', 'urandom', 'tty'].map((name) => `/dev/${name}`)
  t.deepEqual([...destinationsOf(t, rootfs, 'device')].sort(), [...devices].sort())
  const masks = destinationsOf(t, rootfs, 'mask')
  for (const path of defaultMasks) t.true(masks.includes(path), path)
  const all = rootfs.plan().steps.map(({ destination }) => destination)
  for (const path of defaultReadonlyPaths) t.true(all.includes(path), path)
})

test('defaults() can leave the cgroup out', (t) => {
  t.false(destinationsOf(t, make().defaults({ cgroup: false }), 'mount').includes('/sys/fs/cgroup'))
})

test('a relative source is taken from the working directory at the call', (t) => {
  const step = make()
    .bind('src', '/src')
    .plan()
    .steps.find(({ destination }) => destination === '/src')
  t.is(step?.source, `${process.cwd()}/src`)
})

test('the flags of a mount are in its step', (t) => {
  const step = make()
    .bind('/srv', '/data', { readonly: true, noexec: true })
    .plan()
    .steps.find(({ destination }) => destination === '/data')
  t.is(step?.type, 'mount')
  for (const flag of ['nosuid', 'nodev', 'noexec']) {
    t.true(
      step?.flags?.some((word) => word === flag || word === `r${flag}`),
      flag,
    )
  }
  t.true(step?.flags?.some((word) => word === 'ro' || word === 'rro'))
})

test('a plan prints one line for each step', (t) => {
  const plan = full().plan()
  const text = plan.toString()
  t.is(`${plan}`, text)
  t.true(text.split('\n').filter((line) => line.trim() !== '').length >= plan.steps.length)
  for (const { destination } of plan.steps) if (destination !== undefined) t.true(text.includes(destination))
})

test('a plan is JSON', (t) => {
  const plan = full().plan()
  const data = JSON.parse(JSON.stringify(plan)) as { steps: Array<{ type: string }>; warnings: unknown[] }
  t.deepEqual(
    data.steps.map(({ type }) => type),
    plan.steps.map(({ type }) => type),
  )
  t.true(Array.isArray(data.warnings))
})

const warned: Array<[title: string, rootfs: () => Rootfs]> = [
  ['the same destination twice', () => make().tmpfs('/x').tmpfs('/x')],
  ['a mount that hides an earlier one', () => make().tmpfs('/x/inner').tmpfs('/x')],
  ['a relative destination', () => make().tmpfs('x')],
  [
    'a filesystem option on a bind',
    () => make().mount({ destination: '/x', source: '/srv', type: 'none', options: ['bind', 'mode=755'] }),
  ],
]

for (const [title, build] of warned) {
  test(`the plan warns of ${title}`, (t) => {
    const { warnings } = build().plan()
    t.true(warnings.length > 0)
    for (const { code, message } of warnings) {
      t.regex(code, /^[a-z]+(-[a-z]+)*$/)
      t.not(message, '')
    }
  })
}

test('a plan of what is usual has no warnings', (t) => {
  t.deepEqual(make().defaults().bind('/srv', '/data', { readonly: true }).readonly().plan().warnings, [])
})

test('builders that are described alike share nothing that one of them changes', (t) => {
  const paths = (rootfs: Rootfs) => rootfs.plan().steps.map((step) => step.destination ?? step.type)
  const alike = () => new Rootfs('/srv/alike').defaults()
  const first = alike()
  const before = paths(first)
  const second = alike().tmpfs('/scratch')
  t.is(paths(second).filter((path) => path === '/scratch').length, 1)
  t.deepEqual([paths(first), paths(alike())], [before, before])
  t.is(alike().defaults().plan().toString(), first.defaults().plan().toString())
  t.deepEqual(paths(alike()), before)
  t.false(paths(new Rootfs('/srv/alike').defaults({ cgroup: false })).includes('/sys/fs/cgroup'))
  t.true(new Rootfs('/srv/other').defaults().plan().toString().includes('/srv/other'))
  t.throws(() => alike().tmpfs('relative/../..', { size: -1 }))
  t.deepEqual(paths(alike()), before)
})
