// `rootfs probe`: what this host allows, as a table or as JSON.
import { probe as probeHost } from '../index.ts'
import { printable } from './report.ts'

export async function probe({ json }: { json: boolean }): Promise<number> {
  const support = await probeHost()
  if (json) {
    process.stdout.write(`${JSON.stringify(support, undefined, 2)}\n`)
    return 0
  }
  const features = Object.entries(support.features)
  const width = Math.max(...features.map(([name]) => name.length))
  const lines = features.flatMap(([name, { available, reason, hint }]) => [
    `${available ? 'yes' : 'no '}  ${name.padEnd(width)}  ${printable(reason ?? '')}`.trimEnd(),
    ...(hint === undefined ? [] : [`${' '.repeat(width + 7)}${printable(hint)}`]),
  ])
  process.stdout.write(`${[`Linux ${printable(support.kernel)}`, ...lines].join('\n')}\n`)
  return 0
}
