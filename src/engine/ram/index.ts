/**
 * The RAM of a guest that runs in another process: shared anonymous memory, and its capture and load by comparison with
 * the last state, on several threads. Knows no engine; ram-codec.ts, the encoding of a RAM snapshot, serves all of them.
 */
export { RamFile, WINDOW_BYTES } from './ram-file.ts';
export { RamSnapshots } from './ram-snapshots.ts';
export type { RamCapture, RamCaptureOptions } from './ram-snapshots.ts';
export type { RamChanges } from './ram-codec.ts';
export { SoftDirtyTracker, whyNoSoftDirty } from './soft-dirty.ts';
export type { WriteTracker } from './soft-dirty.ts';
