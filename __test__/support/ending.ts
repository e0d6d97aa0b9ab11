// A program with one container of a command that stays, for tests that kill it: it prints the command's pid.
// Arguments: root directory; options of `namespaces` as JSON; the user's id; "run" or "prepare".
import { once } from 'node:events'
import { Rootfs } from 'rootfs'

const [root = '', namespaces = '{}', id = '0', way] = process.argv.slice(2)
const rootfs = new Rootfs(root).namespaces(JSON.parse(namespaces)).proc('/proc', { fallback: 'bind' })
const runner = way === 'prepare' ? await rootfs.prepare() : rootfs
const user = { uid: Number(id), gid: Number(id) }
const child = runner.spawn('/bin/sleep', ['1000'], { user, stdio: 'ignore' })
await once(child, 'spawn')
process.stdout.write(`${child.pid}\n`)
setInterval(() => {}, 1000)
