// Programs of the tests as JavaScript. A cell starts one for each of its tests, and what compiles it on the way takes three
// times as long to start as Node.js.
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkout } from './images.ts'

/** Within the checkout, so that `rootfs` is the package itself. */
export const compiled = join('target', 'test-support')

/** The driver, and what it imports of the modules beside it. */
const names = ['driver', 'processes']

const made = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0

/** Compiles what has changed since, and returns where the driver is below the top of a checkout. */
export async function compiledDriver(): Promise<string> {
  const source = (name: string): string => join(checkout, '__test__', 'support', `${name}.ts`)
  const target = (name: string): string => join(checkout, compiled, `${name}.js`)
  const stale = names.filter((name) => made(source(name)) >= made(target(name)))
  if (stale.length > 0) {
    const { default: ts } = await import('typescript')
    const compilerOptions = {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      rewriteRelativeImportExtensions: true,
      verbatimModuleSyntax: true,
    }
    mkdirSync(join(checkout, compiled), { recursive: true })
    for (const name of stale) {
      const { outputText } = ts.transpileModule(readFileSync(source(name), 'utf8'), {
        compilerOptions,
        fileName: source(name),
      })
      // Whole at any moment, as another spec may do the same.
      const unfinished = `${target(name)}.${process.pid}`
      writeFileSync(unfinished, outputText)
      renameSync(unfinished, target(name))
    }
  }
  return join(compiled, 'driver.js')
}
