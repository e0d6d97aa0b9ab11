// What must not compile. Each line below a `@ts-expect-error` is an error, and types.spec.ts checks that its message has the words
// after the colon: an error for another reason proves nothing. Never executed.
import {
  type ContainerProcess,
  openInRoot,
  type Plan,
  type PreparedRootfs,
  probe,
  Rootfs,
  RootfsError,
} from 'rootfs'

const rootfs = new Rootfs('/srv')
declare const box: PreparedRootfs
declare const child: ContainerProcess
declare const plan: Plan

// @ts-expect-error: 'string' is not assignable
new RootfsError('x')

// ---------------------------------------------------------------- the builder

// @ts-expect-error: Expected 1 arguments
new Rootfs()
// @ts-expect-error: 'number' is not assignable
new Rootfs(1)
// @ts-expect-error: 'colour' does not exist in type 'EmptyOptions'
Rootfs.empty({ colour: 'red' })
// @ts-expect-error: 'true' is not assignable to type 'Size
Rootfs.empty({ size: true })
// @ts-expect-error: 'readOnly' does not exist in type 'BindOptions'
rootfs.bind('/a', '/b', { readOnly: true })
// @ts-expect-error: 'string' is not assignable to type 'boolean
rootfs.bind('/a', '/b', { readonly: 'yes' })
// @ts-expect-error: '"sometimes"' is not assignable
rootfs.bind('/a', '/b', { atime: 'sometimes' })
// @ts-expect-error: '"rpublic"' is not assignable
rootfs.bind('/a', '/b', { propagation: 'rpublic' })
// @ts-expect-error: 'string' is not assignable to type 'number'
rootfs.bind({ fd: '3' }, '/b')
// @ts-expect-error: Expected 2-3 arguments
rootfs.bind('/a')
// @ts-expect-error: 'uid0' does not exist in type 'TmpfsOptions'
rootfs.tmpfs('/tmp', { uid0: 1 })
// @ts-expect-error: '"all"' is not assignable
rootfs.proc('/proc', { hidepid: 'all' })
// @ts-expect-error: '"net"' is not assignable
rootfs.proc('/proc', { subset: 'net' })
// @ts-expect-error: 'recursive' does not exist in type 'ReadonlyOptions'
rootfs.sysfs('/sys', { recursive: true })
// @ts-expect-error: 'mode' does not exist in type 'DevOptions'
rootfs.dev({ mode: 1 })
// @ts-expect-error: '"maybe"' is not assignable
rootfs.mask('/x', { missing: 'maybe' })
// @ts-expect-error: 'deep' does not exist in type 'ReadonlyRootOptions'
rootfs.readonly({ deep: true })
// @ts-expect-error: '"public"' is not assignable to parameter of type 'Propagation'
rootfs.propagation('public')
// @ts-expect-error: 'net' does not exist in type 'NamespaceOptions'
rootfs.namespaces({ net: true })
// @ts-expect-error: missing the following properties
rootfs.namespaces({ user: { uids: [{ containerId: 0 }], gids: [] } })
// @ts-expect-error: Property 'destination' is missing
rootfs.mount({ source: '/a' })
// @ts-expect-error: '"sometime"' is not assignable
rootfs.hook('sometime', { path: '/bin/true' })
// @ts-expect-error: 'number' is not assignable to parameter of type 'string'
rootfs.hostname(1)
// @ts-expect-error: 'cgroup' does not exist
rootfs.template({ cgroup: '/sys/fs/cgroup/x' })

// ---------------------------------------------------------------- options of a process

// @ts-expect-error: 'enviroment' does not exist
void rootfs.run('/bin/true', [], { enviroment: {} })
// @ts-expect-error: 'number' is not assignable to type 'string'
void rootfs.run('/bin/true', [], { env: { A: 1 } })
// @ts-expect-error: 'string' is not assignable to parameter of type 'readonly string[]'
void rootfs.run('/bin/true', 'arg')
// @ts-expect-error: Property 'gid' is missing
void rootfs.run('/bin/true', [], { user: { uid: 1 } })
// @ts-expect-error: '"SIGNOTHING"' is not assignable
void rootfs.run('/bin/true', [], { killSignal: 'SIGNOTHING' })
// @ts-expect-error: 'bounds' does not exist
void rootfs.run('/bin/true', [], { capabilities: { bounds: [] } })
// @ts-expect-error: missing the following properties
void rootfs.run('/bin/true', [], { rlimits: [{ type: 'RLIMIT_CORE' }] })
// @ts-expect-error: 'string' is not assignable to type 'Uint8Array
void rootfs.run('/bin/true', [], { seccomp: 'all' })
// @ts-expect-error: '"utf-9"' is not assignable
void rootfs.run('/bin/true', [], { encoding: 'utf-9' })
// @ts-expect-error: 'input' does not exist
rootfs.spawn('/bin/true', [], { input: 'text' })
// @ts-expect-error: 'verify' does not exist
box.spawn('/bin/true', [], { verify: false })
// @ts-expect-error: 'steps' does not exist in type 'PrepareOptions'
void rootfs.prepare({ steps: true })
// @ts-expect-error: 'string' is not assignable to parameter of type 'number'
void rootfs.prepare({ onStep: (step) => Math.abs(step.type) })

// ---------------------------------------------------------------- results

// @ts-expect-error: 'string' is not assignable to type 'Buffer
const wrongText: Buffer = (await rootfs.run('/bin/true')).stdout
// @ts-expect-error: is not assignable to type 'string'
const wrongBytes: string = (await rootfs.run('/bin/true', [], { encoding: 'buffer' })).stdout
// @ts-expect-error: 'number | null' is not assignable to type 'number'
const wrongCode: number = (await box.run('/bin/true')).exitCode
// @ts-expect-error: Cannot assign to 'pid' because it is a read-only property
box.pid = 1
// @ts-expect-error: Property 'push' does not exist on type 'readonly Step[]'
plan.steps.push()
// @ts-expect-error: Cannot assign to 'index' because it is a read-only property
plan.steps[0]!.index = 1

// ---------------------------------------------------------------- processes

// @ts-expect-error: 'number | null' is not assignable to type 'string'
child.on('exit', (code: string) => code)
// @ts-expect-error: not assignable to parameter of type 'never'
child.on('exited', () => undefined)
// @ts-expect-error: 'Error' is not assignable to type 'string'
child.once('error', (error: string) => error)
// @ts-expect-error: '"SIGNOTHING"' is not assignable
child.kill('SIGNOTHING')
// @ts-expect-error: only refers to a type
new ContainerProcess()

// ---------------------------------------------------------------- the host, errors

// @ts-expect-error: Property 'docker' does not exist
void (await probe()).features.docker
// @ts-expect-error: Cannot assign to 'kernel' because it is a read-only property
;(await probe()).kernel = ''
// @ts-expect-error: Expected 2-4 arguments
void openInRoot('/srv')
// @ts-expect-error: 'true' is not assignable to parameter of type 'string | number | undefined'
void openInRoot('/srv', 'x', true)
declare const error: RootfsError
// @ts-expect-error: no overlap
if (error.code === 'ERR_ROOTFS_OTHER') throw error
// @ts-expect-error: 'string | undefined' is not assignable to type 'string'
const wrongHint: string = error.hint

export { wrongBytes, wrongCode, wrongHint, wrongText }
