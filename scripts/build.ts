// Builds the addon, the supervisor and the TypeScript layer: `npm run build [-- addon supervisor ts]`.
//
//   --target <triple>   for another platform than this one
//   --cross             link the addon with zig (cargo-zigbuild)
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { announce, fail, root, run, runBeside } from './command.ts'
import { isStaticExecutable } from './elf.ts'
import { hostPlatform, packageDirectory, platformOf } from './platform.ts'

const { values: options, positionals } = parseArgs({
  options: { target: { type: 'string' }, cross: { type: 'boolean', default: false } },
  allowPositionals: true,
})
const platform = options.target === undefined ? hostPlatform() : platformOf(options.target)
const outputDirectory = packageDirectory(platform)

const stages: Record<string, () => void | Promise<void>> = {
  addon: buildAddon,
  supervisor: buildSupervisor,
  ts: buildTypeScript,
}
const names = positionals.length > 0 ? positionals : Object.keys(stages)
for (const name of names) {
  if (!Object.hasOwn(stages, name)) {
    fail(`unknown build stage ${name}: ${Object.keys(stages).join(', ')} are known`)
  }
}
// At the same time: what links the supervisor has use for one processor only. TypeScript reads the index.d.ts that the addon's build
// writes.
const compiled = await Promise.allSettled(names.filter((name) => name !== 'ts').map(build))
const failures = compiled.flatMap((one) => (one.status === 'rejected' ? [(one.reason as Error).message] : []))
if (failures.length > 0) fail(failures.join('\n'))
if (names.includes('ts')) await build('ts')

async function build(name: string): Promise<void> {
  const start = performance.now()
  await stages[name]!()
  announce(`${name} is built (${((performance.now() - start) / 1000).toFixed(1)} s)`)
}

/** The Node.js addon beside its package's manifest, and index.d.ts from its doc comments. */
async function buildAddon(): Promise<void> {
  announce(`building the addon for ${platform.triple} (the first build takes a minute or two)`)
  mkdirSync(outputDirectory, { recursive: true })
  const args = ['build', '--platform', '--release', '--no-js']
  args.push('--manifest-path', 'crates/rootfs-napi/Cargo.toml')
  args.push('--output-dir', outputDirectory)
  // Relative to the output directory.
  args.push('--dts', relative(outputDirectory, join(root, 'index.d.ts')))
  if (options.target !== undefined) args.push('--target', platform.triple)
  if (options.cross) args.push('--cross-compile')
  await runBeside('napi', args)
}

/** The static helper. A call of its own: `+crt-static` would break the addon, which is a shared library. */
async function buildSupervisor(): Promise<void> {
  announce(`building the supervisor for ${platform.triple}`)
  const flags = [process.env.RUSTFLAGS, '-C target-feature=+crt-static'].filter(Boolean).join(' ')
  const args = ['build', '--package', 'rootfs-supervisor', '--bin', 'rootfs-supervisor']
  args.push('--profile', 'supervisor')
  // Naming the target, even the host's, keeps the flags from build scripts and procedural macros, and the output
  // in a folder of its own, so that this build and the addon's leave each other's caches alone.
  args.push('--target', platform.triple)
  await runBeside('cargo', args, { env: { RUSTFLAGS: flags } })

  const targetDirectory = resolve(root, process.env.CARGO_TARGET_DIR ?? 'target')
  const built = join(targetDirectory, platform.triple, 'supervisor', 'rootfs-supervisor')
  if (!isStaticExecutable(built)) throw new Error(`${built} is not static`)
  mkdirSync(outputDirectory, { recursive: true })
  install(built, join(outputDirectory, 'rootfs-supervisor'), 0o755)
  // The binaries are distributed in this package, so the licences go with them.
  for (const name of ['LICENSE', 'THIRD-PARTY-NOTICES.md']) {
    install(join(root, name), join(outputDirectory, name), 0o644)
  }
}

/** dist/ from src/, without what earlier sources left there. */
function buildTypeScript(): void {
  announce('compiling the TypeScript layer')
  rmSync(join(root, 'dist'), { recursive: true, force: true })
  run('tsc', ['--project', 'tsconfig.build.json'])
  // npm does the same where it installs the package.
  chmodSync(join(root, 'dist', 'cli.js'), 0o755)
}

/** Copies a file into place in one step (a running supervisor keeps its own), unless it is there already. */
function install(from: string, to: string, mode: number): void {
  if (!existsSync(to) || !readFileSync(from).equals(readFileSync(to))) {
    const unfinished = `${to}.new`
    copyFileSync(from, unfinished)
    renameSync(unfinished, to)
  }
  chmodSync(to, mode)
}
