/**
 * Looks at this host with a VM in mind: what check.ts judges. Nothing is made, written or changed: images are opened
 * read-only and without a lock, ports are listened at for a moment, a switch is connected to and left, a KVM is tried with
 * a guest of a few bytes.
 */
import { constants } from 'node:fs';
import { access, readFile, stat, statfs } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { messageOf } from '../../base/errors.ts';
import { checkSanity } from '../../base/tls/sanity.ts';
import { findProgram, probeQemu } from '../../engine/qemu/index.ts';
import { tryBoot } from '../../engine/qemu/accelerator.ts';
import { BriefQemu } from '../../engine/qemu/brief-qemu.ts';
import { FACTS_VERSION, portsNeeded } from './facts.ts';
import type { HostFacts } from './facts.ts';
import { imageFacts } from './image-facts.ts';
import type { NodeConfig, TlsFiles } from './node-config.ts';
import type { NicSpec, VmSpec } from './vm-spec.ts';

const MIB = 1024 * 1024;
const CONNECT_MS = 2_000;
const QEMU_MS = 20_000;
/** include/uapi/linux/capability.h */
const CAP_NET_ADMIN = 12;
/** sun_path of unix(7), and the longest name of a socket below a VM's run folder. */
const MAX_SOCKET_PATH_BYTES = 107;
const LONGEST_SOCKET = 'console.sock';

export interface GatherOptions {
  /** Of this program. */
  readonly software: string;
  /** Guests that are here take so much of the node's memory. */
  readonly takenMiB?: number;
  /** Rejects with the reason when the arbiter cannot be asked. */
  readonly askArbiter?: () => Promise<unknown>;
  /** Rejects with the reason when the embedded engine's firmware is not there. */
  readonly findFirmware?: () => Promise<unknown>;
}

export async function gatherFacts(
  spec: VmSpec,
  config: NodeConfig,
  options: GatherOptions,
): Promise<HostFacts> {
  const folder = path.join(config.stateFolder, 'vms', spec.name);
  const [images, hasDisks, state, run, ports, cables, engine, arbiter, tls, machine] = await Promise.all([
    Promise.all(spec.disks.map(({ image }) => imageFacts(image))),
    isThere(path.join(folder, 'disks.json')),
    stateFacts(config.stateFolder),
    runTrouble(config.runFolder, spec.name),
    portFacts(config, portsNeeded(spec.nics.length)),
    cableTroubles(spec.nics),
    engineFacts(spec, options),
    why(options.askArbiter),
    config.tls ? tlsTrouble(config.tls) : Promise.resolve(null),
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => os.hostname()),
  ]);
  return {
    version: FACTS_VERSION,
    host: config.name,
    software: options.software,
    address: config.address,
    machine: machine.trim(),
    cpuModel: os.cpus()[0]?.model ?? '',
    isSecure: config.tls !== undefined,
    availableMiB: Math.floor(process.availableMemory() / MIB),
    guestsMiB: Math.max(0, config.memoryMiB - (options.takenMiB ?? 0)),
    ...{ tls, images, hasDisks, state, run, ports, cables, engine, arbiter },
    clockMs: Date.now(),
  };
}

async function why(ask: (() => Promise<unknown>) | undefined): Promise<string | null> {
  return (
    ask?.().then(
      () => null,
      (error: unknown) => messageOf(error),
    ) ?? null
  );
}

function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

/** The folder itself, or where it will be made: the nearest one above that is there. */
async function existing(folder: string): Promise<string> {
  for (let at = path.resolve(folder); ; at = path.dirname(at)) {
    if ((await isThere(at)) || at === path.dirname(at)) return at;
  }
}

async function folderTrouble(folder: string): Promise<string | null> {
  const there = await existing(folder);
  try {
    if (!(await stat(there)).isDirectory()) return `${there} is no folder`;
    await access(there, constants.W_OK | constants.X_OK);
    return null;
  } catch (error) {
    return `${folder} cannot be written to: ${messageOf(error)}`;
  }
}

async function stateFacts(folder: string): Promise<HostFacts['state']> {
  const trouble = await folderTrouble(folder);
  try {
    const { bavail, bsize } = await statfs(await existing(folder));
    return { freeBytes: bavail * bsize, trouble };
  } catch (error) {
    return { freeBytes: 0, trouble: trouble ?? messageOf(error) };
  }
}

async function runTrouble(folder: string, vm: string): Promise<string | null> {
  const socket = path.join(path.resolve(folder), 'vms', vm, LONGEST_SOCKET);
  const bytes = Buffer.byteLength(socket);
  if (bytes > MAX_SOCKET_PATH_BYTES)
    return `${socket} has ${bytes} bytes, of which the kernel takes ${MAX_SOCKET_PATH_BYTES}; set a shorter run-folder`;
  return folderTrouble(folder);
}

async function portFacts(
  { address, pairPorts: [first, last] }: NodeConfig,
  needed: number,
): Promise<HostFacts['ports']> {
  let free = 0;
  let trouble: string | null = null;
  for (let port = first; port <= last && free < needed; port++) {
    try {
      await listenFor(address, port);
      free++;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') continue;
      trouble = `${address}: ${messageOf(error)}`;
      break;
    }
  }
  return { free, trouble };
}

function listenFor(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once('error', reject);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve()));
  });
}

async function cableTroubles(nics: readonly NicSpec[]): Promise<(string | null)[]> {
  const troubles: (string | null)[] = [];
  for (const { edge } of nics) {
    if (edge.kind === 'switch') troubles.push(await switchTrouble(edge.address));
    else if (edge.kind === 'tap') troubles.push((await tunTrouble()) ?? (await tapTrouble(edge.ifname)));
    else troubles.push((await bridgeTrouble(edge.bridge)) ?? (await tunTrouble()) ?? (await rightsTrouble()));
  }
  return troubles;
}

async function bridgeTrouble(name: string): Promise<string | null> {
  const device = path.join('/sys/class/net', name);
  if (!(await isThere(device)))
    return `there is no bridge '${name}'; make it (ip link add ${name} type bridge; ip link set ${name} up)`;
  return (await isThere(path.join(device, 'bridge'))) ? null : `'${name}' is a network device, but no bridge`;
}

async function tapTrouble(name: string): Promise<string | null> {
  const device = path.join('/sys/class/net', name);
  if (!(await isThere(path.join(device, 'tun_flags')))) {
    const what = (await isThere(device)) ? `'${name}' is no TAP device` : `there is no TAP device '${name}'`;
    return `${what}; make it (ip tuntap add ${name} mode tap), or use a bridge`;
  }
  const owner = Number(await readFile(path.join(device, 'owner'), 'utf8').catch(() => '-1'));
  return owner === process.geteuid?.() ? null : rightsTrouble();
}

/** Opening the device alone makes nothing. */
async function tunTrouble(): Promise<string | null> {
  try {
    await access('/dev/net/tun', constants.R_OK | constants.W_OK);
    return null;
  } catch (error) {
    return `/dev/net/tun cannot be used: ${messageOf(error)}; load the module tun, or pass the device to the container`;
  }
}

async function rightsTrouble(): Promise<string | null> {
  const status = await readFile('/proc/self/status', 'utf8').catch(() => '');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  if ((effective >> BigInt(CAP_NET_ADMIN)) & 1n)
    return findProgram('ip') ? null : 'ip is missing; install iproute2';
  return 'a TAP device needs CAP_NET_ADMIN; run the node as root, or use a switch';
}

function switchTrouble(address: string): Promise<string | null> {
  const { host = '', port = '' } = /^tcp:\[?(?<host>[^\]]+?)\]?:(?<port>\d+)$/.exec(address)?.groups ?? {};
  const target = address.startsWith('unix:') ? { path: address.slice(5) } : { host, port: Number(port) };
  return new Promise((resolve) => {
    const socket = net.connect(target);
    const end = (trouble: string | null): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(trouble === null ? null : `no switch at ${address}: ${trouble}; start one with colo switch`);
    };
    const timer = setTimeout(() => end('it does not answer'), CONNECT_MS);
    socket.once('connect', () => end(null)).once('error', (error) => end(error.message));
  });
}

async function engineFacts(spec: VmSpec, { findFirmware }: GatherOptions): Promise<HostFacts['engine']> {
  const { engine } = spec;
  if (engine === 'v86') return { version: null, trouble: await why(findFirmware), unknownModels: [] };
  try {
    const probe = await probeQemu(spec.qemu ?? 'qemu-system-x86_64');
    const { version } = probe;
    const unknownModels = await modelsUnknownTo(probe.binary, spec.nics);
    const built = probe.accelerators.has(engine);
    const useless = built ? null : `${probe.binary} was built without it`;
    const trouble = useless ?? (engine === 'kvm' ? await tryBoot(probe, engine) : null);
    const way = engine === 'kvm' ? '; engine tcg runs everywhere, slower' : '';
    return {
      ...{ version, unknownModels },
      trouble: trouble === null ? null : `${engine} cannot be used: ${trouble}${way}`,
    };
  } catch (error) {
    return { version: null, trouble: messageOf(error), unknownModels: [] };
  }
}

async function modelsUnknownTo(binary: string, nics: readonly NicSpec[]): Promise<string[]> {
  const models = [...new Set(nics.map(({ model }) => model))];
  if (models.length === 0) return [];
  const args = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
  const qemu = new BriefQemu(binary, args);
  try {
    const qmp = await qemu.qmp(QEMU_MS);
    const types = (await qmp.execute('qom-list-types', { implements: 'device' })) as { name: string }[];
    return models.filter((model) => !types.some(({ name }) => name === model));
  } finally {
    await qemu.kill();
  }
}

async function tlsTrouble({ ca, cert, key }: TlsFiles): Promise<string | null> {
  try {
    const [caText, certText] = await Promise.all([readFile(ca, 'utf8'), readFile(cert, 'utf8')]);
    await access(key, constants.R_OK);
    for (const endpoint of ['server', 'client'] as const)
      checkSanity({ endpoint, ca: caText, caFile: ca, cert: certText, certFile: cert });
    return null;
  } catch (error) {
    return messageOf(error);
  }
}
