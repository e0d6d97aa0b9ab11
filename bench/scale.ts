// How the cost of a container grows with the host, the container, the calling process and the number of containers.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CURVES, type CurveTask, type Point } from './curves.ts'
import { makeFixture, removeFixture } from './fixture.ts'
import { machine, runIsolated } from './isolation.ts'
import { table } from './statistics.ts'

const USAGE = `usage: node --import=@oxc-node/core/register bench/scale.ts [options]
  --only NAMES   comma-separated: ${Object.keys(CURVES).join(',')} (default: all)
  --calls N      measured calls for each number (default: 30)
  --json FILE    write the results there`

function fail(message: string): never {
  console.error(`scale: ${message}\n${USAGE}`)
  process.exit(2)
}

function parse() {
  try {
    return parseArgs({
      options: {
        only: { type: 'string', default: Object.keys(CURVES).join(',') },
        calls: { type: 'string', default: '30' },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values
  } catch (error) {
    return fail((error as Error).message)
  }
}

function readOptions() {
  const values = parse()
  if (values.help) {
    console.log(USAGE)
    process.exit()
  }
  if (process.getuid?.() !== 0) fail('this needs root')
  const only = values.only.split(',')
  const unknown = only.find((name) => !Object.hasOwn(CURVES, name))
  if (unknown !== undefined) fail(`there is no curve ${unknown}`)
  const calls = Number(values.calls)
  if (!Number.isInteger(calls) || calls < 1) fail('--calls is a number from 1')
  return { only, calls, json: values.json }
}

/** In a process and a mount namespace of its own. */
async function measure(task: CurveTask): Promise<Point[]> {
  const file = join(task.fixture.directory, `${task.curve}.task.json`)
  writeFileSync(file, JSON.stringify(task))
  await runIsolated('curves.ts', file)
  return JSON.parse(readFileSync(task.result, 'utf8')) as Point[]
}

function cell(value: number | string | undefined): string {
  if (typeof value !== 'number') return value ?? '-'
  return Number.isInteger(value) || value >= 1000 ? value.toFixed(0) : value.toPrecision(3)
}

function print(title: string, points: readonly Point[]): void {
  const head = [...new Set(points.flatMap((point) => Object.keys(point)))]
  console.log(`\n${title}\n${table([head, ...points.map((point) => head.map((name) => cell(point[name])))])}`)
}

const { only, calls, json } = readOptions()
// An interrupt ends what measures, and with it this; but the fixture is removed first.
process.on('SIGINT', () => undefined)
const curves: Record<string, Point[]> = {}
for (const curve of only) {
  // A fixture for each: what one makes in the root is not for the next.
  const fixture = makeFixture('busybox')
  try {
    const result = join(fixture.directory, 'result.json')
    curves[curve] = await measure({ curve, fixture, helper: fixture.crowd, calls, result })
    print(CURVES[curve]!.title, curves[curve])
  } finally {
    removeFixture(fixture)
  }
}
if (json !== undefined)
  writeFileSync(json, `${JSON.stringify({ machine: machine(), calls, curves }, undefined, 2)}\n`)
