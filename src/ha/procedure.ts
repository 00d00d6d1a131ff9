/**
 * QEMU's COLO-FT procedure (docs/COLO-FT.txt, its continuous-replication form) as QMP lines, for any number of disks and
 * NICs: what a person would type. Nothing here decides anything; callers know which side died. How a pair becomes one is
 * here, the rest beside it: names.ts, packet-path.ts, resync.ts for the copies of the disks, failover.ts for a pair's end.
 */
import { ColoError, messageOf } from '../base/errors.ts';
import { migrationUri } from './command-line.ts';
import { failoverPrimary, failoverSecondary } from './failover.ts';
import { TLS_CLIENT, TLS_SERVER, diskNames } from './names.ts';
import {
  addPacketPath,
  addPrimaryChardevs,
  inet,
  removePrimaryChardevs,
  secondaryConnected,
} from './packet-path.ts';
import type { PairLinks } from './pair-links.ts';
import { exportIds, hmp, migrationStatus, parameterNames } from './qmp-queries.ts';
import type { Qmp } from './qmp-queries.ts';
import { awaitResync, cutMirrors, forgetResync, resyncProgress, startResync } from './resync.ts';
import type { VmSpec } from './spec/vm-spec.ts';

export { awaitResync, cutMirrors, forgetResync, resyncProgress, startResync };
export { addPacketPath, addPrimaryChardevs, failoverPrimary, failoverSecondary, removePrimaryChardevs };
export type { Qmp };
export type { ResyncProgress } from './resync.ts';

/** What the steps need to know of a VM. */
export type PairSpec = Pick<VmSpec, 'disks' | 'nics' | 'checkpoint' | 'heartbeat' | 'resync'>;

/** Secondary: export its disks to the primary, and be ready for the guest's state. */
export async function exportSecondaryDisks(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  const exported = await exportIds(qmp);
  const wanted = [...spec.disks.keys()].map((at) => diskNames(at).parent);
  if (!wanted.some((name) => exported.has(name))) {
    await qmp
      .execute('nbd-server-start', {
        addr: inet(links.secondaryHost, links.nbdPort),
        ...(links.tlsFolder === undefined ? {} : { 'tls-creds': TLS_SERVER }),
      })
      .catch((error: unknown) => {
        // No command tells whether it runs without exports.
        if (!/already running/.test(messageOf(error))) throw error;
      });
  }
  for (const device of wanted) {
    if (!exported.has(device)) await qmp.execute('nbd-server-add', { device, writable: true });
  }
  await setParameters(qmp, spec, links, TLS_SERVER);
  if (links.tlsFolder !== undefined && (await migrationStatus(qmp)) === '')
    await qmp.execute('migrate-incoming', { uri: migrationUri(links) });
}

/** Primary: forward writes to the secondary's disks. Throws with the monitor's text when a node cannot be added. */
export async function attachReplication(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  await addReplicationNodes(qmp, spec, links);
  await attachReplicationNodes(qmp, spec);
}

async function addReplicationNodes(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  const tls = links.tlsFolder === undefined ? '' : `,file.tls-creds=${TLS_CLIENT}`;
  for (const at of spec.disks.keys()) {
    const { parent, replication } = diskNames(at);
    await hmp(
      qmp,
      `drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=${links.secondaryHost},` +
        `file.port=${links.nbdPort},file.export=${parent},node-name=${replication}${tls}`,
    );
  }
}

async function attachReplicationNodes(qmp: Qmp, spec: PairSpec): Promise<void> {
  for (const at of spec.disks.keys()) {
    const { disk, replication } = diskNames(at);
    await qmp.execute('x-blockdev-change', { parent: disk, node: replication });
  }
}

/** Primary: enter COLO. */
export async function startColo(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  await setParameters(qmp, spec, links, TLS_CLIENT);
  await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'x-colo', state: true }] });
  await qmp.execute('migrate', { uri: migrationUri(links) });
}

/**
 * Primary, when every copy is ready: stop, cut the copies, attach replication and the packet path, enter COLO. Entering
 * it lets both guests run; what comes of it shows in query-migrate. When a step fails the guest goes on alone.
 */
export async function resumeReplication(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  const { isReady, error } = await resyncProgress(qmp, spec);
  if (!isReady) throw new ColoError(error ?? 'The copies of the disks are not ready');
  try {
    await secondaryConnected(qmp, spec);
    // What takes a while and changes nothing yet comes before the guest stands.
    await addReplicationNodes(qmp, spec, links);
    await qmp.execute('stop');
    await cutMirrors(qmp, spec);
    await attachReplicationNodes(qmp, spec);
    await addPacketPath(qmp, spec);
    await startColo(qmp, spec, links);
  } catch (cause) {
    await failoverPrimary(qmp, spec);
    throw cause;
  }
}

/** Those that this process knows: a neighbour's version may lack one. */
async function setParameters(qmp: Qmp, spec: PairSpec, links: PairLinks, credentials: string): Promise<void> {
  const known = await parameterNames(qmp);
  const isSecure = links.tlsFolder !== undefined;
  if (isSecure && !known.has('tls-creds'))
    throw new ColoError('This process cannot secure the checkpoint channel: it is too old for TLS');
  const wanted: Record<string, unknown> = {
    'x-checkpoint-delay': spec.checkpoint.maxDelayMs,
    'x-colo-heartbeat-interval': spec.heartbeat.intervalMs,
    'x-colo-heartbeat-patience': spec.heartbeat.patienceMs,
    'tls-creds': isSecure ? credentials : '',
  };
  const given = Object.fromEntries(Object.entries(wanted).filter(([name]) => known.has(name)));
  await qmp.execute('migrate-set-parameters', given);
}
