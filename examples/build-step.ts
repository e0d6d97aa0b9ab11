// A build step: the sources read-only, the output and a cache that stays between builds writable, all else gone afterwards.
// The same sources build in less time when the cache has what they need.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { giveToStrangers, hostRoot, strangers } from './host.ts'

const directory = await mkdtemp(join(tmpdir(), 'rootfs-build-'))
const place = (name: string) => mkdtemp(join(directory, `${name}-`))
const [sources, cache, output] = await Promise.all([place('sources'), place('cache'), place('output')])
await writeFile(join(sources, 'main.txt'), 'hello\n')
await Promise.all([sources, cache, output].map(giveToStrangers))

// What a compiler would do: look for the result in the cache, by the content of the source.
const STEP = `
set -e
key=$(sha256sum < main.txt | cut -c1-16)
if [ -e "$CACHE/$key" ]; then echo "from the cache"; else echo "compiled"; tr a-z A-Z < main.txt > "$CACHE/$key"; fi
cp "$CACHE/$key" "$OUTPUT/main.out"
touch main.o 2>/dev/null || echo "the sources stay as they are"
`

const step = hostRoot()
  .defaults()
  .bind(sources, '/build/sources', { readonly: true })
  .bind(cache, '/build/cache')
  .bind(output, '/build/output')
  .tmpfs('/tmp')
  .namespaces({ user: strangers, network: true })
  .readonly()

try {
  for (const turn of ['first', 'second']) {
    const { exitCode, stdout, stderr } = await step.run('/bin/sh', ['-c', STEP], {
      cwd: '/build/sources',
      env: { PATH: '/usr/bin:/bin', CACHE: '/build/cache', OUTPUT: '/build/output' },
    })
    if (exitCode !== 0) throw new Error(`the build failed with ${exitCode}: ${stderr}`)
    console.log(`The ${turn} build: ${stdout.trim().split('\n').join(', ')}`)
  }
  console.log(`Made: ${JSON.stringify(await readFile(join(output, 'main.out'), 'utf8'))}`)
  console.log(`In the cache: ${(await readdir(cache)).length} file`)
} finally {
  await rm(directory, { recursive: true })
}
