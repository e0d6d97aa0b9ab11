// What the comparison of the mount table with the plan costs: the same root prepared with and without it, in turns.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Rootfs } from 'rootfs'
import { makeFixture, removeFixture } from './fixture.ts'
import { table } from './statistics.ts'

const { values } = parseArgs({ options: { iterations: { type: 'string', default: '500' } } })
const iterations = Number(values.iterations)
if (!Number.isInteger(iterations) || iterations < 1) {
  console.error('usage: node --import=@oxc-node/core/register bench/verify.ts [--iterations N]')
  process.exit(2)
}
const WARMUP = 20

/** Of two turns that follow each other, so that drift is in both. */
interface Round {
  with: number
  without: number
  step: number
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!

async function prepare(rootfs: Rootfs, verify: boolean): Promise<{ ms: number; step: number }> {
  const start = performance.now()
  const box = await rootfs.prepare({ verify })
  const ms = performance.now() - start
  const step = box.steps.find(({ type }) => type === 'verify')?.durationUs ?? 0
  await box.close()
  return { ms, step: step / 1000 }
}

async function measure(rootfs: Rootfs): Promise<Round[]> {
  const rounds: Round[] = []
  for (let count = 0; count < iterations + WARMUP; count++) {
    const order = count % 2 === 0 ? [true, false] : [false, true]
    const round: Round = { with: 0, without: 0, step: 0 }
    for (const verify of order) {
      const { ms, step } = await prepare(rootfs, verify)
      round[verify ? 'with' : 'without'] = ms
      if (verify) round.step = step
    }
    if (count >= WARMUP) rounds.push(round)
  }
  return rounds
}

const fixture = makeFixture('busybox')
try {
  const rows = [['root', 'with ms', 'without ms', 'difference', 'step ms', 'step / prepare']]
  for (const binds of [0, 100]) {
    const rootfs = new Rootfs(fixture.root).defaults().readonly()
    for (let count = 0; count < binds; count++) {
      mkdirSync(join(fixture.root, `mnt/${count}`), { recursive: true })
      rootfs.bind(fixture.root, `/mnt/${count}`, { readonly: true })
    }
    const rounds = await measure(rootfs)
    const of = (what: keyof Round): number => median(rounds.map((round) => round[what]))
    const percent = (part: number): string => `${(100 * part).toFixed(1)} %`
    rows.push([
      binds === 0 ? 'defaults()' : `and ${binds} binds`,
      of('with').toFixed(3),
      of('without').toFixed(3),
      percent(of('with') / of('without') - 1),
      of('step').toFixed(3),
      percent(of('step') / of('with')),
    ])
  }
  console.log(table(rows))
} finally {
  removeFixture(fixture)
}
