// What the package exports. The types that users see are in index.d.ts; here they are held against the classes.
import type * as api from '../index.js'
import { RootfsError as RootfsErrorClass } from './errors.ts'
import { Rootfs as RootfsClass } from './rootfs.ts'

export const Rootfs = RootfsClass as unknown as typeof api.Rootfs
export const RootfsError: typeof api.RootfsError = RootfsErrorClass as unknown as typeof api.RootfsError
