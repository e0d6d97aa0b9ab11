// Tests of the Rust crates with what sees wrong uses of memory:
//
// * AddressSanitizer and LeakSanitizer: the library's tests, with all its system calls, the fuzz tests, and the supervisor in
//   every cell of rights. Stable Rust has them but doesn't offer them yet; RUSTC_BOOTSTRAP=1 asks for them all the same.
// * Miri, where a nightly toolchain has it: what makes no system call that it lacks, which is readers, plans and writers.
//
// Left out is what takes over the memory of a first process that has ended: the sanitizer's own data there belongs to
// the thread that is gone, and its calls are not among the two that this process has left.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { announce, root, run } from './command.ts'
import { hostPlatform } from './platform.ts'

const host = hostPlatform().triple
const directory = join(root, 'target', 'memory')

announce('tests with AddressSanitizer')
const sanitizer = { RUSTC_BOOTSTRAP: '1', RUSTFLAGS: '-Zsanitizer=address', CARGO_TARGET_DIR: directory }
for (const parts of [
  ['rootfs', '--lib', '--test', 'fuzz'],
  ['rootfs-supervisor', '--bins', '--test', 'cells'],
])
  run('cargo', ['test', '--quiet', '--target', host, '--package', ...parts], { env: sanitizer })

/** Modules whose tests make no system call, but for what is left out below; Miri takes minutes for them. */
const pure =
  'content error hint mountinfo namespace oci options origin overlay path plan process protocol spec sysctl'
    .split(' ')
    .map((name) => `${name}::`)
const miri = ['+nightly', 'miri']
if (spawnSync('cargo', [...miri, '--version'], { stdio: 'ignore' }).status !== 0) {
  announce(
    'Miri is not installed: `rustup toolchain install nightly --component miri,rust-src`; its tests are skipped',
  )
} else {
  announce('tests with Miri')
  const skipped = ['kernel::', 'execute::', 'oci::generated_tests', 'protocol::tests::a_frame'].flatMap(
    (name) => ['--skip', name],
  )
  run('cargo', [...miri, 'test', '--quiet', '--package', 'rootfs', '--lib', '--', ...skipped, ...pure], {
    env: { MIRIFLAGS: '-Zmiri-disable-isolation', PROPTEST_CASES: '4', CARGO_TARGET_DIR: directory },
  })
}
