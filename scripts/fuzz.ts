// Builds the fuzz targets of `fuzz/` and runs them, guided by coverage, each for as long as is said. What a run has found is
// kept below target/fuzz; `--merge` puts the smallest part of it that covers as much into the corpus of the repository, which
// `cargo test` tries each time. Ends with an error when a target fails, and says which file makes it.
//
// It needs a C++ compiler.
//
//   npm run fuzz [-- TARGET...] [--seconds=60] [--merge] [--address]
//
// `--address` adds AddressSanitizer and LeakSanitizer, which stable Rust has but doesn't offer yet: RUSTC_BOOTSTRAP=1 asks for
// it all the same. The instrumentation for coverage is LLVM's own, which needs no leave.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { announce, fail, root, run, tryRun } from './command.ts'
import { hostPlatform } from './platform.ts'

/** The longest input of each. */
const targets: Record<string, number> = { frames: 4096, options: 256, config: 4096, resolver: 512 }

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '60' },
    merge: { type: 'boolean', default: false },
    address: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds)
if (!Number.isInteger(seconds) || seconds < 1) fail(`--seconds=${values.seconds} is no number of seconds`)
for (const name of positionals) {
  if (!Object.hasOwn(targets, name))
    fail(`unknown target ${name}: ${Object.keys(targets).join(', ')} are known`)
}

const host = hostPlatform().triple
const kept = join(root, 'target', 'fuzz')
const coverage = ['level=4', 'inline-8bit-counters', 'pc-table', 'trace-compares']
const flags = [
  '--cfg=fuzzing',
  '-Cpasses=sancov-module',
  ...coverage.map((name) => `-Cllvm-args=-sanitizer-coverage-${name}`),
  ...(values.address ? ['-Zsanitizer=address'] : []),
]
announce(`building the fuzz targets${values.address ? ' with AddressSanitizer' : ''}`)
// With a target named, build scripts and macros are not instrumented.
const folder = values.address ? 'build-address' : 'build'
run('cargo', ['build', '--release', '--quiet', '--target', host, '--target-dir', join(kept, folder)], {
  cwd: join(root, 'fuzz'),
  env: { CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f'), ...(values.address ? { RUSTC_BOOTSTRAP: '1' } : {}) },
})
const built = join(kept, folder, host, 'release')

const failed: string[] = []
for (const name of positionals.length > 0 ? positionals : Object.keys(targets)) {
  const program = join(built, name)
  const corpus = join(root, 'crates', 'rootfs', 'tests', 'corpus', name)
  const found = join(kept, 'corpus', name)
  const beginnings = join(kept, 'beginnings', name)
  const failures = join(kept, 'failures', name)
  for (const directory of [corpus, found, beginnings, failures]) mkdirSync(directory, { recursive: true })
  run(join(built, 'beginnings'), [beginnings, '-runs=0', '-verbosity=0'], {
    env: { ROOTFS_FUZZ_TARGET: name },
  })
  const limits = [`-max_len=${targets[name]}`, '-timeout=10', '-rss_limit_mb=4096']
  announce(`fuzzing ${name} for ${seconds} s`)
  const status = tryInOwnDirectory(program, [
    ...limits,
    `-max_total_time=${seconds}`,
    `-dict=${join(beginnings, 'words')}`,
    `-artifact_prefix=${failures}/`,
    '-print_final_stats=1',
    '-verbosity=1',
    found,
    corpus,
    join(beginnings, 'inputs'),
  ])
  if (status !== 0) failed.push(name)
  else if (values.merge) merge(program, limits, corpus, found)
}
if (failed.length > 0)
  fail(
    `failed: ${failed.join(', ')}; the input is in target/fuzz/failures and \`${join(built, 'TARGET')} FILE\` runs it again`,
  )

/** With temporary files of its own, as a target that fails leaves its tree; in memory, where many times as many can be made. */
function tryInOwnDirectory(program: string, args: string[]): number {
  const memory = '/dev/shm'
  const directory = mkdtempSync(join(existsSync(memory) ? memory : tmpdir(), 'rootfs-fuzz-'))
  try {
    return tryRun(program, args, { env: { TMPDIR: directory } })
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** What the corpus doesn't cover yet is added to it; by lines, as numbers of times would make it too large. */
function merge(program: string, limits: string[], corpus: string, found: string): void {
  const before = readdirSync(corpus).length
  const quietly = ['-use_counters=0', '-verbosity=0']
  const status = tryInOwnDirectory(program, [...limits, '-set_cover_merge=1', ...quietly, corpus, found])
  if (status !== 0) fail(`merging ended with status ${status}`)
  announce(`${readdirSync(corpus).length - before} files are new in ${corpus}`)
}
