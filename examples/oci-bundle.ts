// Runs an OCI bundle: `npm run script -- examples/oci-bundle.ts DIRECTORY`. Without one it makes one, whose root is empty
// but for the host's programs, bound read-only.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Rootfs, RootfsError } from 'rootfs'
import { bindHostPrograms } from '../src/cli/host.ts'

async function makeBundle(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'rootfs-bundle-'))
  await mkdir(join(directory, 'rootfs'))
  const rootfs = new Rootfs(join(directory, 'rootfs'))
  bindHostPrograms(rootfs)
  const config = rootfs.defaults().tmpfs('/tmp').hostname('bundle').namespaces({ network: true }).toSpec()
  config.process = {
    args: ['/bin/sh', '-c', 'echo "process $$ on $(uname -n), allowed: $(grep CapEff /proc/self/status)"'],
    cwd: '/',
    env: ['PATH=/usr/bin:/bin'],
    user: { uid: 0, gid: 0 },
    noNewPrivileges: true,
  }
  // Other runtimes' configs have this. It is not enforced here, and so it is refused unless it is named.
  Object.assign(config.linux as object, { seccomp: { defaultAction: 'SCMP_ACT_ALLOW' } })
  await writeFile(join(directory, 'config.json'), JSON.stringify(config, undefined, 2))
  return directory
}

/** Reads a bundle whose filter may be left out. */
async function read(directory: string): Promise<Rootfs> {
  try {
    return await Rootfs.fromBundle(directory)
  } catch (error) {
    if (!(error instanceof RootfsError) || error.pointer !== '/linux/seccomp') throw error
    console.log(`Not enforced: ${error.pointer}. The script is our own, so it may do without.`)
    return Rootfs.fromBundle(directory, { ignore: ['linux.seccomp'] })
  }
}

const given = process.argv[2]
const directory = given ?? (await makeBundle())
try {
  const rootfs = await read(directory)
  for (const { message } of rootfs.plan().warnings) console.log(`Warning: ${message}`)
  const { stdout, stderr, exitCode } = await rootfs.run()
  console.log(`Its process ended with ${exitCode}: ${stdout}${stderr}`)
  const other = await rootfs.run('/bin/ls', ['/'])
  console.log(`Another command in the same root: ${other.stdout.trim().split('\n').join(' ')}`)
} finally {
  if (given === undefined) await rm(directory, { recursive: true })
}
