/**
 * The parts of v86 that are reached into, as types. v86's published build keeps its property names, so what is named
 * here exists under the same name in build/libv86.mjs (source of facts: v86 0.5.462, build/libv86-debug.mjs).
 *
 * Trap: `mem8` and most CPU registers are proxies that build a typed array on each access. Take a view over
 * `buffer`/`byteOffset`, never iterate or copy a proxy.
 */

/** A typed array, or one of v86's proxies around one. */
export interface V86View {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  readonly length: number;
  readonly BYTES_PER_ELEMENT: number;
  readonly constructor: { readonly name: string };
  [index: number]: number;
}

/** What v86's devices save and load: arrays of numbers, buffers, Maps and further devices. */
export interface V86Stateful {
  get_state(): unknown[];
  set_state(state: unknown[]): void;
}

/** One drive of an IDE channel (v86's IDEInterface). Sealed: nothing can be added to it, its prototype can be changed. */
export interface V86IdeDrive {
  readonly drive_connected: unknown;
  readonly is_atapi: unknown;
  readonly channel: { dma_status: number };
  readonly buffer: unknown;
  readonly sector_size: number;
  readonly data: Uint8Array;
  data_length: number;
  data_end: number;
  write_dest: number;
  current_command: number;
  status_reg: number;
  error_reg: number;
  push_irq(): void;
  ata_advance(command: number, sectors: number): void;
  get_lba(isLba48: boolean): number;
  get_count(isLba48: boolean): number;
  report_write(bytes: number): void;
  device_reset(): void;
}

/** The methods of IDEInterface that ide-patch.ts replaces. */
export interface V86IdePrototype {
  ata_command: (this: V86IdeDrive, command: number) => void;
  do_write: (this: V86IdeDrive) => void;
  read_buffer: (this: V86IdeDrive, start: number, length: number, done: (data: Uint8Array) => void) => void;
  cancel_io_operations: (this: V86IdeDrive) => void;
  create_identify_packet: (this: V86IdeDrive) => void;
}

export interface V86Ne2k extends V86Stateful {
  readonly constructor: new (
    cpu: V86Cpu,
    bus: V86Bus,
    preserveMac: boolean,
    translateMac: boolean,
    id: number,
  ) => V86Ne2k;
  readonly bus: V86Bus;
  /** Six bytes; the guest may have written others since. */
  mac: Uint8Array;
  /** 32 KiB: the station address PROM (each byte twice) and the packet ring. */
  readonly memory: Uint8Array;
  readonly cr: number;
  /** Receive configuration. */
  rxcr: number;
  readonly curpg: number;
  readonly boundary: number;
  readonly pstart: number;
  readonly pstop: number;
}

export interface V86VirtioNet extends V86Stateful {
  mac: Uint8Array;
  readonly virtio: { readonly queues: readonly { readonly enabled: boolean; has_request(): boolean }[] };
}

export interface V86Uart extends V86Stateful {
  input: number[];
  current_line: string;
}

export interface V86Acpi extends V86Stateful {
  timer_last_value: number;
  timer_imprecision_offset: number;
  last_timer: number;
}

/** Slot by slot; most are empty. */
export interface V86Pci {
  readonly devices: readonly ({ readonly pci_bars: readonly (object | undefined)[] } | undefined)[];
  readonly device_spaces: readonly (Int32Array | undefined)[];
}

export interface V86Devices {
  readonly pci: V86Pci;
  readonly ide: { readonly primary?: { readonly master: V86IdeDrive; readonly slave: V86IdeDrive } };
  readonly net?: V86Ne2k;
  readonly virtio_net?: V86VirtioNet;
  readonly uart0: V86Uart;
  readonly acpi?: V86Acpi;
}

export interface V86PortEntry {
  write16: (value: number) => void;
}

export interface V86Cpu extends V86Stateful {
  readonly mem8: V86View;
  readonly memory_size: V86View;
  readonly devices: V86Devices;
  readonly io: { readonly ports: V86PortEntry[] };
  readonly idtr_size: V86View;
  readonly protected_mode: V86View;
  readonly current_tsc: V86View;
  // set_state puts plain arrays in place of these three views and so never restores the registers behind them.
  last_result: V86View;
  fpu_status_word: V86View;
  mxcsr: V86View;
  fw_pointer: number;
  /** Runs for about a millisecond; returns how long the guest sleeps (0: it is busy), in ms. */
  main_loop(): number;
  pack_memory: () => { bitmap: { get_buffer(): ArrayBuffer }; packed_memory: Uint8Array };
  unpack_memory: (bitmap: unknown, packed: unknown) => void;
  jit_clear_cache: () => void;
  /** Forgets code compiled from the bytes [start, end). */
  jit_dirty_cache(start: number, end: number): void;
  set_tsc(low: number, high: number): void;
  store_current_tsc(): void;
  reboot_internal: () => void;
  /** A new buffer takes its place when it grows. */
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  /** Where the two interrupt controllers' registers are in it. */
  get_pic_addr_master(): number;
  get_pic_addr_slave(): number;
  device_raise_irq: (irq: number) => void;
  device_lower_irq: (irq: number) => void;
}

/** What is used of WebAssembly: Node has it, the type library of plain ECMAScript does not. */
interface WasmApi {
  instantiate(bytes: Uint8Array<ArrayBuffer>, imports: object): Promise<{ instance: { exports: unknown } }>;
  readonly RuntimeError: new () => Error;
}
export const wasmApi = (globalThis as unknown as { WebAssembly: WasmApi }).WebAssembly;

/** v86's scheduler (`emulator.v86`). */
export interface V86Scheduler {
  readonly constructor: { microtick: () => number };
  readonly cpu: V86Cpu;
  running: boolean;
  stopping: boolean;
  idle: boolean;
  tick_counter: number;
  do_tick: () => void;
  next_tick(afterMs: number): void;
  yield: (afterMs: number, tick: number) => void;
}

export interface V86Bus {
  send(name: string, value?: unknown): void;
}

/** The `V86` class's instance. */
export interface V86Emulator {
  readonly v86: V86Scheduler;
  readonly bus: V86Bus;
  add_listener(event: string, listener: (value: never) => void): void;
}

export interface V86ImportEnv {
  microtick: () => number;
  get_rand_int: () => number;
}

/** The options given to v86's constructor, as far as used. */
export interface V86ConstructorOptions {
  wasm_fn: (imports: { env: V86ImportEnv }) => Promise<unknown>;
  memory_size: number;
  vga_memory_size: number;
  bios: { buffer: ArrayBuffer };
  vga_bios: { buffer: ArrayBuffer };
  hda?: unknown;
  hdb?: unknown;
  net_device: { type: 'ne2k' | 'virtio' | 'none' };
  acpi: boolean;
  autostart: false;
  disable_keyboard: true;
  disable_mouse: true;
  disable_speaker: true;
  preserve_mac_from_state_image: true;
  log_level: 0;
}
