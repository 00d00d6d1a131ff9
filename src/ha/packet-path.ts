/**
 * The primary's side of the packet path: the sockets that the secondary connects to, the filters and the comparers, one
 * of each for every NIC. Names are names.ts's; QEMU: docs/COLO-FT.txt, docs/colo-proxy.txt.
 */
import { ColoError, TimeoutError } from '../base/errors.ts';
import { requireLinks } from './command-line.ts';
import { TLS_CLIENT, TLS_SERVER, nicNames } from './names.ts';
import type { NicNames } from './names.ts';
import type { PairLinks } from './pair-links.ts';
import { chardevs, objectIds, pause } from './qmp-queries.ts';
import type { Qmp } from './qmp-queries.ts';
import type { VmSpec } from './spec/vm-spec.ts';

/** A secondary tries to connect every second. */
const CONNECTED_MS = 10_000;
const LOOK_MS = 10;
const LOOP_HOST = '127.0.0.1';

type Nics = Pick<VmSpec, 'nics'>;

/** Primary: its ends of the packet sockets. Those of an earlier pair are closed; one that is in use is an error. */
export async function addPrimaryChardevs(qmp: Qmp, spec: Nics, links: PairLinks): Promise<void> {
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
export async function removePrimaryChardevs(qmp: Qmp, spec: Nics): Promise<void> {
  const present = await chardevs(qmp);
  for (const id of [...spec.nics.keys()].flatMap((at) => primaryChardevs(nicNames(at)))) {
    const found = present.get(id);
    if (!found) continue;
    if (found.isUsed) throw new ColoError(`Chardev '${id}' is in use by a pair; end that first`);
    await qmp.execute('chardev-remove', { id });
  }
}

/** The primary's filters and comparers. On a former secondary they go before its rewriters. */
export async function addPacketPath(qmp: Qmp, spec: Nics): Promise<void> {
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

/** What the guest hears before both sockets are there would reach its other copy late, or never. */
export async function secondaryConnected(qmp: Qmp, { nics }: Nics): Promise<void> {
  const wanted = [...nics.keys()].map(nicNames).flatMap((nic) => [nic.mirrorChardev, nic.secondaryIn]);
  const deadline = performance.now() + CONNECTED_MS;
  for (;;) {
    const present = await chardevs(qmp);
    const lacking = wanted.find((id) => present.get(id)?.isConnected !== true);
    if (lacking === undefined) return;
    if (performance.now() > deadline)
      throw new TimeoutError(
        `The secondary has not connected to '${lacking}'; is its host's way here blocked?`,
      );
    await pause(LOOK_MS);
  }
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

export function inet(host: string, port: number): Record<string, unknown> {
  return { type: 'inet', data: { host, port: String(port) } };
}
