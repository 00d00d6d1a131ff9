/**
 * Opens what a VM is made of, in QEMU's order: TLS credentials, chardevs, netdevs, block nodes and
 * drives, engine. An error names the
 * option as typed, and what was opened before it is closed again. Objects need the VM and come later (machine.ts).
 */
import { readFile } from 'node:fs/promises';
import { ClosedError, ColoError, ParameterError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { TlsCredentialsSet, isTlsCredentialsType } from '../base/tls/objects.ts';
import { BlockGraph } from '../block/graph.ts';
import { nestDriveOptions } from '../block/drive-options.ts';
import { BlockJobs } from '../block/jobs/manager.ts';
import { nestOptions } from '../block/options.ts';
import { parseChardevOptions } from '../chardev/options.ts';
import { Chardevs } from '../chardev/registry.ts';
import { systemErrorText } from '../chardev/system-errors.ts';
import type { Engine, EngineDisk } from '../engine/engine.ts';
import { QemuEngine } from '../engine/qemu/index.ts';
import type { QemuDiskSpec } from '../engine/qemu/index.ts';
import { V86Engine } from '../engine/v86/index.ts';
import type { VmConfig } from './command-line/config.ts';
import type { Options } from './command-line/keyval.ts';
import { originOf } from './command-line/origin.ts';
import { planDevices } from './devices.ts';
import type { DevicePlan } from './devices.ts';
import { planDrives } from './disk-options.ts';
import { VmDisks } from './disks.ts';
import { vncOptionsOf } from './vnc/address.ts';
import { VmEvents } from './events.ts';
import { openNetdevs } from './netdevs.ts';
import type { OpenNetdevs } from './netdevs.ts';
import { chooseQemu } from './qemu-machine.ts';
import { serialPortsOf } from './serial.ts';
import { macOf, planQemu } from './qemu-plan.ts';
import type { QemuPlan } from './qemu-plan.ts';

const log = loggerFor('vm');

export interface VmHost {
  /** Paths of SeaBIOS and its VGA BIOS. */
  firmware(): Promise<{ bios: string; vgaBios: string }>;
  /** Something changes nothing, or is not quite what was asked for. */
  warn(text: string): void;
  /** Start-up stands still until somebody connects. */
  waiting?(text: string): void;
  /** Breaks start-up off. */
  readonly signal?: AbortSignal;
}

export interface Parts {
  readonly events: VmEvents;
  readonly tls: TlsCredentialsSet;
  readonly chardevs: Chardevs;
  readonly graph: BlockGraph;
  readonly jobs: BlockJobs;
  readonly disks: VmDisks;
  readonly networks: OpenNetdevs;
  readonly engine: Engine | null;
}

/** Throws ColoError naming the option, or ClosedError when `host.signal` is aborted. */
export async function assemble(config: VmConfig, host: VmHost): Promise<Parts> {
  const events = new VmEvents();
  const emit = (event: string, data?: Record<string, unknown>): void => events.emit(event, data);
  const tls = new TlsCredentialsSet();
  const chardevs = new Chardevs(tls.find);
  const graph = new BlockGraph({ emit, tlsCredentials: tls.find });
  const jobs = new BlockJobs(emit);
  const disks = new VmDisks(graph, jobs, emit);
  let networks: OpenNetdevs | null = null;
  let engine: Engine | null = null;
  try {
    // What can be refused without opening anything comes first.
    const isQemu = config.machine === 'pc' && config.accel !== 'v86';
    const plan = isQemu ? planQemu(config) : planDevices(config.devices, config.machine);
    if ('warnings' in plan) for (const warning of plan.warnings) host.warn(warning);
    for (const options of config.objects) await addCredentials(tls, options);
    for (const options of config.chardevs) await openChardev(chardevs, options, host);
    networks = await openNetdevs(config.netdevs, plan.nics, emit);
    await openBlockdevs(config, graph);
    if ('warnings' in plan) {
      const inOrder = await openDisks(config, graph, disks, plan, host);
      host.signal?.throwIfAborted();
      if (config.machine === 'pc') engine = await startEmbedded(config, plan, inOrder, host);
    } else engine = await startQemu(config, plan, graph, disks, networks, host);
    host.signal?.throwIfAborted();
    return { events, tls, chardevs, graph, jobs, disks, networks, engine };
  } catch (error) {
    events.close();
    const steps = [chardevs.closeAll(), graph.closeAll()];
    if (engine) steps.push(engine.stop());
    if (networks) steps.push(networks.close());
    for (const result of await Promise.allSettled(steps)) {
      if (result.status === 'rejected')
        log.warn({ err: result.reason as unknown }, 'closing after a failed start');
    }
    throw host.signal?.aborted ? new ClosedError('start-up was broken off', { cause: error }) : error;
  }
}

/** Puts the option in front of what went wrong with it, as QEMU does. */
export async function withOrigin<T>(origin: string, act: () => Promise<T> | T): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    throw new ColoError(`${origin}: ${messageOf(cause)}`, { cause });
  }
}

/** As in QEMU, credentials are there before the disks that need them; the other objects come last. */
async function addCredentials(tls: TlsCredentialsSet, options: Options): Promise<void> {
  const { 'qom-type': type = '', id = '', ...properties } = options;
  if (!isTlsCredentialsType(type)) return;
  await withOrigin(originOf(options, `-object ${type}`), () => void tls.add(id, type, properties));
}

async function openChardev(chardevs: Chardevs, options: Options, host: VmHost): Promise<void> {
  const origin = originOf(options, `-chardev ${options['backend'] ?? ''},id=${options['id'] ?? ''}`);
  await withOrigin(origin, async () => {
    const chardev = await chardevs.add(parseChardevOptions(options));
    if (!('waitConnected' in chardev) || !chardev.config.wait || chardev.connected) return;
    host.waiting?.(`${origin}: info: waiting for connection on: ${chardev.filename}`);
    await chardev.waitConnected(host.signal);
  });
}

async function openBlockdevs(config: VmConfig, graph: BlockGraph): Promise<void> {
  for (const options of config.blockdevs) {
    await withOrigin(originOf(options, '-blockdev'), () => graph.addNode(nestOptions(options)));
  }
}

/** The guest's disks in the order of the IDE channel: `-drive if=ide` by index, then `-device ide-hd`. */
async function openDisks(
  config: VmConfig,
  graph: BlockGraph,
  disks: VmDisks,
  devices: DevicePlan,
  host: VmHost,
): Promise<EngineDisk[]> {
  const plugged: { id: string; position: number; origin: string }[] = [];
  for (const { id, options, position, origin, warnings } of planDrives(config.drives, config.machine)) {
    for (const warning of warnings) host.warn(warning);
    await withOrigin(origin, () => graph.addDrive(id, nestDriveOptions(options)));
    if (position !== null) plugged.push({ id, position, origin });
  }
  plugged.sort((a, b) => a.position - b.position);
  const inOrder: EngineDisk[] = [];
  for (const { drive, origin, id } of [
    ...plugged.map(({ id: drive, origin }) => ({ drive, origin, id: null })),
    ...devices.disks,
  ]) {
    inOrder.push(await withOrigin(origin, () => disks.plug(drive, { driver: 'ide-hd', id })));
  }
  return inOrder;
}

async function startQemu(
  config: VmConfig,
  plan: QemuPlan,
  graph: BlockGraph,
  disks: VmDisks,
  networks: OpenNetdevs,
  host: VmHost,
): Promise<Engine> {
  for (const { id, options, origin, warnings } of plan.drives) {
    for (const warning of warnings) host.warn(warning);
    if (options === null) continue;
    await withOrigin(origin, () => graph.addDrive(id, nestDriveOptions(options)));
  }
  const chosen = await chooseQemu(config, (text) => host.warn(text));
  const guestDisks: QemuDiskSpec[] = [];
  for (const { drive, deviceId: id, driver, how, options, origin } of plan.disks) {
    const disk = await withOrigin(origin, () => disks.plug(drive, { driver, id, tellsErrors: true }));
    guestDisks.push({ disk, how, options });
  }
  const engine = new QemuEngine({
    qemu: chosen.qemu,
    name: config.name ?? 'guest',
    ramBytes: config.memoryBytes,
    machine: chosen.machine,
    args: [...chosen.args, ...(config.noReboot ? ['-no-reboot'] : []), ...plan.args],
    identity: [...chosen.identity, ...plan.identity],
    hasIrqfd: chosen.hasIrqfd,
    chardevs: plan.chardevs,
    disks: guestDisks,
    nics: plan.nics.map((nic) => ({
      ...nic,
      hasVnetHeader: (networks.ofNic.get(nic.id)?.vnetHeaderBytes ?? 0) > 0,
    })),
    serialPorts: serialPortsOf(config),
    vnc: config.vnc === null ? null : vncOptionsOf(config.vnc),
    incoming: config.incoming !== null,
  });
  await engine.start();
  return engine;
}

async function startEmbedded(
  config: VmConfig,
  devices: DevicePlan,
  disks: readonly EngineDisk[],
  host: VmHost,
): Promise<Engine> {
  const { bios, vgaBios } = await host.firmware();
  const engine = new V86Engine({
    name: config.name ?? 'guest',
    ramBytes: config.memoryBytes,
    bios: await firmwareFile(config.bios ?? bios, config.bios === null ? null : `-bios ${config.bios}`),
    vgaBios: await firmwareFile(vgaBios, null),
    disks,
    nics: devices.nics.map(({ id, model, mac }, at) => ({ id, model, mac: mac ?? macOf(at) })),
    ...(config.noReboot ? { onGuestReset: 'pause' as const } : {}),
  });
  try {
    await engine.start();
  } catch (error) {
    await engine.stop();
    throw error;
  }
  return engine;
}

async function firmwareFile(file: string, origin: string | null): Promise<Uint8Array> {
  try {
    return await readFile(file);
  } catch (cause) {
    const text = `Could not open '${file}': ${systemErrorText(cause)}`;
    throw new ParameterError(origin === null ? text : `${origin}: ${text}`, { cause });
  }
}
