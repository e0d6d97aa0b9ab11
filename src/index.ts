// What the package exports. The types that users see are in index.d.ts; here they are held against the classes.
import type * as api from '../index.js'
import { RootfsError as RootfsErrorClass } from './errors.ts'
import { openInRoot as openInRootFunction } from './open.ts'
import { probe as probeFunction } from './probe.ts'
import { Rootfs as RootfsClass } from './rootfs.ts'

export const Rootfs = RootfsClass as unknown as typeof api.Rootfs
export const RootfsError: typeof api.RootfsError = RootfsErrorClass as unknown as typeof api.RootfsError
export const probe: typeof api.probe = probeFunction
export const openInRoot: typeof api.openInRoot = openInRootFunction
