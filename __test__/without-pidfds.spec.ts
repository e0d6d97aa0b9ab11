// Where there are no pidfds, as before Linux 5.4: the tests of streams, signals, and ends hold all the same.
import { join } from 'node:path'
import { checkout } from './support/images.ts'
import { runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'
import { sinceClassic, withoutCalls } from './support/without.ts'

const ava = join(checkout, 'node_modules', '.bin', 'ava')

testNeeding(['root', 'busybox', 'unshare'])('a process is known by its number', async (t) => {
  t.timeout(300_000)
  const specs = ['__test__/stdio.spec.ts']
  const [program = '', ...args] = await withoutCalls({ errno: 'ENOSYS', calls: sinceClassic }, [
    process.execPath,
    ava,
    ...specs,
  ])
  const { exitCode, stdout, stderr } = await runProgram(program, args, { cwd: checkout })
  t.is(exitCode, 0, `${stdout}${stderr}`)
  t.regex(stdout, /\d+ tests passed/)
})
