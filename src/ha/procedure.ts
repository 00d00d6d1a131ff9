/**
 * QEMU's COLO-FT procedure (docs/COLO-FT.txt, its continuous-replication form) as QMP lines: what a person would type,
 * in the order of the document. Nothing here decides anything; callers know which side died.
 *
 * Names are the document's: disk colo-disk0 (a quorum), secondary disk parent0, netdev hn0, filters m0, redire0,
 * redire1, comparer comp0, rewriter rew0.
 */

/** What is needed of a QMP connection. */
export interface Qmp {
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
}

/** Where the pair's sockets are. Ports as in the document: 9003, 9004, 9001, 9005, 9999, 9998. */
export interface PairAddresses {
  readonly primaryHost: string;
  readonly secondaryHost: string;
  readonly mirrorPort: number;
  readonly compareSecondaryPort: number;
  readonly comparePrimaryPort: number;
  readonly compareOutPort: number;
  readonly nbdPort: number;
  readonly migrationPort: number;
}

export const DISK = 'colo-disk0';
export const RESYNC_JOB = 'resync';

/** Secondary: export the disk to be replicated. */
export async function exportSecondaryDisk(qmp: Qmp, at: PairAddresses): Promise<void> {
  await qmp.execute('nbd-server-start', {
    addr: { type: 'inet', data: { host: at.secondaryHost, port: String(at.nbdPort) } },
  });
  await qmp.execute('nbd-server-add', { device: 'parent0', writable: true });
}

/** Primary: forward writes to the secondary's disk. Throws with the monitor's text when the node cannot be added. */
export async function attachReplication(qmp: Qmp, at: PairAddresses): Promise<void> {
  const said = await qmp.execute('human-monitor-command', {
    'command-line':
      `drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=${at.secondaryHost},` +
      `file.port=${at.nbdPort},file.export=parent0,node-name=replication0`,
  });
  if (typeof said === 'string' && said.trim() !== '') throw new Error(said.trim());
  await qmp.execute('x-blockdev-change', { parent: DISK, node: 'replication0' });
}

/** Primary: enter COLO. */
export async function startColo(qmp: Qmp, at: PairAddresses): Promise<void> {
  await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'x-colo', state: true }] });
  await qmp.execute('migrate', { uri: `tcp:${at.secondaryHost}:${at.migrationPort}` });
}

/** Primary, the secondary has died: go on alone. */
export async function failoverPrimary(qmp: Qmp): Promise<void> {
  await qmp.execute('x-blockdev-change', { parent: DISK, child: 'children.1' });
  await qmp.execute('human-monitor-command', { 'command-line': 'drive_del replication0' });
  for (const id of ['comp0', 'iothread1', 'm0', 'redire0', 'redire1'])
    await qmp.execute('object-del', { id });
  await qmp.execute('x-colo-lost-heartbeat');
}

/** Secondary, the primary has died: take over. The guest is heard as soon as the second line has been answered. */
export async function failoverSecondary(qmp: Qmp): Promise<void> {
  await qmp.execute('nbd-server-stop');
  await qmp.execute('x-colo-lost-heartbeat');
  for (const id of ['f2', 'f1']) await qmp.execute('object-del', { id });
  for (const id of ['red1', 'red0']) await qmp.execute('chardev-remove', { id });
}

/** The new primary's ends of the packet sockets, for the secondary that will come. */
export async function addPrimaryChardevs(qmp: Qmp, at: PairAddresses): Promise<void> {
  const add = (id: string, port: number, server: boolean): Promise<unknown> =>
    qmp.execute('chardev-add', {
      id,
      backend: {
        type: 'socket',
        data: { addr: { type: 'inet', data: { host: at.primaryHost, port: String(port) } }, server },
      },
    });
  await add('mirror0', at.mirrorPort, true);
  await add('compare1', at.compareSecondaryPort, true);
  await add('compare0', at.comparePrimaryPort, true);
  await add('compare0-0', at.comparePrimaryPort, false);
  await add('compare_out', at.compareOutPort, true);
  await add('compare_out0', at.compareOutPort, false);
}

/**
 * Copy the disk to the new secondary while the guest runs. READY comes as an event. `bitmap`: only what it holds, to the
 * very disk that it was kept for (docs/operations.md says when `parted` may be used); else the whole disk.
 */
export async function startResync(qmp: Qmp, at: PairAddresses, bitmap?: string): Promise<void> {
  const what =
    bitmap === undefined ? { sync: 'full' } : { sync: 'bitmap', bitmap, 'bitmap-mode': 'on-success' };
  await qmp.execute('drive-mirror', {
    device: DISK,
    'job-id': RESYNC_JOB,
    target: `nbd://${at.secondaryHost}:${at.nbdPort}/parent0`,
    mode: 'existing',
    format: 'raw',
    ...what,
  });
}

/** After BLOCK_JOB_READY: stop, cut the mirror, attach replication and the packet path, enter COLO. */
export async function resumeReplication(qmp: Qmp, at: PairAddresses, afterRewriter: boolean): Promise<void> {
  await qmp.execute('stop');
  await qmp.execute('block-job-cancel', { device: RESYNC_JOB });
  await attachReplication(qmp, at);
  await addPacketPath(qmp, afterRewriter);
  await startColo(qmp, at);
}

/** The primary's filters and comparer. On a former secondary they go before its rewriter. */
export async function addPacketPath(qmp: Qmp, afterRewriter: boolean): Promise<void> {
  const place = afterRewriter ? { insert: 'before', position: 'id=rew0' } : {};
  const add = (args: Record<string, unknown>): Promise<unknown> => qmp.execute('object-add', args);
  await add({
    'qom-type': 'filter-mirror',
    id: 'm0',
    ...place,
    netdev: 'hn0',
    queue: 'tx',
    outdev: 'mirror0',
  });
  await add({
    'qom-type': 'filter-redirector',
    id: 'redire0',
    ...place,
    netdev: 'hn0',
    queue: 'rx',
    indev: 'compare_out',
  });
  await add({
    'qom-type': 'filter-redirector',
    id: 'redire1',
    ...place,
    netdev: 'hn0',
    queue: 'rx',
    outdev: 'compare0',
  });
  await add({ 'qom-type': 'iothread', id: 'iothread1' });
  await add({
    'qom-type': 'colo-compare',
    id: 'comp0',
    primary_in: 'compare0-0',
    secondary_in: 'compare1',
    outdev: 'compare_out0',
    iothread: 'iothread1',
  });
}
