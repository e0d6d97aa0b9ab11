// What this host allows.
import { release } from 'node:os'
import type { FeatureSupport, HostFeature, HostSupport } from '../index.js'
import { native } from './native.ts'

export async function probe(): Promise<HostSupport> {
  const found = await native.probe()
  const features = Object.fromEntries(
    found.map(({ name, reason, hint }): [string, FeatureSupport] => [
      name,
      {
        available: reason === undefined,
        ...(reason !== undefined && { reason }),
        ...(hint !== undefined && { hint }),
      },
    ]),
  ) as Record<HostFeature, FeatureSupport>
  return { kernel: release(), features }
}
