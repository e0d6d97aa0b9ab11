// Reads the little of an ELF file that tells a static executable from a dynamic one.
import { readFileSync } from 'node:fs'

const PT_INTERP = 3

/** Whether a file is a 64-bit little-endian ELF executable that no dynamic loader has to load. */
export function isStaticExecutable(path: string): boolean {
  const image = readFileSync(path)
  const isElf64 =
    image.length >= 64 && image.readUInt32BE(0) === 0x7f454c46 && image[4] === 2 && image[5] === 1
  if (!isElf64) return false
  const tableOffset = Number(image.readBigUInt64LE(32))
  const entrySize = image.readUInt16LE(54)
  const entryCount = image.readUInt16LE(56)
  for (let entry = 0; entry < entryCount; entry += 1) {
    if (image.readUInt32LE(tableOffset + entry * entrySize) === PT_INTERP) return false
  }
  return true
}
