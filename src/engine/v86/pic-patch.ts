/**
 * v86's pair of 8259 interrupt controllers, without a trap. When the second one's interrupt goes away before the CPU has
 * taken it (a driver masks its device with interrupts off, just as a frame arrives), the first one still remembers a
 * request on the line between the two. The CPU takes that, the second has nothing to say, and v86 leaves the first
 * waiting for an end of interrupt that nobody will send: from then on no interrupt of the second one's arrives, of
 * network card and disk among them. (On the chips it becomes a spurious interrupt, which the guest acknowledges.)
 *
 * So the request is forgotten as soon as it goes away; and should it have been taken all the same, as when the guest
 * itself masked it, the wait is ended. Facts: Intel 8259A data sheet, "Interrupt sequence"; v86's
 * src/rust/cpu/pic.rs, whose layout its saved states fix.
 */
import type { V86Cpu } from './internals.ts';

const IN_SERVICE = 2;
const REQUESTED = 3;
const LINES = 11;
const CASCADE = 1 << 2;
const PIC_BYTES = 13;

export class PicPatch {
  readonly #cpu: V86Cpu;
  readonly #masterAt: number;
  readonly #slaveAt: number;
  #memory: Uint8Array;
  /** Seen waiting for nobody at the last look. */
  #isSuspect = false;

  /** Patches the CPU. Call once, before the guest runs. */
  constructor(cpu: V86Cpu) {
    this.#cpu = cpu;
    this.#masterAt = cpu.get_pic_addr_master();
    this.#slaveAt = cpu.get_pic_addr_slave();
    this.#memory = new Uint8Array(cpu.wasm_memory.buffer);
    const lower = cpu.device_lower_irq;
    cpu.device_lower_irq = (irq) => {
      lower(irq);
      const memory = this.#bytes();
      if ((memory[this.#masterAt + LINES]! & CASCADE) === 0) memory[this.#masterAt + REQUESTED]! &= ~CASCADE;
    };
  }

  /**
   * Ends a wait for nobody. To be called between slices of the guest's run: between its two ends of interrupt, second
   * controller first, the same is seen for an instant, but never twice.
   */
  look(): void {
    const memory = this.#bytes();
    const isWaiting = (memory[this.#masterAt + IN_SERVICE]! & CASCADE) !== 0;
    const isSuspect = isWaiting && memory[this.#slaveAt + IN_SERVICE] === 0;
    if (isSuspect && this.#isSuspect) memory[this.#masterAt + IN_SERVICE]! &= ~CASCADE;
    this.#isSuspect = isSuspect;
  }

  /** For tests. */
  get registers(): { master: Uint8Array; slave: Uint8Array } {
    const { buffer } = this.#bytes();
    return {
      master: new Uint8Array(buffer, this.#masterAt, PIC_BYTES),
      slave: new Uint8Array(buffer, this.#slaveAt, PIC_BYTES),
    };
  }

  /** The memory grows, which detaches views of it. */
  #bytes(): Uint8Array {
    const { buffer } = this.#cpu.wasm_memory;
    if (this.#memory.buffer !== buffer) this.#memory = new Uint8Array(buffer);
    return this.#memory;
  }
}
