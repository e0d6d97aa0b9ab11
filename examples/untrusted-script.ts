// Runs a script one doesn't trust: it sees a project, read-only, and a scratch directory of its own that can be written
// to. No network, no capabilities, a limited number of files, processes' memory and seconds.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { giveToStrangers, hostRoot, strangers } from './host.ts'

const project = await mkdtemp(join(tmpdir(), 'rootfs-project-'))
const scratch = await mkdtemp(join(tmpdir(), 'rootfs-scratch-'))
await writeFile(join(project, 'numbers.txt'), '3\n1\n2\n')
await giveToStrangers(project)
await giveToStrangers(scratch)

// What somebody on the internet wrote.
const SCRIPT = `
sort /project/numbers.txt > /scratch/sorted.txt
echo gone > /project/numbers.txt || echo "the project can't be changed"
cat /etc/shadow || echo "the host's files are not there"
kill -9 1 && echo "signals reach nothing but this container"
`

try {
  const result = await hostRoot()
    .defaults()
    .bind(project, '/project', { readonly: true })
    .bind(scratch, '/scratch', { noexec: true })
    .tmpfs('/tmp', { size: '16m', noexec: true })
    // Also when root calls this: the script's root is nobody on the host.
    .namespaces({ user: strangers, network: true })
    .readonly()
    .run('/bin/sh', ['-c', SCRIPT], {
      cwd: '/project',
      capabilities: [],
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: 64, hard: 64 },
        { type: 'RLIMIT_AS', soft: 2 ** 30, hard: 2 ** 30 },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
      timeout: 5_000,
    })
  console.log(result.timedOut ? 'It took too long.' : `It ended with ${result.exitCode}:`)
  console.log(result.stdout + result.stderr)
  console.log(`What it made: ${JSON.stringify(await readFile(join(scratch, 'sorted.txt'), 'utf8'))}`)
} finally {
  await rm(project, { recursive: true })
  await rm(scratch, { recursive: true })
}
