// A root for the examples: nothing but the host's programs, read-only. An image's directory would do as well.
import { Rootfs } from 'rootfs'
// What `rootfs run --host` binds too: /usr, /bin, /lib and others, as far as this host has them.
import { bindHostPrograms } from '../src/cli/host.ts'

/** An empty root with those of the host's program directories that it has. */
export function hostRoot(): Rootfs {
  const rootfs = Rootfs.empty()
  bindHostPrograms(rootfs)
  return rootfs
}
