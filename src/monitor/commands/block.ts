/** Block nodes and devices (QEMU qapi/block-core.json), and replication as foreign managers drive it. */
import { z } from 'zod';
import { ColoError, ParameterError } from '../../base/errors.ts';
import { blockDrivers } from '../../block/drivers/index.ts';
import { nestOptions } from '../../block/options.ts';
import { flatten } from '../../vm/command-line/keyval.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import { command, noArguments } from '../registry.ts';

/** What every block node has; the drivers check the rest. */
const blockdevOptions = z.looseObject({ driver: z.string(), 'node-name': z.string().optional() });

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
    checkBlockdev(args, '');
    const flat = Object.create(null) as Record<string, string>;
    flatten(args, '', flat);
    await vm.graph.addNode(nestOptions(flat));
  }),
  command('blockdev-del', z.strictObject({ 'node-name': z.string() }), (vm, args) =>
    vm.disks.removeNode(args['node-name']),
  ),
  command('query-block', noArguments, (vm) =>
    vm.graph.list().backends.map(({ id, root }) => ({
      device: id,
      locked: false,
      removable: false,
      type: 'unknown',
      inserted: describeNode(root.nodeName, vm),
    })),
  ),
  command('query-named-block-nodes', z.strictObject({ flat: z.boolean().optional() }), (vm) =>
    vm.graph.list().nodes.map((node) => describeNode(node.nodeName, vm)),
  ),
  command('query-blockstats', z.strictObject({ 'query-nodes': z.boolean().optional() }), (vm) =>
    vm.disks.guestDisks.map((disk) => ({
      device: disk.id,
      'node-name': disk.backend.root.nodeName,
      stats: {
        rd_bytes: disk.stats.readBytes,
        rd_operations: disk.stats.readRequests,
        wr_bytes: disk.stats.writtenBytes,
        wr_operations: disk.stats.writeRequests,
        flush_operations: disk.stats.flushRequests,
        failed_operations: disk.stats.failed,
      },
    })),
  ),
  command(
    'xen-set-replication',
    z.strictObject({ enable: z.boolean(), primary: z.boolean(), failover: z.boolean().optional() }),
    async (vm, { enable, primary, failover }) => {
      if (enable && failover !== undefined) {
        throw new ParameterError("Parameter 'failover' is only for stopping replication");
      }
      const role = primary ? 'primary' : 'secondary';
      for (const disk of vm.disks.participants()) {
        if (enable) await disk.start(role);
        // QEMU swallows the errors of a stop with failover: the survivor has nobody else to ask.
        else if (failover === true) await disk.stop(role, true).catch(() => undefined);
        else await disk.stop(role, false);
      }
    },
  ),
  command('query-xen-replication-status', noArguments, (vm) => {
    for (const disk of vm.disks.participants()) {
      const failed = disk.error();
      if (failed) return { error: true, desc: failed.message };
    }
    return { error: false };
  }),
  command('xen-colo-do-checkpoint', noArguments, async (vm) => {
    for (const disk of vm.disks.participants()) await disk.commit('secondary');
    for (const netdev of vm.netdevs.values()) netdev.notify('checkpoint');
  }),
];

/**
 * What QEMU's schema demands before any driver is asked, where a driver would say it in other words (the command line's).
 * `where` is the path of this node in the arguments. Throws ParameterError.
 */
function checkBlockdev(options: Record<string, unknown>, where: string): void {
  const { driver } = options;
  if (where === '' && options['node-name'] === undefined) {
    throw new ParameterError("'node-name' must be specified for the root node");
  }
  if (typeof driver === 'string' && !blockDrivers.has(driver)) {
    throw new ParameterError(`Parameter 'driver' does not accept value '${driver}'`);
  }
  if (driver === 'quorum') {
    for (const key of ['children', 'vote-threshold']) {
      if (options[key] === undefined) throw new ParameterError(`Parameter '${where}${key}' is missing`);
    }
    if (!Number.isInteger(options['vote-threshold'])) {
      throw new ParameterError(`Invalid parameter type for '${where}vote-threshold', expected: integer`);
    }
    const pattern = options['read-pattern'];
    if (typeof pattern === 'string' && pattern !== 'fifo' && pattern !== 'quorum') {
      throw new ParameterError(`Parameter 'read-pattern' does not accept value '${pattern}'`);
    }
  }
  for (const [key, below] of Object.entries(options)) {
    if (typeof below === 'object' && below !== null)
      checkBlockdev(below as Record<string, unknown>, `${where}${key}.`);
  }
}

function describeNode(name: string, vm: VirtualMachine): Record<string, unknown> {
  const node = vm.graph.findNode(name);
  if (!node) throw new ColoError(`Node '${name}' not found`);
  const bitmaps = node.dirtyBitmaps.info();
  return {
    'node-name': name,
    drv: node.driver.driverName,
    ro: node.readOnly,
    image: { 'virtual-size': node.lengthBytes, format: node.driver.driverName },
    ...(bitmaps === undefined ? {} : { 'dirty-bitmaps': bitmaps }),
    children: [...node.driver.children()].map(([child, below]) => ({ child, 'node-name': below.nodeName })),
  };
}
