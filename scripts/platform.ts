// The platforms there are packages for, and which of them a build is for.
import { join } from 'node:path'
import { fail, root } from './command.ts'

export interface Platform {
  /** As in the names of the packages and of the addon. */
  name: string
  /** Rust's name of it. */
  triple: string
  cpu: string
  libc: 'glibc' | 'musl'
}

export const platforms: readonly Platform[] = [
  { name: 'linux-x64-gnu', triple: 'x86_64-unknown-linux-gnu', cpu: 'x64', libc: 'glibc' },
  { name: 'linux-arm64-gnu', triple: 'aarch64-unknown-linux-gnu', cpu: 'arm64', libc: 'glibc' },
  { name: 'linux-x64-musl', triple: 'x86_64-unknown-linux-musl', cpu: 'x64', libc: 'musl' },
  { name: 'linux-arm64-musl', triple: 'aarch64-unknown-linux-musl', cpu: 'arm64', libc: 'musl' },
]

/** The platform of the Node.js that runs this. */
export function hostPlatform(): Platform {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  const libc = report.header?.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
  const found = platforms.find((platform) => platform.cpu === process.arch && platform.libc === libc)
  if (process.platform !== 'linux' || !found) {
    fail(
      `there is no package for ${process.platform} ${process.arch} (${libc}): Linux on x64 or arm64 is needed`,
    )
  }
  return found
}

/** The platform with this Rust name. */
export function platformOf(triple: string): Platform {
  const found = platforms.find((platform) => platform.triple === triple)
  if (!found) {
    fail(
      `unknown target ${triple}: one of ${platforms.map((platform) => platform.triple).join(', ')} is wanted`,
    )
  }
  return found
}

/** The folder of a platform's package. */
export function packageDirectory(platform: Platform): string {
  return join(root, 'packages', platform.name)
}
