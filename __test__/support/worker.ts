// A worker that has containers, for tests of several: it tells the pids of those that stay, and runs as many more as it is told.
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import { Rootfs } from 'rootfs'

const { image, marker } = workerData as { image: string; marker: string }
const options = { env: { PATH: '/bin:/usr/bin', MARKER: marker } }
const rootfs = new Rootfs(image).defaults().tmpfs('/made/by/us')
// One process of each has left its parent, so that nothing but the pid namespace holds it.
const args = ['-c', 'setsid sh -c "sleep 1001 & echo up" </dev/null; exec sleep 1000']

const box = await rootfs.prepare()
const children = [box.spawn('/bin/sh', args, options), rootfs.spawn('/bin/sh', args, options)]
await Promise.all(children.map((child) => once(child.stdout!, 'data')))
parentPort!.postMessage({ pids: [box.pid, ...children.map(({ pid }) => pid)] })
const ended = children.map((child) => once(child, 'close'))

parentPort!.on('message', async (count: number) => {
  if (count > 0) {
    const numbers = Array.from({ length: count }, (_, index) => `${index}`)
    const runs = numbers.map((number, index) => (index % 2 === 0 ? rootfs : box).run('/bin/echo', [number]))
    const outputs = (await Promise.all(runs)).map(({ stdout }) => stdout.trim())
    parentPort!.postMessage({
      right: outputs.join() === numbers.join(),
      running: children[0]!.exitCode === null,
    })
    return
  }
  // Left by itself: nothing holds the worker any more.
  for (const child of children) child.kill('SIGKILL')
  // What left its parent in the box has its output until then.
  await box.close()
  await Promise.all(ended)
  parentPort!.postMessage({ closed: true })
  parentPort!.close()
})
