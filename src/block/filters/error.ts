/** The fault injection of tests, by object: blkdebug (blkdebug.ts) under the name that says what they want of it. */
export { Blkdebug as ErrorFilter } from './blkdebug.ts';
export type { FaultRule } from './blkdebug.ts';
