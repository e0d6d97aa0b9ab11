// Asks what is known of the dependencies: npm's advisories, and by cargo-deny licences, duplicates, sources, RustSec's
// advisories and withdrawn releases. It ends with 1 if something was found, and with 2 if nothing was but not all could be
// asked: the registry in use may answer no audits, the database of advisories may be out of reach.
import { spawnSync } from 'node:child_process'
import { announce, root } from './command.ts'

const found: string[] = []
const unasked: string[] = []

function output(command: string, args: string[]): { status: number; stdout: string; stderr: string } {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 })
  if (result.error) return { status: 127, stdout: '', stderr: result.error.message }
  return { status: result.status ?? 1, stdout: result.stdout, stderr: result.stderr }
}

/** What npm prints: a report, or the registry's refusal, which it calls by the same name. */
interface NpmAudit {
  auditReportVersion?: number
  vulnerabilities?: Record<string, { severity: string; via: Array<string | { title: string; url: string }> }>
  statusCode?: number
  message?: string
}

function askNpm(): void {
  announce('npm audit')
  const { stdout, stderr } = output('npm', ['audit', '--json'])
  let audit: NpmAudit
  try {
    audit = JSON.parse(stdout)
  } catch {
    audit = { message: stderr.trim() || 'npm printed no report' }
  }
  if (audit.auditReportVersion === undefined || audit.vulnerabilities === undefined) {
    const why =
      audit.statusCode === undefined
        ? audit.message
        : `the registry in use answers with status ${audit.statusCode}`
    unasked.push(`npm's advisories: ${why}`)
    return
  }
  for (const [name, { severity, via }] of Object.entries(audit.vulnerabilities)) {
    const what = via.map((one) => (typeof one === 'string' ? `through ${one}` : `${one.title} ${one.url}`))
    found.push(`npm: ${name} (${severity}): ${what.join('; ')}`)
  }
}

function askCargo(): void {
  if (output('cargo', ['deny', '--version']).status !== 0) {
    unasked.push('licences, sources and advisories of crates: `cargo install --locked cargo-deny` first')
    return
  }
  for (const checks of [['licenses', 'bans', 'sources'], ['advisories']]) {
    const args = ['deny', '--all-features', 'check', ...checks]
    announce(['cargo', ...args].join(' '))
    const { status, stdout, stderr } = output('cargo', args)
    process.stdout.write(stdout)
    if (status !== 0 && /failed to fetch advisory database/.test(stderr)) {
      unasked.push('advisories and withdrawn releases of crates: the database of RustSec can not be fetched')
      continue
    }
    process.stderr.write(stderr)
    if (status !== 0) found.push(`cargo deny check ${checks.join(' ')} failed`)
  }
}

askNpm()
askCargo()
for (const line of found) console.log(`found: ${line}`)
for (const line of unasked) console.log(`not asked: ${line}`)
if (found.length === 0 && unasked.length === 0) announce('all was asked, and nothing is found')
process.exit(found.length > 0 ? 1 : unasked.length > 0 ? 2 : 0)
