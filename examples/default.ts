// The main job on what every Linux machine has: an empty root with the host's programs in it, read-only.
import { RootfsError } from 'rootfs'
import { hostRoot } from './host.ts'

const rootfs = hostRoot().defaults().tmpfs('/tmp', { size: '16m' }).hostname('box').readonly()

const SCRIPT = `
echo "I am $(id -u):$(id -g) on $(uname -n), process $$, in $(pwd)"
echo "of the host I see: $(echo /*)"
touch /usr/x 2>&1 || true
echo "hello" > /tmp/x && echo "/tmp is mine: $(cat /tmp/x)"
`

try {
  console.log('The plan:\n')
  console.log(`${rootfs.plan()}`)

  const box = await rootfs.prepare()
  try {
    console.log("The container's own mount table:\n")
    console.table(
      (await box.mounts()).map(({ destination, type, source, options }) => ({
        destination,
        type,
        source,
        options: options.join(','),
      })),
    )
    const { stdout, stderr } = await box.run('/bin/sh', ['-c', SCRIPT])
    console.log(`\nA command's output:\n\n${stdout}${stderr}`)
  } finally {
    await box.close()
  }

  // The first container has paid for the start of the supervisor.
  const { durationUs } = await rootfs.run('/bin/true')
  console.log(
    `A container of its own for /bin/true, from the call until it is taken down: ${(durationUs / 1000).toFixed(2)} ms`,
  )
} catch (error) {
  console.error(error)
  if (error instanceof RootfsError && error.hint) {
    console.error(`\nWhat to do: ${error.hint}`)
  }
  process.exitCode = 1
}
