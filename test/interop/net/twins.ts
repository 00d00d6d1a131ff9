/**
 * Two programs without a guest, ours and QEMU, started with the same command line, typed the same monitor lines and given
 * the same frames on the same sockets. Compared is what comes out at every socket, in which order, and every reply.
 *
 * A step ends when both have nothing left to do: a frame lies in the program's socket before a question goes to its
 * monitor, and each round of a main loop serves all that is ready, so that a few answered questions mean a few rounds.
 * Whoever has said less by then is waited for; who has said something else, or too much, fails.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { CAPABILITIES, execute, startBare, testFolder } from '../../helpers/bare-process.ts';
import type { BareProcess } from '../../helpers/bare-process.ts';
import { until } from '../../helpers/colo.ts';
import { accepted, isDisconnected } from './accepted.ts';
import { FrameSocket } from './qemu.ts';

const STEP_MS = 5_000;
/** Rounds of a main loop: the longest way of a frame here is through three sockets of the program itself. */
const ROUNDS = 4;
export const PROGRAMS = ['colo', 'qemu'] as const;

export interface Plug {
  readonly name: string;
  /** Frames on it have the vnet word. */
  readonly vnetHdrSupport?: boolean;
}

export interface TwinOptions {
  /** Words of both command lines; `DIR` is the program's folder. */
  readonly line: string;
  /** Unix sockets in that folder that the test connects to. */
  readonly plugs: readonly (string | Plug)[];
}

interface Twin {
  readonly bare: BareProcess;
  readonly sockets: Map<string, FrameSocket>;
}

export class Twins {
  readonly #twins: readonly Twin[];
  readonly #names = new Map<string, string>();

  private constructor(twins: readonly Twin[]) {
    this.#twins = twins;
  }

  static async start(t: Pick<TestContext, 'after'>, options: TwinOptions): Promise<Twins> {
    const folder = await testFolder(t);
    const start = async (program: 'colo' | 'qemu'): Promise<Twin> => {
      const bare = await startBare(t, program, path.join(folder, program), options.line, async () => {});
      await bare.type(CAPABILITIES);
      const sockets = new Map<string, FrameSocket>();
      for (const plug of options.plugs) {
        const { name, vnetHdrSupport } = typeof plug === 'string' ? { name: plug } : plug;
        const socket = await FrameSocket.connect(path.join(bare.home, name), vnetHdrSupport ?? false);
        t.after(() => socket.close());
        sockets.set(name, socket);
      }
      const streams = options.line.split('-netdev stream').length - 1;
      await accepted(bare, { names: [...sockets.keys()], streams });
      return { bare, sockets };
    };
    return new Twins(await Promise.all(PROGRAMS.map(start)));
  }

  /** Connects to one more socket of both. */
  async plug(t: Pick<TestContext, 'after'>, name: string): Promise<void> {
    for (const { bare, sockets } of this.#twins) {
      const socket = await FrameSocket.connect(path.join(bare.home, name));
      t.after(() => socket.close());
      sockets.set(name, socket);
      await accepted(bare, { names: [name] });
    }
  }

  /** Closes that connection, and waits until both have seen it. */
  async unplug(name: string): Promise<void> {
    for (const { bare, sockets } of this.#twins) {
      sockets.get(name)!.close();
      sockets.delete(name);
      await until(`${name} is free`, STEP_MS, () => isDisconnected(bare, [name]));
    }
  }

  /** Both are typed the line; returns the reply, or `Class: text`. Fails where the two differ. */
  async type(line: string): Promise<unknown> {
    const replies = await this.answers(line);
    assert.deepEqual(replies[0], replies[1], `the reply to ${line}`);
    return replies[0];
  }

  /** Ours, then QEMU's. */
  async answers(line: string): Promise<unknown[]> {
    return Promise.all(
      this.#twins.map(({ bare }) => bare.type(line).catch((error: unknown) => (error as Error).message)),
    );
  }

  execute(command: string, args?: object): Promise<unknown> {
    return this.type(execute(command, args));
  }

  /** Gives both a frame; `label` is how failures name it. */
  send(plug: string, frame: Uint8Array, label?: string, vnetHdrLen: number | null = null): void {
    if (label !== undefined) this.#names.set(Buffer.from(frame).toString('hex'), label);
    for (const { sockets } of this.#twins) sockets.get(plug)!.send(frame, vnetHdrLen);
  }

  sendBytes(plug: string, bytes: Uint8Array): void {
    for (const { sockets } of this.#twins) sockets.get(plug)!.sendBytes(bytes);
  }

  /** Waits until both have come to rest, and says what came out since the last call: `plug: frame`. Fails when they differ. */
  async rest(after: string): Promise<Record<string, string[]>> {
    for (let round = 0; round < ROUNDS; round++) {
      await Promise.all(this.#twins.map(({ bare }) => bare.type(execute('query-status'))));
    }
    const deadline = performance.now() + STEP_MS;
    let [ours, theirs] = this.#outputs();
    while (
      JSON.stringify(ours) !== JSON.stringify(theirs) &&
      performance.now() < deadline &&
      isLate(ours!, theirs!)
    ) {
      await Promise.all(this.#twins.map(({ bare }) => bare.type(execute('query-status'))));
      [ours, theirs] = this.#outputs();
    }
    for (const { sockets } of this.#twins) {
      for (const socket of sockets.values()) socket.taken = socket.frames.length;
    }
    const text = (output: unknown): string => JSON.stringify(output, null, 1);
    assert.equal(text(ours), text(theirs), `after ${after} ours says ${text(ours)}, QEMU ${text(theirs)}`);
    return ours!;
  }

  /** What the programs have complained of. */
  stderr(): string[] {
    return this.#twins.map(({ bare }) => bare.stderr());
  }

  home(program: 'colo' | 'qemu'): string {
    return this.#twins[PROGRAMS.indexOf(program)]!.bare.home;
  }

  #outputs(): Record<string, string[]>[] {
    return this.#twins.map(({ sockets }) =>
      Object.fromEntries(
        [...sockets].flatMap(([name, socket]) => {
          const fresh = socket.frames.slice(socket.taken);
          return fresh.length === 0
            ? []
            : [[name, fresh.map((frame, at) => this.#say(frame, socket.vnetWords[socket.taken + at]!))]];
        }),
      ),
    );
  }

  #say(frame: Uint8Array, vnetHdrLen: number): string {
    const hex = Buffer.from(frame).toString('hex');
    const name = this.#names.get(hex) ?? `${frame.length} bytes ${hex.slice(0, 200)}`;
    return vnetHdrLen === 0 ? name : `${name} (vnet ${vnetHdrLen})`;
  }
}

/** One of them may only be behind: what it has said is a beginning of what the other has. */
function isLate(ours: Record<string, string[]>, theirs: Record<string, string[]>): boolean {
  for (const plug of new Set([...Object.keys(ours), ...Object.keys(theirs)])) {
    const [a, b] = [ours[plug] ?? [], theirs[plug] ?? []];
    for (let at = 0; at < Math.min(a.length, b.length); at++) if (a[at] !== b[at]) return false;
  }
  return true;
}
