/** Block nodes and devices (QEMU qapi/block-core.json), and replication as foreign managers drive it. */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';
import { nestOptions } from '../../block/options.ts';
import { flatten } from '../../vm/command-line/keyval.ts';
import { resizeNode } from '../../vm/resize.ts';
import { checkBlockdev } from './blockdev-schema.ts';
import { command, int64, noArguments } from '../registry.ts';

/** What is in it depends on the driver: blockdev-schema.ts. */
const blockdevOptions = z.looseObject({});

export const blockCommands = [
  command(
    'x-blockdev-change',
    z.strictObject({ parent: z.string(), child: z.string().optional(), node: z.string().optional() }),
    async (vm, { parent, child, node }) => {
      vm.graph.require(parent);
      if (child !== undefined && node !== undefined) {
        throw new ParameterError('The parameters child and node are in conflict');
      }
      if (child !== undefined) await vm.disks.changeQuorum(parent, { child });
      else if (node !== undefined) await vm.disks.changeQuorum(parent, { node });
      else throw new ParameterError('Either child or node must be specified');
    },
  ),
  command('blockdev-add', blockdevOptions, async (vm, args) => {
    checkBlockdev(args);
    if (args['node-name'] === undefined) {
      throw new ParameterError("'node-name' must be specified for the root node");
    }
    const flat = Object.create(null) as Record<string, string>;
    flatten(args, '', flat);
    await vm.graph.addNode(nestOptions(flat));
  }),
  command(
    'block_resize',
    z.strictObject({ device: z.string().optional(), 'node-name': z.string().optional(), size: int64 }),
    (vm, args) =>
      resizeNode(vm.graph, (id) => vm.disks.isPlugged(id), {
        device: args.device,
        nodeName: args['node-name'],
        sizeBytes: args.size,
      }),
  ),
  command('blockdev-del', z.strictObject({ 'node-name': z.string() }), (vm, args) =>
    vm.disks.removeNode(args['node-name']),
  ),
  command(
    'xen-set-replication',
    z.strictObject({ enable: z.boolean(), primary: z.boolean(), failover: z.boolean().optional() }),
    async (vm, { enable, primary, failover }) => {
      if (enable && failover !== undefined) {
        throw new ParameterError("Parameter 'failover' is only for stopping replication");
      }
      const role = primary ? 'primary' : 'secondary';
      // As in QEMU the nodes are asked newest first, the first error ends it, and a stop does not look at the role.
      for (const disk of vm.disks.replications()) {
        if (enable) await disk.start(role);
        // QEMU swallows the errors of a stop with failover: the survivor has nobody else to ask.
        else if (failover === true) await disk.stopReplication(true).catch(() => undefined);
        else await disk.stopReplication(false);
      }
    },
  ),
  // Ours: the first half of a failover, for whoever has to write down that it comes before the guest is heard.
  command('x-colo-prepare-failover', noArguments, async (vm) => {
    await Promise.all(vm.disks.replications().map((disk) => disk.settle()));
  }),
  command('query-xen-replication-status', noArguments, (vm) => {
    for (const disk of vm.disks.replications()) {
      const failed = disk.getError();
      if (failed) return { error: true, desc: failed.message };
    }
    return { error: false };
  }),
  command('xen-colo-do-checkpoint', noArguments, async (vm) => {
    for (const disk of vm.disks.replications()) await disk.doCheckpoint();
    for (const netdev of vm.netdevs.values()) netdev.notify('checkpoint');
  }),
];
