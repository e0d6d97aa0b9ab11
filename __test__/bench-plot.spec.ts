// The picture of the benchmark: XML, with a bar for whoever was measured, and the median at each.
import test from 'ava'
import { milliseconds, plot, type Report } from '../bench/plot.ts'

const summary = (median: number) => ({ total: { count: 3, minimum: median, median, p95: median } })

const report: Report = {
  machine: {
    date: '2026-01-02T03:04:05.678Z',
    kernel: '6.18.1',
    cpu: 'A "fast" <CPU> & more',
    cpus: 2,
    node: 'v20.19.0',
  },
  results: [
    {
      heap: 'small',
      measured: [
        { name: 'spawn', ...summary(1.411) },
        { name: 'floor', ...summary(0.861) },
        { name: 'rootfs', ...summary(1.102) },
        { name: 'rootfs-net', ...summary(7.77) },
        { name: 'runc', ...summary(21.84) },
      ],
    },
    {
      heap: '1gb',
      measured: [
        { name: 'rootfs', ...summary(1.284) },
        { name: 'runc', ...summary(60.74) },
      ],
    },
  ],
}

/** What is wrong with XML that has no comments, sections or declarations. */
function xmlFault(xml: string): string | undefined {
  const open: string[] = []
  let roots = 0
  const token = /<(\/?)([a-z]+)((?: [a-zA-Z0-9:-]+="[^"<]*")*)(\/?)>|([^<]+)/y
  for (let at = 0; at < xml.length; at = token.lastIndex) {
    token.lastIndex = at
    const found = token.exec(xml)
    if (found === null) return `no markup: ${xml.slice(at, at + 40)}`
    const [, closing, name, attributes, empty, text] = found
    if (/&(?!amp;|lt;|gt;|quot;)/.test(attributes ?? text ?? '')) return `a bare ampersand: ${found[0]}`
    if (text !== undefined) {
      if (open.length === 0 && text.trim() !== '') return `text outside of the root: ${text}`
    } else if (closing) {
      if (open.pop() !== name) return `closed without being open: ${name}`
    } else {
      const names = [...attributes!.matchAll(/ ([^=]+)=/g)].map(([, attribute]) => attribute)
      if (new Set(names).size !== names.length) return `an attribute twice: ${found[0]}`
      if (open.length === 0) roots += 1
      if (!empty) open.push(name!)
    }
  }
  return open.length > 0 || roots !== 1 ? `not closed, or not one root: ${open.join(' ')}` : undefined
}

const texts = (svg: string): string[] => [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map(([, text]) => text!)
const widths = (svg: string): number[] =>
  [...svg.matchAll(/<rect class="(?:small|large)" [^>]*width="([\d.]+)" height="11"/g)]
    .map(([, width]) => Number(width))
    // Those of the legend.
    .slice(report.results.length)

test('it is well-formed', (t) => {
  t.is(xmlFault(plot(report)), undefined)
  for (const broken of ['<a>', '<a></b>', '<a>&</a>', '<a b="1" b="2"/>', '<a b=1/>', '<a/><b/>', 'x<a/>']) {
    t.not(xmlFault(broken), undefined, broken)
  }
})

test('each bar says its median, and is as long', (t) => {
  const labels = texts(plot(report)).filter((text) => text.endsWith(' ms'))
  t.deepEqual(labels, ['1.41 ms', '0.86 ms', '1.10 ms', '1.28 ms', '21.8 ms', '60.7 ms'])
  const medians = [1.411, 0.861, 1.102, 1.284, 21.84, 60.74]
  t.deepEqual(labels, medians.map(milliseconds))
  const drawn = widths(plot(report))
  t.is(drawn.length, medians.length)
  for (const [index, width] of drawn.entries()) {
    t.true(Math.abs(width / Math.max(...drawn) - medians[index]! / 60.74) < 0.001, `bar ${index}`)
  }
})

test('it names the machine, and only who was measured', (t) => {
  const svg = plot(report)
  t.true(
    svg.includes('2 x A &quot;fast&quot; &lt;CPU&gt; &amp; more, Linux 6.18.1, Node.js v20.19.0, 2026-01-02'),
  )
  t.true(texts(svg).includes('runc'))
  t.false(texts(svg).includes('crun'))
  t.true(svg.includes('@media (prefers-color-scheme: dark)'))
  const small = plot({ ...report, results: report.results.slice(0, 1) })
  t.false(small.includes('1 GB heap'))
  t.throws(() => plot({ ...report, results: [] }), { message: /none of the contenders/ })
})
