/** The embedded engine's public boundary. */
export { V86Engine } from './engine.ts';
export type { NicModel, V86NicOptions, V86Options } from './options.ts';
