/**
 * One v86 machine inside the worker: built from its parts, with a clock, random numbers, disks, NICs, serial port and
 * scheduler of our own in place of v86's. It runs, stands still and is reset here; its state is saved and loaded in
 * machine-state.ts and snapshots.ts; messages to the main thread are worker.ts's work.
 *
 * Assumes: the realm is this machine's alone (Date.now is replaced by the guest's wall clock, for v86's RTC).
 * Source of facts: v86 0.5.462, build/libv86-debug.mjs.
 */
import { performance } from 'node:perf_hooks';
import { V86 } from 'v86';
import { BridgeDisk } from './disk-bridge.ts';
import type { DiskRequests } from './disk-bridge.ts';
import { GuestClock } from './guest-clock.ts';
import { GuestRandom } from './guest-random.ts';
import { patchIde } from './ide-patch.ts';
import { PicPatch } from './pic-patch.ts';
import { wasmApi } from './internals.ts';
import type {
  V86ConstructorOptions,
  V86Cpu,
  V86Emulator,
  V86IdeDrive,
  V86Ne2k,
  V86Pci,
  V86VirtioNet,
} from './internals.ts';
import { Ne2kRing, NetPort, ne2kReceiveMode, virtioHasRoom, virtioTakesFrames } from './net-port.ts';
import type { V86Shape } from './options.ts';
import { SerialPort } from './serial-port.ts';

export interface MachineParts {
  readonly shape: V86Shape;
  readonly bios: Uint8Array;
  readonly vgaBios: Uint8Array;
  readonly wasm: Uint8Array<ArrayBuffer>;
  readonly rtcBaseMs: number;
  readonly requests: DiskRequests;
}

export interface MachineEvents {
  onFrame(nic: number, frame: Uint8Array<ArrayBuffer>): void;
  onFrameDropped(): void;
  onSerial(bytes: Uint8Array<ArrayBuffer>): void;
  /** The guest powered itself off, or halted for good; it stands still. */
  onPowerOff(): void;
  /** The guest pulled its own reset line; the machine has been reset and goes on. */
  onReset(): void;
  /** v86 threw: the machine cannot go on. */
  onCrash(error: unknown): void;
}

/** A NIC that can have its address set and its state saved, whatever its model. */
export type Nic = V86Ne2k | V86VirtioNet;

const ACPI_PM1A_CONTROL_PORT = 0xb004;
const ACPI_SLEEP_ENABLE = 1 << 13;

export class Machine {
  readonly cpu: V86Cpu;
  readonly clock: GuestClock;
  readonly random: GuestRandom;
  readonly nics: readonly Nic[];
  readonly netPorts: readonly NetPort[];
  readonly serial: SerialPort;
  readonly requests: DiskRequests;
  readonly pic: PicPatch;
  readonly #emulator: V86Emulator;
  readonly #events: MachineEvents;
  readonly #reboot: () => void;
  #timer: NodeJS.Timeout | null = null;
  #isRunning = false;
  /** What must wait until the slice of the guest's run that asked for it has ended. */
  #afterSlice: (() => void)[] = [];
  /** Halted with interrupts off: only a reset brings it back. */
  isHalted = false;

  private constructor(emulator: V86Emulator, parts: MachineParts, events: MachineEvents, own: OwnParts) {
    this.#emulator = emulator;
    this.#events = events;
    this.requests = parts.requests;
    this.cpu = emulator.v86.cpu;
    this.pic = new PicPatch(this.cpu);
    this.clock = own.clock;
    this.random = own.random;
    this.nics = createNics(this.cpu, parts.shape);
    this.netPorts = this.nics.map((nic, at) => this.#createNetPort(nic, at));
    this.serial = new SerialPort(
      this.cpu.devices.uart0,
      (byte) => emulator.bus.send('serial0-input', byte),
      (bytes) => events.onSerial(bytes),
    );
    emulator.add_listener('serial0-output-byte', (byte: number) => this.serial.put(byte));
    const reboot = this.cpu.reboot_internal.bind(this.cpu);
    this.#reboot = () => {
      this.isHalted = false;
      reboot();
    };
    this.#takeOverEvents();
    this.#takeOverScheduler();
  }

  /** Builds the machine; it stands still at its reset vector. Throws when v86 or a disk does not work. */
  static async build(parts: MachineParts, events: MachineEvents): Promise<Machine> {
    const clock = new GuestClock(performance.now.bind(performance), parts.rtcBaseMs);
    const random = new GuestRandom();
    Date.now = clock.epochNow;
    const disks = parts.shape.disks.map(
      ({ lengthBytes }, at) => new BridgeDisk(parts.requests, at, lengthBytes),
    );
    for (const disk of disks) await disk.prepare();
    const [hda, hdb] = disks;
    const options: V86ConstructorOptions = {
      wasm_fn: async (imports) => {
        imports.env.microtick = clock.now;
        imports.env.get_rand_int = random.next;
        const { instance } = await wasmApi.instantiate(parts.wasm, imports);
        return instance.exports;
      },
      memory_size: parts.shape.ramBytes,
      vga_memory_size: parts.shape.vgaRamBytes,
      bios: { buffer: parts.bios.slice().buffer },
      vga_bios: { buffer: parts.vgaBios.slice().buffer },
      ...(hda && { hda }),
      ...(hdb && { hdb }),
      net_device: { type: parts.shape.nics[0]?.model ?? 'none' },
      acpi: parts.shape.acpi,
      autostart: false,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      preserve_mac_from_state_image: true,
      log_level: 0,
    };
    const emulator = new V86(options as never) as unknown as V86Emulator;
    await new Promise<void>((resolve) => emulator.add_listener('emulator-loaded', () => resolve()));
    emulator.v86.constructor.microtick = clock.now;
    clearAbsentBars(emulator.v86.cpu.devices.pci);
    const { acpi, ide } = emulator.v86.cpu.devices;
    if (acpi) {
      // It was built by the host's clock.
      acpi.timer_last_value = 0;
      acpi.timer_imprecision_offset = 0;
      acpi.last_timer = 0;
    }
    if (ide.primary) {
      const drives: { drive: V86IdeDrive; disk: BridgeDisk }[] = [];
      if (hda) drives.push({ drive: ide.primary.master, disk: hda });
      if (hdb) drives.push({ drive: ide.primary.slave, disk: hdb });
      patchIde(drives);
    }
    return new Machine(emulator, parts, events, { clock, random });
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** The guest's memory, without a copy. Taken anew each time: v86's memory can grow, which detaches the old view. */
  ram(): Uint8Array<ArrayBuffer> {
    const { mem8, memory_size } = this.cpu;
    return new Uint8Array(mem8.buffer, mem8.byteOffset, memory_size[0]);
  }

  /** `lateMs`: the clock goes on from that much later. */
  run(lateMs = 0): void {
    if (this.#isRunning || this.isHalted) return;
    this.#isRunning = true;
    this.clock.set(this.clock.now() + lateMs);
    this.clock.start();
    for (const port of this.netPorts) port.isOpen = true;
    const { v86 } = this.#emulator;
    v86.stopping = false;
    v86.running = true;
    v86.next_tick(0);
  }

  /** No instruction runs from here on; requests in flight may still change the state (`requests.idle()`). */
  halt(): void {
    this.#isRunning = false;
    this.clock.stop();
    for (const port of this.netPorts) port.close();
    this.#emulator.v86.running = false;
    this.#emulator.v86.tick_counter++; // a tick that is scheduled already does nothing
    if (this.#timer) clearTimeout(this.#timer);
    this.serial.flush();
  }

  reset(): void {
    this.cpu.devices.ide.primary?.master.device_reset();
    this.cpu.devices.ide.primary?.slave.device_reset();
    this.#reboot();
    this.#continue(0);
  }

  #takeOverEvents(): void {
    const powerOff = (): void => {
      this.isHalted = true;
      this.#afterSlice.push(() => this.#powerOff());
    };
    this.#emulator.add_listener('cpu-event-halt', powerOff);
    this.cpu.reboot_internal = () => {
      this.#reboot();
      this.#afterSlice.push(() => this.#events.onReset());
    };
    const port = this.cpu.devices.acpi && this.cpu.io.ports[ACPI_PM1A_CONTROL_PORT];
    if (port) {
      const write16 = port.write16.bind(this.cpu.devices.acpi);
      port.write16 = (value) => {
        write16(value);
        if ((value & ACPI_SLEEP_ENABLE) !== 0) powerOff();
      };
    }
  }

  #powerOff(): void {
    if (!this.isHalted) return; // it reset itself right after
    this.halt();
    this.#events.onPowerOff();
  }

  #takeOverScheduler(): void {
    const { v86 } = this.#emulator;
    v86.yield = (afterMs, tick) => {
      // A sleep in progress is over: only the newest tick counts.
      if (this.#timer) clearTimeout(this.#timer);
      this.#timer = null;
      const run = (): void => {
        if (tick === v86.tick_counter) v86.do_tick();
      };
      // Node's timers count whole milliseconds: rounded up, an idle guest wakes once a timer tick, and never spins.
      if (afterMs <= 0) setImmediate(run);
      else this.#timer = setTimeout(run, Math.ceil(afterMs));
    };
    v86.do_tick = () => {
      if (!this.#isRunning) return;
      v86.idle = false;
      let sleepMs: number;
      try {
        this.pic.look();
        this.#pump();
        sleepMs = this.cpu.main_loop();
      } catch (error) {
        this.#crashed(error);
        return;
      }
      this.serial.flush();
      for (const act of this.#afterSlice.splice(0)) act();
      this.#continue(sleepMs);
    };
  }

  /** A method of its own, as what happened in between may have stopped the guest. */
  #continue(sleepMs: number): void {
    const { v86 } = this.#emulator;
    if (this.#isRunning) v86.next_tick(this.#canPump() ? 0 : sleepMs);
  }

  #crashed(error: unknown): void {
    // Loading an empty interrupt table and faulting is how a PC resets itself; v86 traps on it.
    if (error instanceof wasmApi.RuntimeError && this.cpu.protected_mode[0] && this.cpu.idtr_size[0] === 0) {
      this.#reboot();
      this.#events.onReset();
      this.#continue(0);
      return;
    }
    this.halt();
    this.#events.onCrash(error);
  }

  #pump(): void {
    for (const port of this.netPorts) port.pump();
    this.serial.pump();
  }

  #canPump(): boolean {
    for (const port of this.netPorts) if (port.canPump) return true;
    return this.serial.canPump;
  }

  /** After something was queued for the guest: wakes it if it sleeps. */
  wake(): void {
    if (!this.#isRunning) return;
    this.#pump();
    if (this.#emulator.v86.idle && this.#canPump()) this.#emulator.v86.next_tick(0);
  }

  #createNetPort(nic: Nic, at: number): NetPort {
    const { bus } = this.#emulator;
    const onFrameDropped = (): void => this.#events.onFrameDropped();
    this.#emulator.add_listener(`net${at}-send`, (frame: Uint8Array<ArrayBuffer>) =>
      this.#events.onFrame(at, frame.slice()),
    );
    if ('virtio' in nic) {
      const inject = (frame: Uint8Array): void => {
        if (virtioTakesFrames(nic)) bus.send(`net${at}-receive`, frame);
      };
      return new NetPort(inject, virtioHasRoom(nic), onFrameDropped);
    }
    const ring = new Ne2kRing(nic);
    const inject = (frame: Uint8Array): void => {
      ring.gave();
      const { rxcr } = nic;
      nic.rxcr = ne2kReceiveMode(nic, frame);
      bus.send(`net${at}-receive`, frame);
      nic.rxcr = rxcr;
    };
    return new NetPort(inject, ring.hasRoom, onFrameDropped, () => ring.restored());
  }
}

/**
 * Without disks v86's IDE controller claims address registers that it does not have, and loading such a state fails.
 * The BIOS clears them as soon as it runs.
 */
function clearAbsentBars({ devices, device_spaces }: V86Pci): void {
  const firstBar = 4; // configuration space in 32 bit words
  for (const [slot, device] of devices.entries()) {
    for (const [at, bar] of (device?.pci_bars ?? []).entries()) {
      if (!bar) device_spaces[slot]![firstBar + at] = 0;
    }
  }
}

interface OwnParts {
  readonly clock: GuestClock;
  readonly random: GuestRandom;
}

function createNics(cpu: V86Cpu, shape: V86Shape): Nic[] {
  const { net, virtio_net } = cpu.devices;
  if (virtio_net) {
    virtio_net.mac = Uint8Array.from(shape.nics[0]!.mac);
    return [virtio_net];
  }
  if (!net) return [];
  return shape.nics.map(({ mac }, id) => {
    // v86 makes one NIC from its options; its class makes more, each with ports and a PCI slot of its own.
    const nic = id === 0 ? net : new net.constructor(cpu, net.bus, true, false, id);
    nic.mac = Uint8Array.from(mac);
    // The address PROM: the driver reads the address here, each byte twice.
    for (let at = 0; at < 6; at++) {
      nic.memory[at * 2] = mac[at]!;
      nic.memory[at * 2 + 1] = mac[at]!;
    }
    return nic;
  });
}
