// What every Linux machine has, as the content of an empty root: its programs, read-only.
import { statSync } from 'node:fs'
import type { BindOptions } from '../../index.js'

/** Programs, and what they need to start. */
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

/** What programs need to find and trust others on the network. */
const NETWORK = [
  '/etc/resolv.conf',
  '/etc/hosts',
  '/etc/nsswitch.conf',
  '/etc/services',
  '/etc/ssl',
  '/etc/pki',
  '/etc/ca-certificates',
]

interface Builder {
  bind(source: string, destination: string, options: BindOptions): unknown
}

/** Binds what this host has of its programs, each at its own place. */
export function bindHostPrograms(rootfs: Builder, { network = false } = {}): void {
  for (const path of [...PROGRAMS, ...(network ? NETWORK : [])]) {
    if (statSync(path, { throwIfNoEntry: false })) {
      rootfs.bind(path, path, { readonly: true })
    }
  }
}
