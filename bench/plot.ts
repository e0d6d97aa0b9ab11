// Draws what run.ts has measured: the median time from call to exit, as bars, in an SVG without any dependency.

import { readFileSync, writeFileSync } from 'node:fs'
import type { Heap, Measured, Result } from './worker.ts'

/** The part of what `run.ts --json` writes that is drawn. */
export interface Report {
  readonly machine: {
    readonly date: string
    readonly kernel: string
    readonly cpu?: string
    readonly cpus: number
    readonly node: string
  }
  readonly results: ReadonlyArray<{
    readonly heap: Heap
    readonly measured: ReadonlyArray<Pick<Measured, 'name' | 'total'>>
  }>
}

/** Who is drawn, in this order. */
const NAMES: Readonly<Record<string, string>> = {
  spawn: 'spawn, no container',
  floor: 'floor (C program)',
  rootfs: 'rootfs',
  'rootfs-prepared': 'rootfs, prepared root',
  bwrap: 'bubblewrap',
  crun: 'crun',
  runc: 'runc',
}
const HEAPS: ReadonlyArray<{ heap: Result['heap']; label: string }> = [
  { heap: 'small', label: 'small heap' },
  { heap: '1gb', label: '1 GB heap' },
]

const WIDTH = 760
const LEFT = 170
const RIGHT = 680
const TOP = 74
const BAR = 13
const BETWEEN = 12

const STYLE = `
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .value, .tick, .note { font-size: 11px }
  .tick, .note { fill: #59636e }
  .background { fill: #ffffff }
  .grid { stroke: #d1d9e0 }
  .small { fill: #0969da }
  .large { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .tick, .note { fill: #9198a1 }
    .background { fill: #0d1117 }
    .grid { stroke: #3d444d }
    .small { fill: #4493f8 }
    .large { fill: #db6d28 }
  }
`

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
const escapeXml = (text: string): string => text.replace(/[&<>"]/g, (character) => ENTITIES[character]!)

/** The label of a bar. */
export function milliseconds(value: number): string {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`
}

/** 1, 2 or 5 of some power of ten, so that there are at most seven lines. */
function step(largest: number): number {
  const power = 10 ** Math.floor(Math.log10(largest / 7))
  return power * ([1, 2, 5].find((factor) => factor * power * 7 >= largest) ?? 10)
}

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${attributes && ` ${attributes}`}>${escapeXml(content)}</text>`
}

export function plot({ machine, results }: Report): string {
  const heaps = HEAPS.filter(({ heap }) => results.some((result) => result.heap === heap))
  const median = (name: string, heap: Heap): number | undefined =>
    results.find((result) => result.heap === heap)?.measured.find((one) => one.name === name)?.total.median
  const groups = Object.entries(NAMES)
    .map(([name, label]) => {
      const bars = heaps.map(({ heap }) => ({ heap, median: median(name, heap) }))
      return { label, bars: bars.filter((bar) => bar.median !== undefined) }
    })
    .filter(({ bars }) => bars.length > 0)
  const medians = groups.flatMap(({ bars }) => bars.map((bar) => bar.median!))
  if (medians.length === 0) throw new Error('the report has none of the contenders that are drawn')

  const largest = Math.max(...medians)
  // Bars begin at zero and have the length of their time: on a logarithmic axis they would not.
  const at = (value: number): number => LEFT + ((RIGHT - LEFT) * value) / largest
  const bars: string[] = []
  let y = TOP
  for (const { label, bars: group } of groups) {
    bars.push(text(LEFT - 8, y + (group.length * BAR) / 2 + 4, label, 'text-anchor="end"'))
    for (const { heap, median: value } of group) {
      const width = (at(value!) - LEFT).toFixed(1)
      const kind = heap === 'small' ? 'small' : 'large'
      bars.push(`<rect class="${kind}" x="${LEFT}" y="${y}" width="${width}" height="${BAR - 2}"/>`)
      bars.push(text(at(value!) + 5, y + BAR - 4, milliseconds(value!), 'class="value"'))
      y += BAR
    }
    y += BETWEEN
  }

  const grid: string[] = []
  const distance = step(largest)
  for (let tick = 0; tick <= Math.floor(largest / distance); tick++) {
    const x = at(tick * distance).toFixed(1)
    grid.push(`<line class="grid" x1="${x}" x2="${x}" y1="${TOP - 6}" y2="${y}"/>`)
    const label = String(Number((tick * distance).toPrecision(3)))
    grid.push(text(Number(x), y + 14, label, 'class="tick" text-anchor="middle"'))
  }
  const legend = heaps.flatMap(({ heap, label }, index) => {
    const x = LEFT + index * 110
    const kind = heap === 'small' ? 'small' : 'large'
    return [`<rect class="${kind}" x="${x}" y="47" width="11" height="11"/>`, text(x + 17, 57, label)]
  })
  const processors = `${machine.cpus} x ${machine.cpu ?? 'unknown processor'}`
  const note = `${processors}, Linux ${machine.kernel}, Node.js ${machine.node}, ${machine.date.slice(0, 10)}`
  const title = 'One container from Node.js: from the call to the exit of /bin/true'
  const height = y + 60
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
<title>${escapeXml(title)}</title>
<style>${STYLE}</style>
<rect class="background" width="${WIDTH}" height="${height}" rx="6"/>
${text(16, 28, title, 'class="title"')}
${[...legend, ...grid, ...bars].join('\n')}
${text((LEFT + RIGHT) / 2, y + 30, 'median time in milliseconds, less is better', 'class="tick" text-anchor="middle"')}
${text(16, height - 10, note, 'class="note"')}
</svg>
`
}

if (import.meta.filename === process.argv[1]) {
  const [from, to] = process.argv.slice(2)
  if (from === undefined || to === undefined) {
    console.error('usage: node --import=@oxc-node/core/register bench/plot.ts RESULTS.json OUTPUT.svg')
    process.exit(2)
  }
  writeFileSync(to, plot(JSON.parse(readFileSync(from, 'utf8')) as Report))
}
