/**
 * What flows between the two sides of a pair, for whoever draws it: counts, of which two looks make a rate. Ours, not
 * QEMU's (as query-colo-compare). Cheap enough to be asked several times a second: nothing is described.
 */
import { isReplication } from '../../block/drivers/replication.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import { command, noArguments } from '../registry.ts';

export const trafficCommands = [
  command('query-colo-traffic', noArguments, (vm) => {
    const channel = vm.migration.channelTraffic;
    return {
      filters: filtersOf(vm),
      replication: replicationOf(vm),
      ...(channel && { channel: { 'bytes-sent': channel.sent, 'bytes-received': channel.received } }),
    };
  }),
];

function filtersOf(vm: VirtualMachine): unknown[] {
  return [...vm.netdevs.values()].flatMap((netdev) =>
    netdev.filters.flatMap(({ id, typeName, traffic }) =>
      traffic === undefined
        ? []
        : [
            {
              id,
              'qom-type': typeName,
              netdev: netdev.id,
              'frames-out': traffic.framesOut,
              'bytes-out': traffic.bytesOut,
              'frames-lost': traffic.framesLost,
              'frames-in': traffic.framesIn,
              'bytes-in': traffic.bytesIn,
            },
          ],
    ),
  );
}

/** A secondary forwards nothing. */
function replicationOf(vm: VirtualMachine): unknown[] {
  return vm.graph.list().nodes.flatMap(({ nodeName, driver }) => {
    if (!isReplication(driver) || driver.mode !== 'primary') return [];
    const { writes, bytes, inFlight, waiting } = driver.traffic;
    return [{ 'node-name': nodeName, writes, bytes, 'in-flight': inFlight, waiting }];
  });
}
