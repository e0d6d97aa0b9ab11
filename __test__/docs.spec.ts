// The documents: their links lead somewhere, and the README's programs run.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'ava'
import { guardHost } from './support/host.ts'
import { checkout } from './support/images.ts'
import { runProgram } from './support/program.ts'
import { testNeeding } from './support/requirements.ts'

guardHost(test)

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

const programs = [
  ...readFileSync(join(checkout, 'README.md'), 'utf8').matchAll(/```(?:ts|js)\n([\s\S]*?)```/g),
].map(([, code]) => code!)
const output = [
  /^1 I am 0, process 1, and see \/bin \/dev .*\/usr\n/,
  /README\.md[\s\S]*\n20\n/,
  /^\[ '1\\n', '2\\n', '3\\n' \]\n$/,
  /^false +0 +100000 +65536\n/,
]

test('the README has the programs that are run here', (t) => t.is(programs.length, output.length))

for (const [index, code] of programs.entries()) {
  testNeeding(['root'])(`the README's program ${index + 1} runs`, async (t) => {
    const args = ['--input-type=module', '--eval', code]
    const done = await runProgram(process.execPath, args, { cwd: checkout })
    t.is(done.exitCode, 0, done.stderr)
    t.regex(done.stdout, output[index]!)
  })
}
