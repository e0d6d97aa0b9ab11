// Root filesystems for the tests: busybox, made in a moment, and Debian, debootstrapped once and kept.
import { spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findProgram, mustRun } from './program.ts'

export const checkout = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

/** Kept between runs: `cargo clean` or removing it makes the images anew. */
const cache = join(checkout, 'target', 'test-images')

/** Who owns the files of an image: one id for all, or each id moved up, as a mapped user namespace needs. */
export type Owner = { uid: number } | { shift: number }

export type ImageKind = 'busybox' | 'debian'

/** Directories an image may have for the mounts of a container. */
const mountpoints = ['dev', 'proc', 'sys', 'tmp', 'run', 'data', 'own']

/** Names that tests hide, freeze or bind over, in every image. */
function addFixtures(image: string): void {
  mkdirSync(join(image, 'etc', 'secret-directory'), { recursive: true })
  writeFileSync(join(image, 'etc', 'secret-file'), 'for the host only\n')
  writeFileSync(join(image, 'etc', 'secret-directory', 'inner'), 'for the host only\n')
  mkdirSync(join(image, 'etc', 'frozen'), { recursive: true })
  writeFileSync(join(image, 'etc', 'frozen', 'file'), 'as delivered\n')
}

/**
 * A root of one static program and links to it, as `busybox --install -s` makes them. Without `mountpoints` it has no
 * directory that a container's mounts could use, so all have to be made.
 */
export async function busyboxImage(image: string, options: { mountpoints?: boolean; owner?: Owner } = {}) {
  const busybox = findProgram('busybox')
  if (!busybox) throw new Error('busybox is not installed')
  mkdirSync(join(image, 'bin'), { recursive: true })
  copyFileSync(busybox, join(image, 'bin', 'busybox'))
  const links = (await mustRun(busybox, ['--list-full'])).split('\n').filter((path) => path !== '')
  for (const path of links) {
    if (path === 'bin/busybox') continue
    mkdirSync(dirname(join(image, path)), { recursive: true })
    symlinkSync('/bin/busybox', join(image, path))
  }
  mkdirSync(join(image, 'etc'), { recursive: true })
  writeFileSync(join(image, 'etc', 'passwd'), 'root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n')
  writeFileSync(join(image, 'etc', 'group'), 'root:x:0:\nuser:x:1000:\n')
  addFixtures(image)
  if (options.mountpoints !== false) {
    for (const name of mountpoints) mkdirSync(join(image, name))
    chmodSync(join(image, 'tmp'), 0o1777)
  }
  // Whatever umask the tests were started with, others may use it.
  await mustRun('chmod', ['-R', 'a+rX,u+w', image])
  giveTo(image, options.owner)
  return image
}

/** A copy of the Debian image. The kept one itself is never given to a container. */
export async function debianImage(image: string, options: { owner?: Owner } = {}) {
  const kept = await keptDebian()
  await mustRun('cp', ['--archive', '--reflink=auto', '--no-target-directory', kept, image])
  addFixtures(image)
  giveTo(image, options.owner)
  return image
}

export function makeImage(kind: ImageKind, image: string, owner?: Owner): Promise<string> {
  const options = owner === undefined ? {} : { owner }
  return kind === 'debian'
    ? debianImage(image, options)
    : busyboxImage(image, { ...options, mountpoints: false })
}

function giveTo(path: string, owner: Owner | undefined): void {
  if (owner === undefined) return
  const stat = lstatSync(path)
  const [uid, gid] =
    'uid' in owner ? [owner.uid, owner.uid] : [stat.uid + owner.shift, stat.gid + owner.shift]
  if (stat.isSymbolicLink()) lchownSync(path, uid, gid)
  else {
    chownSync(path, uid, gid)
    // chown takes setuid and setgid away.
    chmodSync(path, stat.mode & 0o7777)
  }
  if (stat.isDirectory()) for (const name of readdirSync(path)) giveTo(join(path, name), owner)
}

/**
 * Under a lock, so that it is made once however many test processes ask; renamed into place when complete, so that
 * an interrupted one is never used. debootstrap mounts /proc and /sys in its target: a private mount namespace keeps
 * that from the host and takes it away again however it ends.
 */
const makeDebian = `
  cache=$1 suite=$2 mirror=$3
  [ ! -d "$cache/$suite" ] || exit 0
  find "$cache" -mindepth 1 -maxdepth 1 -name "making-$suite.*" -exec rm -rf --one-file-system {} +
  work=$(mktemp -d "$cache/making-$suite.XXXXXX")
  chmod 755 "$work"
  debootstrap --variant=minbase "$suite" "$work" $mirror || {
    tail -n 20 "$work/debootstrap/debootstrap.log" 2>/dev/null
    exit 1
  }
  rm -rf "$work"/usr/share/doc "$work"/usr/share/locale "$work"/usr/share/man
  rm -rf "$work"/var/cache/apt/archives/*.deb "$work"/var/lib/apt/lists/*
  mv -T "$work" "$cache/$suite"
`

const suite = 'bookworm'

/** The Debian root that copies are made from, made first if need be: a minute or two, with its progress printed. */
export async function keptDebian(): Promise<string> {
  const kept = join(cache, suite)
  if (existsSync(kept)) return kept
  mkdirSync(cache, { recursive: true })
  const lock = join(cache, `${suite}.lock`)
  const script = ['sh', '-ec', makeDebian, 'sh', cache, suite, await configuredMirror()]
  await withProgress('flock', [lock, 'unshare', '--mount', '--propagation', 'private', ...script])
  return kept
}

/** The mirror this machine's APT has for the suite; debootstrap's own choice where it has none. */
async function configuredMirror(): Promise<string> {
  const format = '$(SITE) $(RELEASE) $(COMPONENT)'
  const targets = await mustRun('apt-get', [
    'indextargets',
    '--format',
    format,
    'Created-By: Packages',
  ]).catch(() => '')
  const wanted = targets.split('\n').map((line) => line.split(' '))
  return wanted.find(([, release, component]) => release === suite && component === 'main')?.[0] ?? ''
}

/** debootstrap says what it does a few hundred times: one line in twenty is enough to see that it lives. */
function withProgress(command: string, args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stderr.write(`[images] making a Debian ${suite} root in ${cache}: a minute or two, once\n`)
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const last: string[] = []
    let count = 0
    const report = (text: string): void => {
      for (const line of text.split('\n').filter((part) => part.trim() !== '')) {
        if (count++ % 20 === 0) process.stderr.write(`[images] ${line.trim()}\n`)
        last.push(line)
        if (last.length > 30) last.shift()
      }
    }
    child.stdout.setEncoding('utf8').on('data', report)
    child.stderr.setEncoding('utf8').on('data', report)
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === 0) resolve()
      else reject(new Error(`debootstrap ended with ${code ?? signal}:\n${last.join('\n')}`))
    })
  })
}

// As a program it makes the kept images, so that a build can do the slow part early and in sight.
if (process.argv[1] === fileURLToPath(import.meta.url)) await keptDebian()
