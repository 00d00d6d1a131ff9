/**
 * The flat options of a `-drive` as a tree. `file=NAME` names an image and may stand beside `file.KEY=VALUE` options of
 * the node that opens it, which a node's options may not (QEMU: blockdev.c, drive_new; block.c, bdrv_open).
 */
import { mergeDefaults } from './generic-options.ts';
import { nestOptions } from './options.ts';
import type { OptionTree } from './options.ts';
import { parseFilename } from './probe.ts';

/** Throws ParameterError when a key is both a value and a tree otherwise. */
export function nestDriveOptions(flat: Readonly<Record<string, string>>): OptionTree {
  const { file: name, ...others } = flat;
  const tree = nestOptions(others);
  const below = tree['file'];
  if (name === undefined) return tree;
  if (typeof below !== 'object') return { ...tree, file: name };
  const named = parseFilename(name);
  // json: names the whole tree.
  return name.startsWith('json:')
    ? mergeDefaults(tree, named)
    : { ...tree, file: mergeDefaults(below, named) };
}
