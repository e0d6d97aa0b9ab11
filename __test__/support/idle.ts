// A program that uses a container and then has nothing more to do: it has to end by itself.
// Arguments: root directory; "run" to run a command, "prepare" to leave a prepared root behind unclosed.
import { Rootfs } from 'rootfs'

const [root = '', what] = process.argv.slice(2)
const rootfs = new Rootfs(root).defaults()
if (what === 'prepare') {
  const box = await rootfs.prepare()
  const { exitCode } = await box.run('/bin/true')
  process.stdout.write(JSON.stringify({ exitCode, pid: box.pid }))
} else {
  const { exitCode } = await rootfs.run('/bin/true')
  process.stdout.write(JSON.stringify({ exitCode }))
}
