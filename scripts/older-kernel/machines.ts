// Kernels of Debian that need no machine of their own: two that qemu emulates one for, and one that is a program.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { announce, capture, fail, root, run } from '../command.ts'
import type { Requirement } from '../debian-packages.ts'
import { initOfEmulated, initOfProgram } from './guest.ts'

/** What is made from the packages is kept: removing it fetches the newest ones again. */
export const kept = join(root, 'target', 'older-kernel')

export interface Machine {
  requirements: readonly Requirement[]
  /** Fetches the kernel where it isn't kept. */
  prepare: () => void
  /** The command of a machine that runs this script of a shell, and whose console is the command's standard output. */
  boot: (script: string) => string[]
}

const shellTools: Requirement[] = [
  { package: 'busybox-static', program: 'busybox', purpose: 'loads the modules', static: true },
  { package: 'apt', program: 'apt-get', purpose: 'fetches the kernels' },
  { package: 'dpkg', program: 'dpkg', purpose: 'unpacks them' },
]

export const machines: Record<string, Machine> = {
  '6.1': emulated('6.1'),
  '6.12': emulated('6.12'),
  uml: program(),
}

/** Fetches a package, and keeps what is made from its files. */
function keep(name: string, packageName: () => string, make: (unpacked: string, to: string) => void): void {
  if (existsSync(join(kept, name))) return
  mkdirSync(kept, { recursive: true })
  const directory = mkdtempSync(join(kept, 'fetching-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  const [unpacked, made] = [join(directory, 'unpacked'), join(directory, 'made')]
  const wanted = packageName()
  announce(`fetching ${wanted}`)
  run('apt-get', ['download', '-o', 'APT::Sandbox::User=root', wanted], { cwd: directory })
  const archive = fileOf(directory, /\.deb$/)
  run('dpkg', ['-x', archive, unpacked])
  mkdirSync(made)
  make(unpacked, made)
  renameSync(made, join(kept, name))
}

function fileBelow(directory: string, matches: RegExp): string | undefined {
  const found = readdirSync(directory, { recursive: true, encoding: 'utf8' }).find((path) =>
    matches.test(path),
  )
  return found === undefined ? undefined : join(directory, found)
}

function fileOf(unpacked: string, matches: RegExp): string {
  return fileBelow(unpacked, matches) ?? fail(`${matches} is not in the package`)
}

function program(): Machine {
  const directory = join(kept, 'uml')
  return {
    requirements: shellTools,
    prepare: () =>
      keep(
        'uml',
        () => 'user-mode-linux',
        (unpacked, to) => {
          copyFileSync(fileOf(unpacked, /\/linux\.uml$/), join(to, 'linux'))
          copyFileSync(fileOf(unpacked, /\/overlay\.ko$/), join(to, 'overlay.ko'))
        },
      ),
    boot: (script) => {
      const init = `${script}.init`
      writeFileSync(init, initOfProgram(join(directory, 'overlay.ko'), script), { mode: 0o755 })
      // It would write to the host's files itself.
      const begin = 'mount -t tmpfs tmpfs /run && mount -o remount,bind,ro / && exec "$@" </dev/null'
      const linux = [
        join(directory, 'linux'),
        'mem=1500M',
        'root=/dev/root',
        'rootfstype=hostfs',
        'rootflags=/',
      ]
      const options = ['ro', `init=${init}`, 'uml_dir=/run/', 'quiet', 'con=null', 'con0=null,fd:1']
      // Several processes, which end with the first.
      const apart = [
        'unshare',
        '--mount',
        '--propagation',
        'private',
        '--pid',
        '--mount-proc',
        '--kill-child',
      ]
      return [...apart, '/bin/sh', '-c', begin, 'sh', ...linux, ...options]
    },
  }
}

/** In the order in which they are loaded. What isn't in a package is built into its kernel. */
const modules = [
  ...['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci'],
  ...['netfs', 'fscache', '9pnet', '9pnet_virtio', '9p', 'overlay'],
]

function emulated(version: string): Machine {
  const directory = join(kept, version)
  return {
    requirements: [
      ...shellTools,
      { package: 'qemu-system-x86', program: 'qemu-system-x86_64', purpose: 'runs the kernels' },
      { package: 'xz-utils', program: 'xz', purpose: 'unpacks kernels and modules' },
      { package: 'zstd', program: 'zstd', purpose: 'unpacks kernels' },
    ],
    prepare: () => keep(version, () => newestImage(version), makeEmulated),
    // KVM may be there and not work. With several threads the emulated machine isn't reliable.
    boot: (script) => [
      ...['qemu-system-x86_64', '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
      ...['-machine', 'q35', '-cpu', 'max', '-accel', 'tcg,thread=single', '-m', '3G'],
      ...['-kernel', join(directory, 'vmlinux'), '-initrd', join(directory, 'initramfs')],
      '-append',
      `console=ttyS0 quiet loglevel=1 panic=-1 script=${script}`,
      '-virtfs',
      'local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap',
    ],
  }
}

/** The package that the metapackage of this version, or of the distribution's own kernel, depends on. */
function newestImage(version: string): string {
  for (const meta of [`linux-image-${version}-amd64`, 'linux-image-amd64']) {
    const { stdout } = spawnSync('apt-cache', ['depends', meta], { encoding: 'utf8' })
    const image = new RegExp(`Depends: (linux-image-${version.replace('.', '\\.')}\\.\\S+)`).exec(stdout)?.[1]
    if (image !== undefined) return image
  }
  return fail(`apt knows no package of Linux ${version} for amd64: try apt-get update`)
}

function makeEmulated(unpacked: string, to: string): void {
  writeFileSync(join(to, 'vmlinux'), kernelIn(readFileSync(fileOf(unpacked, /^boot\/vmlinuz-/))))
  const initramfs = join(to, 'files')
  for (const name of ['bin', 'modules', 'lower', 'upper', 'root'])
    mkdirSync(join(initramfs, name), { recursive: true })
  copyFileSync(capture('/bin/sh', ['-c', 'command -v busybox']).trim(), join(initramfs, 'bin', 'busybox'))
  writeFileSync(join(initramfs, 'init'), initOfEmulated, { mode: 0o755 })
  for (const [index, name] of modules.entries()) {
    const file = fileBelow(unpacked, new RegExp(`/${name}\\.ko(\\.xz)?$`))
    if (file === undefined) continue
    const content = readFileSync(file)
    writeFileSync(
      join(initramfs, 'modules', `${String(index).padStart(2, '0')}-${name}.ko`),
      file.endsWith('.xz') ? decompress('xz', content) : content,
    )
  }
  run('/bin/sh', ['-c', 'find . | busybox cpio -o -H newc >../initramfs'], { cwd: initramfs })
  rmSync(initramfs, { recursive: true })
}

/** The kernel in a bzImage (Documentation/arch/x86/boot.rst), which an emulated machine would unpack slowly. */
function kernelIn(image: Buffer): Buffer {
  const setupSectors = image[0x1f1] || 4
  const begin = (setupSectors + 1) * 512 + image.readUInt32LE(0x248)
  // Its last four bytes are the length of what is in it.
  const payload = image.subarray(begin, begin + image.readUInt32LE(0x24c) - 4)
  return decompress(payload.readUInt32BE(0) === 0xfd377a58 ? 'xz' : 'zstd', payload)
}

function decompress(program: 'xz' | 'zstd', input: Buffer): Buffer {
  const { stdout, status, error } = spawnSync(program, ['-dc'], { input, maxBuffer: 2 ** 30 })
  if (error !== undefined || status !== 0) fail(`${program} can't unpack it: ${error?.message ?? status}`)
  return stdout
}
