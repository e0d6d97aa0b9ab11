// The contenders that go through child_process, in a process of their own with the same size of heap: run.ts ->
// worker.ts -> this. One question at a time: the worker takes the turns.

import { readFileSync } from 'node:fs'
import { type Contender, type Missing, makeContenders } from './contenders.ts'
import { type Answer, fillMemory, isPeer, matches, type Request, type Task } from './worker.ts'

const task = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as Task
const ballast = task.heap === '1gb' ? fillMemory() : []

const contenders = new Map<string, Contender>()
const missing: Missing[] = []
for (const candidate of await makeContenders(
  task.fixture,
  task.stdio,
  (name) => isPeer(name) && matches(name, task.only),
  task.scene,
)) {
  if ('missing' in candidate) missing.push(candidate)
  else contenders.set(candidate.name, candidate)
}

const say = (answer: Answer): void => {
  process.send!(answer)
}

async function answer({ name, what, count = 1, inFlight = 1 }: Request): Promise<Answer> {
  const contender = contenders.get(name)
  if (contender === undefined) throw new Error(`there is no ${name}`)
  if (what === 'once') return { sample: await contender.once() }
  if (what === 'many') return { took: await contender.many(count, inFlight) }
  return { text: (await contender.mountTable?.()) ?? '' }
}

process.on('message', (request: Request) => {
  answer(request).then(say, (error: Error) => say({ error: error.message }))
})
process.on('disconnect', () => {
  for (const contender of contenders.values()) contender.close?.()
  // Also keeps the ballast alive until here.
  process.exit(task.heap === '1gb' && ballast.length === 0 ? 1 : 0)
})
say({ contenders: [...contenders.keys()], missing })
