/**
 * Saving and loading everything of a machine but its RAM. v86's get_state and set_state do most of it; this module adds
 * what they leave out or get wrong:
 *
 * - RAM is kept out of the state (pack_memory and unpack_memory are replaced for the call);
 * - set_state throws all compiled code away; the pages that changed are enough (snapshots.ts), so that is left out too;
 * - set_state replaces the views of three registers by arrays and so never restores the registers;
 * - the TSC: its offset from the clock is added wrongly when it was not 0 before (as after a reboot of the guest);
 * - not in v86's state: the UART's input queue, the ACPI timer's memory, further NICs, and our own clock, random
 *   numbers, and input that waits outside of the guest.
 *
 * Source of facts: v86 0.5.462, build/libv86-debug.mjs (CPU get_state, set_state), src/rust/cpu/cpu.rs (set_tsc).
 */
import { z } from 'zod';
import { ProtocolError } from '../../base/errors.ts';
import { flattenState, restoreState } from './device-tree.ts';
import type { DeviceBuffers, DeviceTree } from './device-tree.ts';
import type { Machine } from './machine.ts';
import type { V86Acpi } from './internals.ts';

const FIRST_EXTRA_NIC = 1;
const NO_BITMAP = { bitmap: { get_buffer: () => new ArrayBuffer(0) }, packed_memory: new Uint8Array(0) };

/** Indexes in the array of CPU.get_state. */
const STATE_RAM_BYTES = 0;
const STATE_LAST_RESULT = 86;
const STATE_FPU_STATUS = 87;
const STATE_MXCSR = 88;

/** Paths of the VGA's three large memories, 3 MB, which set_state copies into place. */
const VGA_MEMORIES = new Set(['.0.52.6', '.0.52.39', '.0.52.61']);

/** Buffers that come, go and grow with use: the firmware's answers, and the data of an IDE drive. */
const OF_ANY_SIZE = /^\.0\.(62|85\.\d\.\d\.16)$/;

const TSC_TICKS_PER_MS = 1_000_000n;
const U64 = 64;

const extraSchema = z.object({
  clockMs: z.number().nonnegative(),
  epochBaseMs: z.number(),
  random: z.object({ seed: z.string().regex(/^[0-9a-f]{64}$/), drawn: z.int().nonnegative() }),
  tscOffset: z.string().regex(/^\d{1,20}$/),
  isHalted: z.boolean(),
  fwPointer: z.int(),
  uartInput: z.array(z.int().min(0).max(255)).max(1 << 20),
  acpi: z.object({ lastValue: z.number(), imprecision: z.number(), last: z.number() }).nullable(),
  /** Base64: few bytes, if any. */
  serialInput: z.base64(),
  frames: z.array(z.array(z.base64())),
});

export type MachineExtra = z.infer<typeof extraSchema>;

export interface SavedMachine {
  readonly tree: DeviceTree;
  readonly extra: MachineExtra;
  /** Views of the live machine, not copies. */
  readonly buffers: DeviceBuffers;
}

/** Of a machine that stands still, with no request in flight. */
export function saveMachine(machine: Machine): SavedMachine {
  const { cpu, clock } = machine;
  const buffers: DeviceBuffers = new Map();
  const tree = flattenDevices(machine, buffers);
  const { acpi, uart0 } = cpu.devices;
  const extra: MachineExtra = {
    clockMs: clock.now(),
    epochBaseMs: clock.epochBaseMs,
    random: machine.random.position,
    tscOffset: readTscOffset(machine).toString(),
    isHalted: machine.isHalted,
    fwPointer: cpu.fw_pointer,
    uartInput: uart0.input.slice(),
    acpi: acpi ? saveAcpi(acpi) : null,
    serialInput: Buffer.from(machine.serial.savedInput()).toString('base64'),
    frames: machine.netPorts.map((port) =>
      port.savedFrames().map((frame) => Buffer.from(frame).toString('base64')),
    ),
  };
  return { tree, extra, buffers };
}

function saveAcpi(acpi: V86Acpi): NonNullable<MachineExtra['acpi']> {
  return {
    lastValue: acpi.timer_last_value,
    imprecision: acpi.timer_imprecision_offset,
    last: acpi.last_timer,
  };
}

/** Checks that a state from outside fits this machine. Throws ProtocolError; changes nothing. */
export function checkMachineState(
  machine: Machine,
  tree: DeviceTree,
  extra: unknown,
  buffers: DeviceBuffers,
): MachineExtra {
  const parsed = extraSchema.safeParse(extra);
  if (!parsed.success) throw new ProtocolError(`snapshot: device part: ${z.prettifyError(parsed.error)}`);
  const own = ownShape(machine);
  if (!Array.isArray(tree) || tree.length !== 2 || !sameKind(tree, own.tree)) {
    throw new ProtocolError('snapshot: its devices are not those of this machine');
  }
  for (const [path, bytes] of own.buffers) {
    if (buffers.get(path)?.length !== bytes && !OF_ANY_SIZE.test(path)) {
      throw new ProtocolError(`snapshot: device buffer ${path} has another size than this machine's`);
    }
  }
  const cpuState = tree[0];
  if (!Array.isArray(cpuState) || cpuState[STATE_RAM_BYTES] !== machine.cpu.memory_size[0]) {
    throw new ProtocolError('snapshot: its machine has another RAM size');
  }
  if (parsed.data.frames.length !== machine.netPorts.length) {
    throw new ProtocolError(
      `snapshot: its machine has ${parsed.data.frames.length} NICs, not ${machine.nics.length}`,
    );
  }
  return parsed.data;
}

interface OwnShape {
  readonly tree: DeviceTree;
  /** Bytes by path. */
  readonly buffers: ReadonlyMap<string, number>;
}

/** Which devices a machine has never changes, so its shape is taken once. */
const ownShapes = new WeakMap<Machine, OwnShape>();

function ownShape(machine: Machine): OwnShape {
  const known = ownShapes.get(machine);
  if (known) return known;
  const buffers: DeviceBuffers = new Map();
  const tree = flattenDevices(machine, buffers);
  const shape = { tree, buffers: new Map([...buffers].map(([path, bytes]) => [path, bytes.length])) };
  ownShapes.set(machine, shape);
  return shape;
}

/** The CPU's state with all that hangs on it, and the NICs that v86 does not know of; without RAM. */
function flattenDevices(machine: Machine, buffers: DeviceBuffers): DeviceTree {
  const { cpu } = machine;
  const { pack_memory } = cpu;
  cpu.pack_memory = () => NO_BITMAP;
  try {
    const nics = machine.nics.slice(FIRST_EXTRA_NIC);
    return flattenState([cpu.get_state(), nics.map((nic) => nic.get_state())], buffers);
  } finally {
    cpu.pack_memory = pack_memory;
  }
}

/** The first levels of both trees have the same devices: the same lengths, nothing where there is something. */
function sameKind(a: DeviceTree, b: DeviceTree, depth = 0): boolean {
  if (depth > 2 || !Array.isArray(a) || !Array.isArray(b)) {
    return (a !== null && typeof a === 'object') === (b !== null && typeof b === 'object');
  }
  // Deeper lists may grow and shrink with use (queues); the CPU's and the list of NICs may not.
  if (depth < 2 && a.length !== b.length) return false;
  if (depth === 2) return true;
  return a.every((item, at) => sameKind(item, b[at]!, depth + 1));
}

/** Loads a checked state into a machine that stands still. RAM and compiled code are the caller's. */
export function restoreMachine(
  machine: Machine,
  tree: DeviceTree,
  extra: MachineExtra,
  buffers: DeviceBuffers,
): void {
  const { cpu, clock } = machine;
  const [cpuState, nicStates] = restoreState(tree, buffers, (path) => VGA_MEMORIES.has(path)) as [
    unknown[],
    unknown[][],
  ];
  clock.set(extra.clockMs);
  clock.epochBaseMs = extra.epochBaseMs;
  machine.random.position = extra.random;

  const { unpack_memory, jit_clear_cache, last_result, fpu_status_word, mxcsr } = cpu;
  cpu.unpack_memory = () => undefined;
  cpu.jit_clear_cache = () => undefined;
  cpuState[78] = new Uint8Array(8);
  try {
    cpu.set_state(cpuState);
  } finally {
    Object.assign(cpu, { unpack_memory, jit_clear_cache, last_result, fpu_status_word, mxcsr });
  }
  last_result[0] = (cpuState[STATE_LAST_RESULT] as Int32Array)[0]!;
  fpu_status_word[0] = (cpuState[STATE_FPU_STATUS] as Uint16Array)[0]!;
  mxcsr[0] = (cpuState[STATE_MXCSR] as Int32Array)[0]!;
  for (const [at, state] of nicStates.entries()) machine.nics[FIRST_EXTRA_NIC + at]!.set_state(state);
  writeTscOffset(machine, BigInt(extra.tscOffset));

  cpu.fw_pointer = extra.fwPointer;
  machine.isHalted = extra.isHalted;
  const { acpi, uart0 } = cpu.devices;
  uart0.input = extra.uartInput.slice();
  if (acpi && extra.acpi) {
    acpi.timer_last_value = extra.acpi.lastValue;
    acpi.timer_imprecision_offset = extra.acpi.imprecision;
    acpi.last_timer = extra.acpi.last;
  }
  machine.serial.restoreInput(Buffer.from(extra.serialInput, 'base64'));
  for (const [at, frames] of extra.frames.entries()) {
    // Not views of Node's pool: the frames go into v86, which may keep them.
    machine.netPorts[at]!.restoreFrames(frames.map((text) => Uint8Array.from(Buffer.from(text, 'base64'))));
  }
}

// v86 answers the same clock reading with made-up increments, so each reading of the TSC needs a time of its own.
// These lie far ahead of any guest's clock (centuries), apart from each other, and are exact in v86's arithmetic.
const PROBE_MS = 2 ** 43;
const PROBE_STEP_MS = 2 ** 20;
let probes = 0;

function probeMs(): number {
  probes = (probes + 1) % PROBE_STEP_MS;
  return PROBE_MS + probes * PROBE_STEP_MS;
}

/** Ticks that the TSC lies behind the clock, modulo 2^64. */
function readTscOffset(machine: Machine): bigint {
  const at = probeMs();
  machine.clock.at(at, () => machine.cpu.store_current_tsc());
  const tsc = machine.cpu.current_tsc;
  const value = (BigInt(tsc[1]!) << 32n) | BigInt(tsc[0]!);
  return BigInt.asUintN(U64, BigInt(at) * TSC_TICKS_PER_MS - value);
}

function writeTscOffset(machine: Machine, wanted: bigint): void {
  const before = readTscOffset(machine);
  if (before === wanted) return;
  // v86 computes: new offset = (clock - old offset) - value written.
  const at = probeMs();
  const value = BigInt.asUintN(U64, BigInt(at) * TSC_TICKS_PER_MS - before - wanted);
  machine.clock.at(at, () => machine.cpu.set_tsc(Number(value & 0xffffffffn), Number(value >> 32n)));
}
