// The examples run, and print what they promise.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { guardHost } from './support/host.ts'
import { checkout } from './support/images.ts'
import { runProgram } from './support/program.ts'

guardHost(test)

const examples: Record<string, { args?: string[]; prints: RegExp[] }> = {
  'default.ts': {
    prints: [
      /^The plan:/,
      // Which of them there are depends on the machine.
      /'\/proc\/(acpi|kcore|keys|timer_list)'/,
      /I am 0:0 on box/,
      /Read-only file system/,
      /taken down: [\d.]+ ms/,
    ],
  },
  'untrusted-script.ts': {
    prints: [
      /It ended with 0:/,
      /the project can't be changed/,
      /the host's files are not there/,
      /What it made: "1\\n2\\n3\\n"/,
    ],
  },
  'build-step.ts': {
    prints: [
      /The first build: compiled, the sources stay as they are/,
      /The second build: from the cache/,
      /Made: "HELLO\\n"/,
    ],
  },
  'oci-bundle.ts': {
    prints: [
      /Not enforced: \/linux\/seccomp/,
      /Warning: linux\.seccomp is ignored, as asked/,
      /Its process ended with 0: process 1 on bundle, allowed: CapEff:\s0{16}/,
      /Another command in the same root: .*dev.* proc .*usr/,
    ],
  },
  'http-pool.ts': {
    args: ['--once'],
    prints: [/200: "one\\n0\\n"/, /200: "two\\n"/, /422: "three\\n"/],
  },
}

for (const [name, { args = [], prints }] of Object.entries(examples)) {
  test(`${name} prints what it promises`, async (t) => {
    const file = join(checkout, 'examples', name)
    const register = '--import=@oxc-node/core/register'
    const done = await runProgram(process.execPath, [register, file, ...args], { cwd: checkout })
    t.is(done.exitCode, 0, done.stderr)
    for (const expected of prints) t.regex(done.stdout, expected)
  })
}

test('each example is run', (t) => {
  const files = readdirSync(join(checkout, 'examples')).filter((name) => name !== 'host.ts')
  t.deepEqual(files.sort(), Object.keys(examples).sort())
})
