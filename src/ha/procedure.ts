/**
 * QEMU's COLO-FT procedure (docs/COLO-FT.txt, its continuous-replication form) as QMP lines, for any number of disks and
 * NICs: what a person would type. Nothing here decides anything; callers know which side died. Names are names.ts's,
 * the copies of the disks resync.ts's.
 *
 * Whoever was interrupted in `failoverPrimary` or `failoverSecondary` calls it again: each asks what there is before it
 * takes it away.
 */
import { ColoError, TimeoutError, messageOf } from '../base/errors.ts';
import { migrationUri, requireLinks } from './command-line.ts';
import { TLS_CLIENT, TLS_SERVER, diskNames, nicNames } from './names.ts';
import type { NicNames } from './names.ts';
import type { PairLinks } from './pair-links.ts';
import {
  chardevs,
  coloStatus,
  exportIds,
  migrationStatus,
  nodeNames,
  objectIds,
  parameterNames,
  runState,
} from './qmp-queries.ts';
import type { Qmp } from './qmp-queries.ts';
import { awaitResync, cutMirrors, forgetResync, resyncProgress, startResync } from './resync.ts';
import type { VmSpec } from './spec/vm-spec.ts';

export { awaitResync, cutMirrors, forgetResync, resyncProgress, startResync };
export type { Qmp };
export type { ResyncProgress } from './resync.ts';

/** What the steps need to know of a VM. */
export type PairSpec = Pick<VmSpec, 'disks' | 'nics' | 'checkpoint' | 'heartbeat' | 'resync'>;

/** An outgoing migration that was told to end. */
const CANCEL_MS = 10_000;
const LOOK_MS = 10;

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

/** Primary: its ends of the packet sockets. Those of an earlier pair are closed; one that is in use is an error. */
export async function addPrimaryChardevs(qmp: Qmp, spec: PairSpec, links: PairLinks): Promise<void> {
  requireLinks(spec, links);
  await removePrimaryChardevs(qmp, spec);
  await addCredentials(qmp, links);
  for (const [at, nic] of links.nics.entries()) {
    const names = nicNames(at);
    const tls = links.tlsFolder === undefined ? {} : { 'tls-creds': TLS_SERVER };
    await addSocket(qmp, names.mirrorChardev, links.primaryHost, nic.mirrorPort, true, tls);
    await addSocket(qmp, names.secondaryIn, links.primaryHost, nic.comparePort, true, tls);
    await addLoop(qmp, names.toComparer, names.primaryIn);
    await addLoop(qmp, names.fromComparer, names.compareOut);
  }
}

/** Primary: closes what addPrimaryChardevs has opened. Throws ColoError while a pair uses it. */
export async function removePrimaryChardevs(qmp: Qmp, spec: PairSpec): Promise<void> {
  const present = await chardevs(qmp);
  for (const id of [...spec.nics.keys()].flatMap((at) => primaryChardevs(nicNames(at)))) {
    const found = present.get(id);
    if (!found) continue;
    if (found.isUsed) throw new ColoError(`Chardev '${id}' is in use by a pair; end that first`);
    await qmp.execute('chardev-remove', { id });
  }
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

/** The primary's filters and comparers. On a former secondary they go before its rewriters. */
export async function addPacketPath(qmp: Qmp, spec: PairSpec): Promise<void> {
  const present = await objectIds(qmp);
  const add = (type: string, id: string, args: Record<string, unknown>): Promise<unknown> =>
    qmp.execute('object-add', { 'qom-type': type, id, ...args });
  for (const at of spec.nics.keys()) {
    const names = nicNames(at);
    const place = {
      ...(present.has(names.rewriter) ? { insert: 'before', position: `id=${names.rewriter}` } : {}),
      netdev: names.netdev,
    };
    await add('filter-mirror', names.mirror, { ...place, queue: 'tx', outdev: names.mirrorChardev });
    await add('filter-redirector', names.fromComparerFilter, {
      ...place,
      queue: 'rx',
      indev: names.fromComparer,
    });
    await add('filter-redirector', names.toComparerFilter, {
      ...place,
      queue: 'rx',
      outdev: names.toComparer,
    });
    await add('iothread', names.iothread, {});
    await add('colo-compare', names.comparer, {
      primary_in: names.primaryIn,
      secondary_in: names.secondaryIn,
      outdev: names.compareOut,
      iothread: names.iothread,
    });
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

/**
 * Primary, there is no secondary any more, or there shall be none: go on alone. Also for a pair that was never whole.
 * First the writes that wait for the other host, then what the guest has said: it is heard when the second line has
 * been answered. A guest that stands because it was stopped for the end of a resync runs again.
 */
export async function failoverPrimary(qmp: Qmp, spec: PairSpec): Promise<void> {
  await Promise.all([...spec.disks.keys()].map((at) => detach(qmp, diskNames(at).disk)));
  const wasPair = await leaveColo(qmp);
  await removeObjects(
    qmp,
    [...spec.nics.keys()].map(nicNames).flatMap((names) => [
      // The comparer first: what it holds goes out while the filter behind it is there.
      ...[names.comparer, names.iothread, names.mirror],
      ...[names.fromComparerFilter, names.toComparerFilter],
    ]),
  );
  await forgetResync(qmp, spec);
  const nodes = await nodeNames(qmp);
  for (const at of spec.disks.keys()) {
    const { replication } = diskNames(at);
    if (nodes.has(replication)) await hmp(qmp, `drive_del ${replication}`);
  }
  if (!wasPair && (await runState(qmp)) === 'paused') await qmp.execute('cont');
}

/**
 * Secondary, the primary is no more: take over. The guest is heard when the second line has been answered. Throws
 * ColoError when this is no copy of a running guest.
 */
export async function failoverSecondary(qmp: Qmp, spec: PairSpec): Promise<void> {
  const [{ mode, lastMode }, exported] = await Promise.all([coloStatus(qmp), exportIds(qmp)]);
  if (mode !== 'secondary' && lastMode !== 'secondary')
    throw new ColoError('This process has no state of the guest: it cannot take over');
  // What a half-dead primary still sends must not reach the disks.
  if (exported.size > 0) await qmp.execute('nbd-server-stop');
  if (mode === 'secondary') await qmp.execute('x-colo-lost-heartbeat');
  const names = [...spec.nics.keys()].map(nicNames);
  await removeObjects(
    qmp,
    names.flatMap(({ toCompareFilter, fromMirrorFilter }) => [toCompareFilter, fromMirrorFilter]),
  );
  const present = await chardevs(qmp);
  for (const id of names.flatMap(({ toCompare, fromMirror }) => [toCompare, fromMirror])) {
    if (present.has(id)) await qmp.execute('chardev-remove', { id });
  }
}

/** Takes the forwarding node out of a disk, if it is in it. */
async function detach(qmp: Qmp, disk: string): Promise<void> {
  try {
    await qmp.execute('x-blockdev-change', { parent: disk, child: 'children.1' });
  } catch (error) {
    // To ask first would cost time, and no command tells a quorum's children.
    if (!/does not have child/.test(messageOf(error))) throw error;
  }
}

/** Ends COLO, or the way into it. Returns whether there was a pair. */
async function leaveColo(qmp: Qmp): Promise<boolean> {
  const deadline = performance.now() + CANCEL_MS;
  for (;;) {
    const { mode } = await coloStatus(qmp);
    if (mode === 'secondary')
      throw new ColoError('This process is a secondary: it has nothing to go on with');
    if (mode === 'primary') {
      await qmp.execute('x-colo-lost-heartbeat');
      return true;
    }
    const status = await migrationStatus(qmp);
    if (!['setup', 'active', 'cancelling'].includes(status)) return false;
    if (performance.now() > deadline) throw new TimeoutError('The migration to the other host does not end');
    await qmp.execute('migrate_cancel');
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

async function removeObjects(qmp: Qmp, ids: readonly string[]): Promise<void> {
  const present = await objectIds(qmp);
  for (const id of ids) if (present.has(id)) await qmp.execute('object-del', { id });
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

/** A first primary was started before there was a pair. */
async function addCredentials(qmp: Qmp, { tlsFolder }: PairLinks): Promise<void> {
  if (tlsFolder === undefined) return;
  const present = await objectIds(qmp);
  for (const [id, endpoint] of [
    [TLS_SERVER, 'server'],
    [TLS_CLIENT, 'client'],
  ] as const) {
    if (present.has(id)) continue;
    await qmp.execute('object-add', { 'qom-type': 'tls-creds-x509', id, dir: tlsFolder, endpoint });
  }
}

function primaryChardevs(names: NicNames): string[] {
  // Clients before their servers.
  return [
    ...[names.primaryIn, names.toComparer, names.compareOut, names.fromComparer],
    ...[names.secondaryIn, names.mirrorChardev],
  ];
}

/** Two chardevs of one process, joined on its own host; the kernel chooses the port. */
async function addLoop(qmp: Qmp, server: string, client: string): Promise<void> {
  await addSocket(qmp, server, LOOP_HOST, 0, true);
  const filename = (await chardevs(qmp)).get(server)?.filename ?? '';
  const port = /:(\d+)(?:,|$)/.exec(filename)?.[1];
  if (port === undefined || port === '0')
    throw new ColoError(`Chardev '${server}' does not tell its port: '${filename}'`);
  await addSocket(qmp, client, LOOP_HOST, Number(port), false);
}

const LOOP_HOST = '127.0.0.1';

async function addSocket(
  qmp: Qmp,
  id: string,
  host: string,
  port: number,
  server: boolean,
  tls: Record<string, string> = {},
): Promise<void> {
  await qmp.execute('chardev-add', {
    id,
    backend: { type: 'socket', data: { addr: inet(host, port), server, ...tls } },
  });
}

function inet(host: string, port: number): Record<string, unknown> {
  return { type: 'inet', data: { host, port: String(port) } };
}

/** Throws with the monitor's text when it says anything. */
async function hmp(qmp: Qmp, line: string): Promise<void> {
  const said = await qmp.execute('human-monitor-command', { 'command-line': line });
  if (typeof said === 'string' && said.trim() !== '') throw new ColoError(said.trim());
}
