// Writes THIRD-PARTY-NOTICES.md: what is linked into the binaries that are published, and under which licence.
//
//   --check   changes nothing; fails when the file isn't what would be written
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { announce, capture, fail, root } from './command.ts'
import { platforms } from './platform.ts'

const output = join(root, 'THIRD-PARTY-NOTICES.md')
const shipped = ['rootfs-napi', 'rootfs-supervisor']

/** What `cargo metadata` says, as far as it is used here. */
interface Metadata {
  packages: CargoPackage[]
  resolve: { nodes: ResolveNode[] }
}
interface CargoPackage {
  id: string
  name: string
  version: string
  license: string | null
  repository: string | null
  source: string | null
  manifest_path: string
  targets: { kind: string[] }[]
}
interface ResolveNode {
  id: string
  deps: { pkg: string; dep_kinds: { kind: 'build' | 'dev' | null }[] }[]
}

/** The licences we take when a choice is offered, in this order, and the crate's file with the text of each. */
const elections: readonly { licence: string; file: RegExp }[] = [
  { licence: 'Apache-2.0', file: /^LICEN[CS]E([.-]APACHE.*)?$/i },
  { licence: 'MIT', file: /^(LICEN[CS]E([.-]MIT.*)?|COPYING|COPYRIGHT)(\.md|\.txt)?$/i },
  { licence: 'ISC', file: /^LICEN[CS]E([.-]ISC)?(\.md|\.txt)?$/i },
  { licence: 'BSD-2-Clause', file: /^LICEN[CS]E([.-]BSD)?(\.md|\.txt)?$/i },
  { licence: 'BSD-3-Clause', file: /^LICEN[CS]E([.-]BSD)?(\.md|\.txt)?$/i },
  { licence: 'Zlib', file: /^LICEN[CS]E([.-]ZLIB)?(\.md|\.txt)?$/i },
  { licence: 'Unicode-3.0', file: /^LICEN[CS]E([.-]UNICODE)?(\.md|\.txt)?$/i },
  { licence: 'MPL-2.0', file: /^LICEN[CS]E([.-]MPL.*)?$/i },
]

/** Crates whose package lacks the text: it is in their repository, and in a file of ours. */
const textsOfOurs: Record<string, string> = { napi: 'napi-rs.txt', 'napi-sys': 'napi-rs.txt' }

interface Notice {
  crate: CargoPackage
  licence: string
  text: string
}

/** Crates that end up in the binaries: normal dependencies, on any of the platforms, without procedural macros. */
function linkedCrates(): CargoPackage[] {
  const filters = platforms.flatMap((platform) => ['--filter-platform', platform.triple])
  const metadata: Metadata = JSON.parse(
    capture('cargo', ['metadata', '--format-version', '1', '--locked', ...filters]),
  )
  const packages = new Map(metadata.packages.map((crate) => [crate.id, crate]))
  const nodes = new Map(metadata.resolve.nodes.map((node) => [node.id, node]))
  const queue = metadata.packages.filter((crate) => shipped.includes(crate.name)).map((crate) => crate.id)
  const linked = new Map<string, CargoPackage>()
  for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
    const crate = packages.get(id)
    if (!crate || linked.has(id) || crate.targets.some((target) => target.kind.includes('proc-macro')))
      continue
    linked.set(id, crate)
    for (const dependency of nodes.get(id)?.deps ?? []) {
      if (dependency.dep_kinds.some(({ kind }) => kind === null)) queue.push(dependency.pkg)
    }
  }
  return [...linked.values()]
    .filter((crate) => crate.source !== null)
    .sort((a, b) => compare(a.name, b.name) || compare(a.version, b.version))
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** The licence taken of those a crate offers. */
function elect(crate: CargoPackage): string {
  const expression = crate.license ?? fail(`${crate.name} ${crate.version} names no licence`)
  // What all parts of an AND are under is more than a table can say in a word; none of ours has one today.
  if (/\bAND\b/.test(expression))
    fail(`${crate.name}: "${expression}" needs a decision in ${import.meta.filename}`)
  const offered = expression.split(/\s+OR\s+|\//).map((part) => part.replace(/[()]/g, '').trim())
  const taken = elections.find(({ licence }) => offered.includes(licence))
  return taken?.licence ?? fail(`${crate.name}: no licence of "${expression}" is among those we take`)
}

function notice(crate: CargoPackage): Notice {
  const licence = elect(crate)
  // One text for all of them; ours is the same.
  if (licence === 'Apache-2.0') return { crate, licence, text: readText(join(root, 'LICENSE')) }
  const own = textsOfOurs[crate.name]
  if (own !== undefined) return { crate, licence, text: readText(join(import.meta.dirname, 'licenses', own)) }
  const directory = dirname(crate.manifest_path)
  const pattern = elections.find((election) => election.licence === licence)?.file
  const file = readdirSync(directory)
    .sort()
    .reverse()
    .find((name) => pattern?.test(name))
  if (file === undefined) fail(`${crate.name} ${crate.version}: its package has no text of ${licence}`)
  return { crate, licence, text: readText(join(directory, file)) }
}

function readText(path: string): string {
  return readFileSync(path, 'utf8').replaceAll('\r\n', '\n').replace(/^\n+/, '').trimEnd()
}

function render(notices: Notice[]): string {
  const lines = [
    '# Third-party notices',
    '',
    'Written by `npm run notices`; do not edit.',
    '',
    "The addon and the supervisor that this project's packages contain are linked from its own source (Apache-2.0, see",
    'LICENSE), the Rust crates in this table, and the libraries below it. Where a crate offers a choice of licences,',
    'the one in the column "taken" is used. Their sources are at the repositories named, unchanged.',
    '',
    '| crate | version | licence | taken | repository |',
    '| --- | --- | --- | --- | --- |',
    ...notices.map(
      ({ crate, licence }) =>
        `| ${crate.name} | ${crate.version} | ${crate.license} | ${licence} | ${crate.repository ?? ''} |`,
    ),
    '',
    '| library | in | licence | source |',
    '| --- | --- | --- | --- |',
    '| Rust standard library | all binaries | MIT OR Apache-2.0, taken: Apache-2.0 | https://github.com/rust-lang/rust |',
    '| GCC support library (libgcc) | all binaries | GPL-3.0-or-later WITH GCC-exception-3.1 | https://gcc.gnu.org |',
    '| GNU C library | supervisor of the -gnu packages, static | LGPL-2.1-or-later | https://sourceware.org/glibc |',
    '| musl | supervisor of the -musl packages, static | MIT | https://musl.libc.org |',
    '',
    'The supervisor can be relinked with another version of the GNU C library: its source is in the repository of this',
    'project, and `npm run build:supervisor` links it.',
  ]
  const texts = new Map<string, string[]>()
  const add = (text: string, user: string) => texts.set(text, [...(texts.get(text) ?? []), user])
  for (const { crate, text } of notices) add(text, `${crate.name} ${crate.version}`)
  add(readText(join(root, 'LICENSE')), 'Rust standard library')
  add(readText(join(import.meta.dirname, 'licenses', 'glibc.txt')), 'GNU C library')
  add(readText(join(import.meta.dirname, 'licenses', 'musl.txt')), 'musl')
  for (const [text, users] of texts) {
    lines.push('', `## ${users.join(', ')}`, '', '```text', text, '```')
  }
  return `${lines.join('\n')}\n`
}

const crates = linkedCrates()
const text = render(crates.map(notice))
if (process.argv.includes('--check')) {
  if (!existsSync(output) || readFileSync(output, 'utf8') !== text) {
    fail('THIRD-PARTY-NOTICES.md is not up to date: run `npm run notices` and commit it')
  }
  announce(`third-party notices: up to date (${crates.length} crates)`)
} else {
  writeFileSync(output, text)
  announce(`third-party notices: written (${crates.length} crates)`)
}
