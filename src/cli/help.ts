// What the command says about itself.
import { readFileSync } from 'node:fs'

/** Fits a screen of 24 lines and 80 columns. */
export const HELP = `\
Usage: rootfs run BUNDLE [-- COMMAND ARG...]    run the process of an OCI bundle
       rootfs run --host [OPTION...] -- COMMAND ARG...   on the host's programs
       rootfs plan BUNDLE|--host [OPTION...]    show the steps, and do nothing
       rootfs probe [--json]                    show what this host allows

  --host               an empty root with the host's /usr, /bin, /lib, ... in
                       it, read-only; a /tmp of its own; a loopback, no network
  --net                with --host: the host's network, and its names and keys
  --bind SRC:DST[:ro]  a file or directory of the host, writable unless ro *
  --tmpfs DST          an empty directory that can be written to *
  --cwd DIR            where COMMAND begins; else as the bundle says, or /
  --env NAME=VALUE     for COMMAND; else those of the bundle, or only TERM *
  --ignore FIELD       run though this field of config.json isn't enforced, such
                       as linux.seccomp *
  --json               for programs
  -v, --verbose        warnings too
  -h, --help  -V, --version                     * can be given more than once

The exit status is that of the command; 128 + N when signal N has ended it; 127
when it isn't found, 126 when it can't be executed, 125 when rootfs has failed.
Signals are passed on. The container ends with this program, however that ends.
`

/** Of the package. */
export function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}
