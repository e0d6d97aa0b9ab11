// A pool of prepared roots behind an HTTP server: each request's body is a shell script, run in a root that nobody has
// used before; its output is the answer. A used root is closed, and another is prepared meanwhile.
//
//   node examples/http-pool.ts [PORT]      serves until it is interrupted
//   node examples/http-pool.ts --once      asks itself three times at once, and ends
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { PreparedRootfs } from 'rootfs'
import { hostRoot, strangers } from './host.ts'

const description = hostRoot()
  .defaults()
  .tmpfs('/tmp', { size: '16m' })
  .namespaces({ user: strangers, network: true })
  .readonly()

/** Prepares some ahead, so that a request waits for its command and for nothing else. */
class Pool {
  readonly #ready: Promise<PreparedRootfs>[] = []
  #closed = false

  constructor(size: number) {
    for (let count = 0; count < size; count++) this.#add()
  }

  #add(): void {
    const prepared = description.prepare()
    // Whoever takes it hears of a failure; until then it is no unhandled one.
    prepared.catch(() => {})
    this.#ready.push(prepared)
  }

  /** One for the caller alone, who closes it. */
  async take(): Promise<PreparedRootfs> {
    if (this.#closed) throw new Error('the pool is closed')
    const taken = this.#ready.shift() ?? description.prepare()
    this.#add()
    return taken
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#ready.map(async (prepared) => (await prepared).close()))
  }
}

const pool = new Pool(4)

async function answer(request: IncomingMessage): Promise<{ status: number; body: string }> {
  if (request.method !== 'POST') return { status: 405, body: 'POST a shell script\n' }
  const script = await text(request)
  const box = await pool.take()
  try {
    const options = { input: script, timeout: 2_000, capabilities: [], maxBuffer: 1 << 20 }
    const { exitCode, timedOut, stdout, stderr } = await box.run('/bin/sh', ['-s'], options)
    if (timedOut) return { status: 408, body: 'the script took too long\n' }
    return { status: exitCode === 0 ? 200 : 422, body: stdout + stderr }
  } finally {
    void box.close()
  }
}

const server = createServer((request, response) => {
  answer(request).then(
    ({ status, body }) => response.writeHead(status, { 'content-type': 'text/plain' }).end(body),
    (error) => {
      console.error(error)
      response.writeHead(500).end('something is wrong here\n')
    },
  )
})

async function stop(): Promise<void> {
  server.close()
  await pool.close()
}

const [argument] = process.argv.slice(2)
const once = argument === '--once'
server.listen(once ? 0 : Number(argument ?? 8080), '127.0.0.1', async () => {
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}/`
  if (!once) {
    console.log(`curl --data-binary 'echo hello from $(hostname)' ${url}`)
    process.once('SIGINT', () => void stop())
    return
  }
  const scripts = ['echo one; id -u', 'echo two > /tmp/x; cat /tmp/x', 'ls /tmp; echo three; exit 3']
  const answers = await Promise.all(
    scripts.map(async (body) => {
      const response = await fetch(url, { method: 'POST', body })
      return `${response.status}: ${JSON.stringify(await response.text())}`
    }),
  )
  console.log(answers.join('\n'))
  await stop()
})
