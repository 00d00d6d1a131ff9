/** Machines for the tests: the mini guest in a V86Engine, and waiting for what it prints. */
import { existsSync, readFileSync } from 'node:fs';
import { Deferred } from '../../../src/base/async.ts';
import type { Engine } from '../../../src/engine/engine.ts';
import { V86Engine } from '../../../src/engine/v86/index.ts';
import type { V86Options } from '../../../src/engine/v86/index.ts';
import { memoryDisk } from './mini-guest.ts';
import type { MemoryDisk } from './mini-guest.ts';

const BIOS = '/usr/share/seabios/bios.bin';
const VGA_BIOS = '/usr/share/seabios/vgabios-stdvga.bin';

export const skipReason = existsSync(BIOS) && existsSync(VGA_BIOS) ? false : 'SeaBIOS is not installed';
export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);

/** What a guest printed, and a way to wait for it. */
export class Console {
  text = '';
  #waiting: { pattern: RegExp; found: Deferred<RegExpMatchArray> } | null = null;
  readonly #engine: Pick<Engine, 'serials'>;

  constructor(engine: Pick<Engine, 'serials'>) {
    this.#engine = engine;
    engine.serials[0]!.onData = (bytes) => {
      this.text += Buffer.from(bytes).toString('latin1');
      this.#look();
    };
  }

  #look(): void {
    const match = this.#waiting && this.text.match(this.#waiting.pattern);
    if (!match) return;
    const { found } = this.#waiting!;
    this.#waiting = null;
    this.text = this.text.slice(match.index! + match[0].length);
    found.resolve(match);
  }

  /** Resolves when the output matches; what came before the match's end is forgotten. */
  async waitFor(pattern: RegExp): Promise<RegExpMatchArray> {
    const found = new Deferred<RegExpMatchArray>();
    this.#waiting = { pattern, found };
    this.#look();
    return await found.promise;
  }

  send(text: string): void {
    this.#engine.serials[0]!.write(Buffer.from(text, 'latin1'));
  }

  async ask(text: string, pattern: RegExp): Promise<string> {
    this.send(text);
    return (await this.waitFor(pattern))[0];
  }

  async counter(): Promise<number> {
    return Number.parseInt(await this.ask('c', /[0-9a-f]{8}/), 16);
  }
}

export interface MiniMachine extends AsyncDisposable {
  readonly engine: V86Engine;
  readonly console: Console;
  readonly disk: MemoryDisk;
}

/** A machine that was started and stands still. */
export async function miniMachine(options: Partial<V86Options> = {}): Promise<MiniMachine> {
  const disk = memoryDisk();
  const engine = new V86Engine({
    name: 'test',
    ramBytes: 4 * 1024 * 1024,
    bios: readFileSync(BIOS),
    vgaBios: readFileSync(VGA_BIOS),
    vgaRamBytes: 256 * 1024,
    disks: [disk],
    nics: [{ id: 'nic0', model: 'ne2k', mac: MAC }],
    ...options,
  });
  await engine.start();
  return { engine, console: new Console(engine), disk, [Symbol.asyncDispose]: () => engine.stop() };
}

/** The same, booted and running. */
export async function bootedMachine(options: Partial<V86Options> = {}): Promise<MiniMachine> {
  const machine = await miniMachine(options);
  await machine.engine.resume();
  await machine.console.waitFor(/R/);
  return machine;
}
