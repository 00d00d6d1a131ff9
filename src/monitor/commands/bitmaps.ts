/** Dirty bitmaps (QEMU qapi/block-core.json, block-dirty-bitmap-*; texts asked of QEMU 7.2). */
import { z } from 'zod';
import { ColoError } from '../../base/errors.ts';
import type { DirtyBitmap } from '../../block/dirty-bitmap.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import { command, uint32 } from '../registry.ts';

const one = z.strictObject({ node: z.string(), name: z.string() });

function find(vm: VirtualMachine, { node, name }: { node: string; name: string }): DirtyBitmap {
  return vm.graph.require(node).dirtyBitmaps.require(name);
}

export const bitmapCommands = [
  command(
    'block-dirty-bitmap-add',
    z.strictObject({
      node: z.string(),
      name: z.string(),
      granularity: uint32.optional(),
      persistent: z.boolean().optional(),
      disabled: z.boolean().optional(),
    }),
    (vm, { node: nodeName, name, granularity, persistent, disabled }) => {
      const node = vm.graph.require(nodeName);
      if (persistent === true && name !== '') {
        throw new ColoError(`Can't store persistent bitmaps to ${nodeName}: Operation not supported`);
      }
      node.dirtyBitmaps.add(name, node.lengthBytes, {
        ...(granularity === undefined ? {} : { granularityBytes: granularity }),
        ...(disabled === undefined ? {} : { disabled }),
      });
    },
  ),
  command('block-dirty-bitmap-remove', one, (vm, args) => {
    vm.graph.require(args.node).dirtyBitmaps.remove(args.name);
  }),
  command('block-dirty-bitmap-clear', one, (vm, args) => find(vm, args).clear()),
  command('block-dirty-bitmap-enable', one, (vm, args) => find(vm, args).setRecording(true)),
  command('block-dirty-bitmap-disable', one, (vm, args) => find(vm, args).setRecording(false)),
  command(
    'block-dirty-bitmap-merge',
    z.strictObject({ node: z.string(), target: z.string(), bitmaps: z.array(z.union([z.string(), one])) }),
    (vm, { node, target, bitmaps }) => {
      const into = find(vm, { node, name: target });
      const sources = bitmaps.map((source) =>
        find(vm, typeof source === 'string' ? { node, name: source } : source),
      );
      // All or nothing.
      into.requireIdle();
      for (const source of sources) into.requireMergeable(source);
      for (const source of sources) into.merge(source);
    },
  ),
];
