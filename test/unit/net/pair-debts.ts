/** What the comparer of pair-world.ts owes: packets, in the order of their flows, and requests for a checkpoint. */
import assert from 'node:assert/strict';
import type { CheckpointReason } from '../../../src/net/compare/options.ts';
import { PROTOCOL, PacketView } from '../../../src/net/packet.ts';
import type { DatagramModel } from './datagram-model.ts';
import type { Word } from './pair-link.ts';
import type { WorldFlow } from './pair-speech.ts';
import type { WireFrame } from './property-frames.ts';
import { TcpModel } from './tcp-model.ts';

export class PairDebts {
  readonly #flows: readonly WorldFlow[];
  readonly #owed: Word[][];
  readonly #view = new PacketView();

  constructor(flows: readonly WorldFlow[]) {
    this.#flows = flows;
    this.#owed = flows.map(() => []);
  }

  owe(flow: number, words: readonly Word[]): void {
    this.#owed[flow]!.push(...words);
  }

  /** All that is owed was released, and nothing else. In which order the flows take turns is not promised. */
  pay(released: readonly WireFrame[], where: string): void {
    const left = this.#flows.map((): WireFrame[] => []);
    for (const frame of released) left[this.#flowOf(frame)]!.push(frame);
    for (const [flow, words] of this.#owed.entries()) {
      const owed = words.map(({ frame }) => frame);
      assert.deepEqual(left[flow], owed, `flow ${flow} (${where})`);
      words.length = 0;
    }
  }

  #flowOf(frame: WireFrame): number {
    const last = this.#flows.length - 1;
    this.#view.parse(frame.bytes, frame.vnetHdrLen ?? 0);
    const { protocol, destinationPort } = this.#view;
    const flow = this.#flows.findIndex(({ flow: { number } }, index) =>
      index === last
        ? protocol === PROTOCOL.UDP && destinationPort === 5_000 + number
        : protocol === PROTOCOL.TCP && destinationPort === 40_000 + number,
    );
    assert.ok(flow >= 0, 'a frame that nobody said');
    return flow;
  }
}

export class RequestLedger {
  readonly #requests: readonly CheckpointReason[];
  /** How many there were when the last was answered, at the last scan, which may ask again, and at the last check. */
  #answered = 0;
  #scanned = 0;
  #checked = 0;

  constructor(requests: readonly CheckpointReason[]) {
    this.#requests = requests;
  }

  scanned(): void {
    this.#scanned = this.#requests.length;
  }

  /** A commit, which may have found a new need itself. */
  answered(): void {
    this.#answered = this.#scanned = this.#checked;
  }

  restarted(): void {
    this.#answered = this.#scanned = this.#checked = this.#requests.length;
  }

  /** `mayJudge`: the models know all that was said in this epoch. */
  check(models: readonly (TcpModel<Word> | DatagramModel<Word>)[], mayJudge: boolean): void {
    const asked = this.#requests.length - this.#answered;
    assert.ok(this.#requests.length - this.#scanned <= 1, 'one request until it is answered');
    this.#checked = this.#requests.length;
    if (models.some((model) => model instanceof TcpModel && model.isRequestDue)) {
      assert.ok(asked >= 1, 'a difference asks for a checkpoint');
    }
    if (asked === 0 || !mayJudge) return;
    const mayDiffer = models.some((model) => model.hasConflict);
    assert.ok(mayDiffer || this.#requests.at(-1)?.cause !== 'payload', 'nobody differs');
  }
}
