// The public types: misuse fails to compile and for the right reason, each option is completed, and nothing is `any`.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import ts from 'typescript'
import { checkout } from './support/images.ts'

const misuse = join(checkout, '__test__', 'types', 'misuse.ts')
const declarations = join(checkout, 'index.d.ts')
const DIRECTIVE = /^\s*\/\/ @ts-expect-error(?:: (.*))?$/

function compilerOptions(): ts.CompilerOptions {
  const path = join(checkout, 'tsconfig.json')
  const { config } = ts.readConfigFile(path, ts.sys.readFile) as { config: unknown }
  return ts.parseJsonConfigFileContent(config, ts.sys, checkout).options
}

const options = compilerOptions()

/** The errors of a file whose text is another than on the disk. */
function errorsOf(path: string, text: string): Array<{ line: number; message: string }> {
  const compiler = ts.createCompilerHost(options)
  const { getSourceFile } = compiler
  compiler.getSourceFile = (name, ...rest) =>
    name === path
      ? ts.createSourceFile(name, text, ts.ScriptTarget.ES2023, true)
      : getSourceFile(name, ...rest)
  const program = ts.createProgram([path], options, compiler)
  const file = program.getSourceFile(path)!
  return program
    .getSemanticDiagnostics(file)
    .concat(program.getSyntacticDiagnostics(file))
    .map(({ start, messageText }) => ({
      line: file.getLineAndCharacterOfPosition(start ?? 0).line,
      message: ts.flattenDiagnosticMessageText(messageText, ' '),
    }))
}

test('each misuse is an error, for the reason that is given', (t) => {
  const lines = readFileSync(misuse, 'utf8').split('\n')
  const expected = lines.flatMap((line, index) => {
    const found = DIRECTIVE.exec(line)
    return found ? [{ line: index + 1, words: found[1] ?? '' }] : []
  })
  t.true(expected.length > 40)
  // Without the directives, the compiler says what it would have kept back.
  const errors = errorsOf(misuse, lines.map((line) => (DIRECTIVE.test(line) ? '' : line)).join('\n'))
  const wrong = expected.flatMap(({ line, words }) => {
    const messages = errors.filter((error) => error.line === line).map(({ message }) => message)
    const matches = words !== '' && messages.some((message) => message.includes(words))
    return matches ? [] : [{ line: line + 1, code: lines[line]?.trim(), words, messages }]
  })
  t.deepEqual(wrong, [])
  t.deepEqual(
    errors.filter(({ line }) => !expected.some((one) => one.line === line)),
    [],
    'and there are no others',
  )
})

// ---------------------------------------------------------------- completion

const edited = join(checkout, '__test__', 'types', 'edited.ts')
const editor = { text: '', version: 0 }
const service = ts.createLanguageService({
  getCompilationSettings: () => options,
  getScriptFileNames: () => [edited],
  getScriptVersion: (name) => (name === edited ? `${editor.version}` : '0'),
  getScriptSnapshot: (name) => {
    const content = name === edited ? editor.text : ts.sys.readFile(name)
    return content === undefined ? undefined : ts.ScriptSnapshot.fromString(content)
  },
  getCurrentDirectory: () => checkout,
  getDefaultLibFileName: ts.getDefaultLibFilePath,
  fileExists: (name) => name === edited || ts.sys.fileExists(name),
  readFile: ts.sys.readFile,
  directoryExists: ts.sys.directoryExists,
  getDirectories: ts.sys.getDirectories,
})

/** What an editor offers at `|`. */
function completions(code: string): string[] {
  const text = `import { openInRoot, probe, Rootfs } from 'rootfs'\ndeclare const rootfs: Rootfs\n${code}`
  const at = text.indexOf('|')
  editor.text = text.replace('|', '')
  editor.version += 1
  return service.getCompletionsAtPosition(edited, at, {})?.entries.map(({ name }) => name) ?? []
}

/** Every method with an options object; the keys are what its interface declares. */
const optionObjects: Array<[code: string, type: string]> = [
  ['Rootfs.empty({ | })', 'EmptyOptions'],
  ['rootfs.defaults({ | })', 'DefaultsOptions'],
  ["rootfs.bind('/a', '/b', { | })", 'BindOptions'],
  ["rootfs.tmpfs('/a', { | })", 'TmpfsOptions'],
  ["rootfs.proc('/proc', { | })", 'ProcOptions'],
  ["rootfs.sysfs('/sys', { | })", 'ReadonlyOptions'],
  ["rootfs.cgroup('/sys/fs/cgroup', { | })", 'ReadonlyOptions'],
  ['rootfs.dev({ | })', 'DevOptions'],
  ["rootfs.mask('/x', { | })", 'MaskOptions'],
  ["rootfs.file('/x', '', { | })", 'FileOptions'],
  ["rootfs.overlay('/x', { | })", 'OverlayOptions'],
  ['Rootfs.overlay({ | })', 'OverlayRootOptions'],
  ["rootfs.mount({ destination: '/x', uidMappings: [{ | }] })", 'OciIdMapping'],
  ["rootfs.directory('/x', { | })", 'DirectoryOptions'],
  ["Rootfs.fromBundle('/bundle', { | })", 'SpecOptions'],
  ['rootfs.readonly({ | })', 'ReadonlyRootOptions'],
  ['rootfs.namespaces({ | })', 'NamespaceOptions'],
  ['rootfs.namespaces({ user: { | } })', 'IdMap'],
  ['rootfs.namespaces({ user: { uids: [{ | }], gids: [] } })', 'IdMapping'],
  ['rootfs.mount({ | })', 'OciMount'],
  ["rootfs.hook('prestart', { | })", 'OciHook'],
  ['rootfs.prepare({ | })', 'PrepareOptions'],
  ["rootfs.spawn('/bin/true', [], { | })", 'SpawnOptions'],
  ["rootfs.run('/bin/true', [], { | })", 'RunOptions'],
  ["rootfs.run('/bin/true', [], { user: { | } })", 'User'],
  ["rootfs.run('/bin/true', [], { capabilities: { | } })", 'CapabilitySets'],
  ["rootfs.run('/bin/true', [], { rlimits: [{ | }] })", 'Rlimit'],
  ['void rootfs.template({ | })', 'TemplateOptions'],
]

const program = ts.createProgram([declarations], options)
const checker = program.getTypeChecker()
const module = checker.getSymbolAtLocation(program.getSourceFile(declarations)!)!
const exported = checker.getExportsOfModule(module)

function keysOf(type: string): string[] {
  const symbol = exported.find(({ name }) => name === type)
  if (symbol === undefined) throw new Error(`${type} is not exported`)
  return checker
    .getDeclaredTypeOfSymbol(symbol)
    .getProperties()
    .map(({ name }) => name)
}

for (const [code, type] of optionObjects) {
  test(`an editor completes ${code.replace('|', '…')}`, (t) => {
    const offered = completions(code)
    const keys = keysOf(type)
    t.true(keys.length > 0)
    t.deepEqual(
      keys.filter((key) => !offered.includes(key)),
      [],
    )
  })
}

test('every interface that a caller fills in is among them', (t) => {
  const names = exported.map(({ name }) => name).filter((name) => /Options$|^Oci[A-Z]/.test(name))
  const completed = new Set(optionObjects.map(([, type]) => type))
  // OciSpec is what a JSON file has.
  const open = new Set(['OciSpec'])
  t.deepEqual(
    names.filter((name) => !completed.has(name) && !open.has(name)),
    [],
    'add a line to optionObjects',
  )
})

test('words are completed', (t) => {
  t.true(completions("rootfs.propagation('|')").includes('rslave'))
  t.true(completions("rootfs.proc('/proc', { hidepid: '|' })").includes('invisible'))
  t.true(completions('(await probe()).features.|').includes('userNamespaces'))
  t.true(completions("rootfs.spawn('/bin/true').on('|')").includes('close'))
})

// ---------------------------------------------------------------- any

test('nothing in the public types is any', (t) => {
  const file = program.getSourceFile(declarations)!
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    const place = (): string => {
      const { line } = file.getLineAndCharacterOfPosition(node.getStart(file))
      return `index.d.ts:${line + 1}: ${node.parent.getText(file)}`
    }
    if (node.kind === ts.SyntaxKind.AnyKeyword) found.push(place())
    // What can't be resolved is any without a word.
    if (ts.isTypeReferenceNode(node) && checker.getTypeAtLocation(node).flags & ts.TypeFlags.Any)
      found.push(place())
    ts.forEachChild(node, visit)
  }
  visit(file)
  t.deepEqual(found, [])
  t.true(exported.length > 20)
})

test('options are complete: no interface that a caller fills in takes any key', (t) => {
  for (const [, type] of optionObjects) {
    const symbol = exported.find(({ name }) => name === type)!
    t.deepEqual([...checker.getIndexInfosOfType(checker.getDeclaredTypeOfSymbol(symbol))], [], type)
  }
})
