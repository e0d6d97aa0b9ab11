// A root for the examples: nothing but the host's programs, read-only. An image's directory would do as well.
import { lstatSync } from 'node:fs'
import { Rootfs } from 'rootfs'

const PROGRAMS = [
  '/usr',
  '/bin',
  '/sbin',
  '/lib',
  '/lib32',
  '/lib64',
  '/libx32',
  '/etc/alternatives',
  '/etc/ld.so.cache',
]

/** An empty root with those of the host's program directories that it has. */
export function hostRoot(): Rootfs {
  const rootfs = Rootfs.empty()
  for (const path of PROGRAMS.filter((path) => lstatSync(path, { throwIfNoEntry: false }))) {
    rootfs.bind(path, path, { readonly: true })
  }
  return rootfs
}
