// The documents: their links lead somewhere, and the README's first program is one.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'ava'
import { guardHost } from './support/host.ts'
import { busyboxImage, checkout } from './support/images.ts'
import { testNeeding } from './support/requirements.ts'

const host = guardHost(test)

const documents = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'bench/README.md',
  ...readdirSync(join(checkout, 'docs')).map((name) => `docs/${name}`),
]

for (const name of documents) {
  test(`${name}: each link to a file leads to one`, (t) => {
    const text = readFileSync(join(checkout, name), 'utf8')
    const links = [...text.matchAll(/\]\(([^)#\s]+)(#[^)]*)?\)/g)].map(([, target]) => target!)
    const files = links.filter((target) => !/^[a-z]+:/.test(target))
    t.deepEqual(
      files.filter((target) => !existsSync(join(checkout, dirname(name), target))),
      [],
    )
  })
}

test('the README leads to every document', (t) => {
  const text = readFileSync(join(checkout, 'README.md'), 'utf8')
  t.deepEqual(
    documents.filter((name) => name.startsWith('docs/') && !text.includes(`](${name})`)),
    [],
  )
})

const program = (): string => {
  const [, code] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(checkout, 'README.md'), 'utf8'))!
  return code!
}

test('the README shows at first what a user came for', (t) => {
  const text = readFileSync(join(checkout, 'README.md'), 'utf8')
  t.true(text.indexOf('```ts') < text.indexOf('\n## '))
  t.true(program().trim().split('\n').length <= 6)
})

testNeeding(['root', 'busybox'])("the README's first program runs", async (t) => {
  const image = await busyboxImage(join(host.scratch('readme'), 'image'))
  writeFileSync(join(image, 'etc', 'os-release'), 'NAME=ours\n')
  const code = program().replace("'/srv/images/debian'", JSON.stringify(image))
  t.not(code, program())
  const output = execFileSync(
    process.execPath,
    ['--import=@oxc-node/core/register', '--input-type=module', '--eval', code],
    { cwd: checkout, encoding: 'utf8' },
  )
  t.regex(output, /^1 NAME=ours\n/)
})
