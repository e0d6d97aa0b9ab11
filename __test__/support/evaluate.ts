// Runs a program in a Node.js of its own, which may give up its rights, or be short of something.
import { checkout } from './images.ts'
import { runProgram } from './program.ts'

const prelude = `
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Rootfs } from 'rootfs'

const image = process.argv[1]
/** What comes of a promise, as data; 'pending' if nothing does. */
const outcome = (promise) => Promise.race([
  promise.then(
    (value) => ({ value }),
    ({ code, message, errnoName, hint }) => ({ code, message, errnoName, hint }),
  ),
  sleep(5000, 'pending'),
])
/** A root that also an ordinary user can make: a directory of programs, and nothing else of the host. */
const small = () => Rootfs.empty().bind(image + '/bin', '/bin').bind(image + '/etc', '/etc')
/** They are children of whichever thread has started them. */
const supervisors = () =>
  readdirSync('/proc/' + process.pid + '/task')
    .flatMap((task) => readFileSync('/proc/' + process.pid + '/task/' + task + '/children', 'latin1').split(' '))
    .filter((pid) => pid && readFileSync('/proc/' + pid + '/comm', 'latin1') === 'rootfs-super\\n')
const eventually = async (condition) => {
  for (let count = 0; count < 500 && !condition(); count++) await sleep(10)
  return condition()
}
const beNobody = () => { process.setgroups([]); process.setgid(65534); process.setuid(65534) }
/** Opens files until there are no more, but for some. */
const fill = (left = 0) => {
  const files = []
  try { for (;;) files.push(openSync('/dev/null')) } catch {}
  for (let count = 0; count < left; count++) closeSync(files.pop())
  return files
}
const free = (files) => files.forEach((file) => closeSync(file))
`

/**
 * What a program returns: the body of an async function with `image` and some helpers. One that hangs, also in a call, is
 * killed, and that is an error.
 */
export async function evaluate(body: string, image: string, wrapper: string[] = []): Promise<unknown> {
  const program = `${prelude}
const main = async () => {${body}}
process.stdout.write(JSON.stringify(await main()) ?? 'null', () => process.exit())`
  const [command = '', ...args] = [
    ...wrapper,
    process.execPath,
    '--input-type=module',
    '--eval',
    program,
    image,
  ]
  const { exitCode, signal, stdout, stderr } = await runProgram(command, args, {
    cwd: checkout,
    timeout: 30_000,
  })
  if (exitCode !== 0) throw new Error(`it ended with ${exitCode ?? `${signal}: it was stuck`}\n${stderr}`)
  return JSON.parse(stdout)
}
