// A program with many containers running, for tests that kill it: it prints "ready" once all are up, and waits.
// Arguments: root directory, marker, how many containers through spawn, how many through prepare.
import { once } from 'node:events'
import { type ContainerProcess, Rootfs } from 'rootfs'

const [root = '', marker = '', spawned = '0', prepared = '0'] = process.argv.slice(2)

const rootfs = new Rootfs(root).defaults().tmpfs('/made/by/us').mask('/etc/secret-file')
const options = { env: { PATH: '/bin:/usr/bin', MARKER: marker } }
// One process that was daemonised, so that nothing but the pid namespace holds it, and one in the foreground.
const args = ['-c', 'setsid sh -c "sleep 1001 & echo up" </dev/null; exec sleep 1000']

/** Up when the daemonised process was started. */
const up = (child: ContainerProcess): Promise<unknown> => once(child.stdout!, 'data')

const children = Array.from({ length: Number(spawned) }, () => rootfs.spawn('/bin/sh', args, options))
const boxes = await Promise.all(Array.from({ length: Number(prepared) }, () => rootfs.prepare()))
children.push(...boxes.map((box) => box.spawn('/bin/sh', args, options)))
await Promise.all(children.map(up))
process.stdout.write('ready\n')
// Held by the containers alone: a kill is what ends this.
