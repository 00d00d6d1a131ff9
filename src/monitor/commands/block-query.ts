/** Commands that tell what block nodes and devices there are (QEMU qapi/block-core.json). */
import { z } from 'zod';
import type { VirtualMachine } from '../../vm/machine.ts';
import type { GuestDisk } from '../../vm/disks.ts';
import { command, noArguments } from '../registry.ts';
import { BlockDescriber } from './block-info.ts';

export const blockQueryCommands = [
  command('query-block', noArguments, async (vm) => {
    const describer = new BlockDescriber();
    const devices = [];
    for (const backend of vm.graph.list().backends) {
      devices.push(await describer.device(backend, diskOf(vm, backend.id)));
    }
    return devices;
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
  command('query-blockstats', z.strictObject({ 'query-nodes': z.boolean().optional() }), (vm, args) => {
    const describer = new BlockDescriber();
    const { backends, nodes } = vm.graph.list();
    if (args['query-nodes'] === true) return nodes.map((node) => describer.nodeStats(node, false));
    return backends.map((backend) => describer.deviceStats(backend, diskOf(vm, backend.id)));
  }),
];

function diskOf(vm: VirtualMachine, id: string): GuestDisk | null {
  return vm.disks.guestDisks.find((disk) => disk.id === id) ?? null;
}
