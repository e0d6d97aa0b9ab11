// The builder that a command line describes.
import { Rootfs } from '../rootfs.ts'
import type { Asked } from './arguments.ts'
import { bindHostPrograms } from './host.ts'

export async function build(asked: Asked): Promise<Rootfs> {
  const rootfs =
    asked.bundle === undefined
      ? hostRoot(asked.network)
      : await Rootfs.fromBundle(asked.bundle, { ignore: asked.ignore })
  for (const { source, destination, readonly } of asked.binds) {
    rootfs.bind(source, destination, { readonly })
  }
  for (const destination of asked.tmpfs) {
    rootfs.tmpfs(destination)
  }
  return rootfs
}

/** An empty root with the host's programs in it. */
function hostRoot(network: boolean): Rootfs {
  const rootfs = Rootfs.empty()
  bindHostPrograms(rootfs, { network })
  rootfs.defaults().tmpfs('/tmp').hostname('rootfs').readonly().namespaces({ network: !network })
  return rootfs
}
