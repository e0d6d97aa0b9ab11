// A root for the examples: nothing but the host's programs, read-only. An image's directory would do as well.
import { chown } from 'node:fs/promises'
import type { IdMap } from 'rootfs'
import { Rootfs } from 'rootfs'
// What `rootfs run --host` binds too: /usr, /bin, /lib and others, as far as this host has them.
import { bindHostPrograms } from '../src/cli/host.ts'

/** An empty root with those of the host's program directories that it has. */
export function hostRoot(): Rootfs {
  const rootfs = Rootfs.empty()
  bindHostPrograms(rootfs)
  return rootfs
}

const FIRST_ID = 100_000
const isRoot = process.geteuid?.() === 0

/**
 * The user namespace for code one doesn't trust. `true` maps the container's root to whoever calls: for root that is root
 * of the host, whose files it could read and write through a bind. So root maps to a range of ids that nobody has.
 */
export const strangers: IdMap | true = isRoot
  ? {
      uids: [{ containerId: 0, hostId: FIRST_ID, size: 65_536 }],
      gids: [{ containerId: 0, hostId: FIRST_ID, size: 65_536 }],
    }
  : true

/** Makes a directory of the host the container's own, so that it can write there. */
export async function giveToStrangers(directory: string): Promise<void> {
  if (isRoot) await chown(directory, FIRST_ID, FIRST_ID)
}
