/**
 * The worker's entry: builds the machine from `workerData`, then turns messages into calls and events into messages.
 * Commands are carried out one after another; frames, serial bytes and disk answers in between.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { Transferable } from 'node:worker_threads';
import { messageOf, ProtocolError } from '../../base/errors.ts';
import { readV86Files, sha256 } from './build-files.ts';
import { DiskRequests } from './disk-bridge.ts';
import { Machine } from './machine.ts';
import type { MachineEvents } from './machine.ts';
import { buildIdOf } from './options.ts';
import {
  MAX_WAITING_FRAMES,
  SLOT_MAIN_TOOK_MESSAGES,
  SLOT_WORKER_DROPPED_FRAMES,
  SLOT_WORKER_TOOK_FRAMES,
} from './protocol.ts';
import type { Command, FromWorker, Reply, ToWorker, WireSnapshot, WorkerStart } from './protocol.ts';
import { Snapshots } from './snapshots.ts';

const SNAPSHOT_FORMAT = 1;

if (!parentPort) throw new Error('engine/v86/worker is a worker thread, not a program');
const port = parentPort;
const start = workerData as WorkerStart;
const counters = new Int32Array(start.counters);

function post(message: FromWorker, transfer: Transferable[] = []): void {
  port.postMessage(message, transfer);
}

// v86 prints; standard output belongs to QMP.
for (const name of ['log', 'info', 'warn', 'error', 'debug'] as const) {
  console[name] = (...parts: unknown[]) =>
    post({ kind: 'log', text: parts.map(String).join(' ').slice(0, 1000) });
}

/** Frames and serial bytes posted; compared with what the main thread has taken, so that they cannot pile up. */
let posted = 0;
function postBounded(message: FromWorker, bytes: Uint8Array<ArrayBuffer>): boolean {
  if (((posted - Atomics.load(counters, SLOT_MAIN_TOOK_MESSAGES)) | 0) >= MAX_WAITING_FRAMES) return false;
  posted = (posted + 1) | 0;
  post(message, [bytes.buffer]);
  return true;
}

const requests = new DiskRequests((id, disk, op, offset, length, data) => {
  post({ kind: 'disk', id, disk, op, offset, length, data }, data ? [data.buffer as ArrayBuffer] : []);
});

const dropped = (): void => void Atomics.add(counters, SLOT_WORKER_DROPPED_FRAMES, 1);

/** A reset stops the guest when asked to, but only after the slice of its run in which it happened. */
let pauseAfterReset = false;

const events: MachineEvents = {
  onFrame: (nic, data) => {
    if (!postBounded({ kind: 'frame', nic, data }, data)) dropped();
  },
  onFrameDropped: dropped,
  onSerial: (data) => void postBounded({ kind: 'serial', data }, data),
  onPowerOff: () => post({ kind: 'shutdown', reason: 'guest-shutdown', isPaused: true }),
  onReset: () => {
    pauseAfterReset = start.onGuestReset === 'pause';
    post({ kind: 'shutdown', reason: 'guest-reset', isPaused: pauseAfterReset });
    if (pauseAfterReset) machine?.halt();
  },
  onCrash: (error) => post({ kind: 'failed', message: `v86: ${messageOf(error)}` }),
};

let machine: Machine | null = null;
let snapshots: Snapshots | null = null;

async function carryOut(command: Command, on: Machine): Promise<Reply> {
  switch (command.kind) {
    case 'pause':
      on.halt();
      await requests.idle();
      return {};
    case 'resume':
      on.run(command.lateMs);
      return {};
    case 'reset':
      on.reset();
      return {};
    case 'capture': {
      if (!command.ramOnly && (on.isRunning || requests.inFlight > 0))
        throw new Error('capture: the guest runs');
      snapshots ??= new Snapshots(on);
      return { snapshot: snapshots.capture(command.full, command.ramOnly) };
    }
    case 'load':
      if (on.isRunning || requests.inFlight > 0) throw new Error('load: the guest runs');
      snapshots ??= new Snapshots(on);
      snapshots.load(command.snapshots);
      return { macs: on.nics.map((nic) => Uint8Array.from(nic.mac)) };
  }
}

function reply(id: number, answer: Reply): void {
  const snapshot: WireSnapshot | undefined = answer.snapshot;
  const transfer = snapshot
    ? [snapshot.ram.buffer as ArrayBuffer, snapshot.device.buffer as ArrayBuffer]
    : [];
  post({ kind: 'reply', id, error: null, reply: answer }, transfer);
}

let commands: Promise<void> = Promise.resolve();

async function runCommand(id: number, command: Command, on: Machine): Promise<void> {
  try {
    reply(id, await carryOut(command, on));
  } catch (error) {
    const wire = { message: messageOf(error), isProtocolError: error instanceof ProtocolError };
    post({ kind: 'reply', id, error: wire, reply: {} });
  }
}

function onMessage(message: ToWorker): void {
  if (message.kind === 'diskDone') {
    try {
      requests.complete(message.id, message.ok, message.data);
    } catch (error) {
      // The guest pointed its DMA engine past the end of its memory, say.
      machine?.halt();
      events.onCrash(error);
    }
    return;
  }
  if (!machine) return;
  const on = machine;
  switch (message.kind) {
    case 'frame':
      Atomics.add(counters, SLOT_WORKER_TOOK_FRAMES, 1);
      on.netPorts[message.nic]?.deliver(message.data);
      return;
    case 'serial':
      on.serial.push(message.data);
      on.wake();
      return;
    case 'command':
      commands = commands.then(() => runCommand(message.id, message.command, on));
      return;
  }
}

port.on('message', onMessage);

try {
  const files = readV86Files();
  machine = await Machine.build({ ...start, wasm: files.wasm, requests }, events);
  const biosSha256 = sha256(start.bios);
  const vgaBiosSha256 = sha256(start.vgaBios);
  const { wasmSha256, scriptSha256 } = files;
  const build = { snapshotFormat: SNAPSHOT_FORMAT, wasmSha256, scriptSha256, biosSha256, vgaBiosSha256 };
  post({ kind: 'ready', buildId: buildIdOf(start.shape, build) });
} catch (error) {
  post({ kind: 'failed', message: messageOf(error) });
}
