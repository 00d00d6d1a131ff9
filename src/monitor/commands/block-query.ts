/** Commands that tell what block nodes and devices there are (QEMU qapi/block-core.json). */
import { z } from 'zod';
import type { BlockBackend } from '../../block/graph.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import type { GuestDisk } from '../../vm/disks.ts';
import { command, noArguments } from '../registry.ts';
import { BlockDescriber } from './block-info.ts';
import { withEngineDevices, withEngineStats } from './engine-devices.ts';

export const blockQueryCommands = [
  command('query-block', noArguments, async (vm) => {
    const describer = new BlockDescriber();
    const devices = [];
    for (const backend of vm.graph.list().backends) {
      const disk = diskOf(vm, backend);
      devices.push({ name: disk?.id ?? null, reply: await describer.device(backend, disk) });
    }
    return withEngineDevices(vm.engine?.monitor ?? null, devices);
  }),
  command(
    'query-named-block-nodes',
    z.strictObject({ flat: z.boolean().optional() }),
    async (vm, { flat }) => {
      const describer = new BlockDescriber(flat);
      const nodes = [];
      // The newest first, as QEMU has them.
      for (const node of vm.graph.list().nodes.reverse()) nodes.push(await describer.node(node));
      return nodes;
    },
  ),
  command('query-blockstats', z.strictObject({ 'query-nodes': z.boolean().optional() }), async (vm, args) => {
    const describer = new BlockDescriber();
    const { backends, nodes } = vm.graph.list();
    if (args['query-nodes'] === true) return nodes.map((node) => describer.nodeStats(node, false));
    const stats = backends.map((backend) => {
      const disk = diskOf(vm, backend);
      return { name: disk?.id ?? null, reply: describer.deviceStats(backend, disk) };
    });
    return withEngineStats(vm.engine?.monitor ?? null, stats);
  }),
];

function diskOf(vm: VirtualMachine, backend: BlockBackend): GuestDisk | null {
  return vm.disks.guestDisks.find((disk) => disk.backend === backend) ?? null;
}
