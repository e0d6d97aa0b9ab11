#!/usr/bin/env node
import { parseCommandLine } from './cli/arguments.ts'
// The command `rootfs`: what it was asked, and the exit status.
import { HELP, version } from './cli/help.ts'
import { exitStatus, report } from './cli/report.ts'

async function main(argv: readonly string[]): Promise<number> {
  const asked = parseCommandLine(argv)
  // Help needs no addon: what isn't asked for is not loaded.
  switch (asked.command) {
    case 'help':
      process.stdout.write(HELP)
      return 0
    case 'version':
      process.stdout.write(`${version()}\n`)
      return 0
    case 'run':
      return (await import('./cli/run.ts')).run(asked)
    case 'plan':
      return (await import('./cli/plan.ts')).plan(asked)
    case 'probe':
      return (await import('./cli/probe.ts')).probe(asked)
  }
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  report(error)
  process.exitCode = exitStatus(error)
}
