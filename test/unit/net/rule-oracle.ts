/**
 * Rule 1 (docs/architecture.md) and nothing else: whatever was dropped, late or reordered, each packet that leaves is one
 * that the primary has said, unchanged, for the first time; each byte of it was said by the secondary in this epoch, or
 * is in a checkpoint that the secondary holds, or has left before; and it acknowledges no more than those. It knows no
 * queue and no order.
 */
import assert from 'node:assert/strict';
import type { WireFrame } from './property-frames.ts';
import type { Word } from './pair-link.ts';

class FlowAccount {
  /** Offsets that the outside world or a checkpoint knows. */
  readonly known = new Set<number>();
  knownAck = -1;
  knownSyn = false;
  /** What the secondary has said in this epoch: offset * 256 + byte. It may have said two things, one of which was lost. */
  readonly said = new Set<number>();
  saidAck = -1;
  saidSyn = false;
  readonly datagrams = new Map<string, number>();

  cover({ at, payload, ack, isSyn }: Word): void {
    for (let offset = 0; offset < payload.length; offset++) this.known.add(at + offset);
    this.knownAck = Math.max(this.knownAck, ack ?? -1);
    this.knownSyn ||= isSyn === true;
  }

  forgetSecondary(): void {
    this.said.clear();
    this.datagrams.clear();
    this.saidAck = -1;
    this.saidSyn = false;
  }
}

export class RuleOracle {
  readonly #flows: FlowAccount[];
  /** By their bytes. */
  readonly #waiting = new Map<string, Word[]>();
  /** What the primary has said in the epoch that a checkpoint ends. */
  #closed: Word[] = [];
  #open: Word[] = [];
  /** Checkpoints that the secondary holds; what was said before is covered. */
  #commits = 0;
  #hasEnded = false;

  constructor(flows: number) {
    this.#flows = Array.from({ length: flows }, () => new FlowAccount());
  }

  primary(word: Word): void {
    const name = nameOf(word.frame);
    this.#waiting.set(name, [...(this.#waiting.get(name) ?? []), word]);
    this.#open.push(word);
  }

  secondary({ flow, at, payload, ack, isSyn, content }: Word): void {
    const account = this.#flows[flow]!;
    if (content !== '') {
      account.datagrams.set(content, (account.datagrams.get(content) ?? 0) + 1);
      return;
    }
    for (const [offset, byte] of payload.entries()) account.said.add((at + offset) * 256 + byte);
    account.saidAck = Math.max(account.saidAck, ack ?? -1);
    account.saidSyn ||= isSyn === true;
  }

  stop(): void {
    this.#closed = this.#open;
    this.#open = [];
    for (const account of this.#flows) account.forgetSecondary();
  }

  commit(): void {
    this.#commits++;
    for (const word of this.#closed) if (word.content === '') this.#flows[word.flow]!.cover(word);
    this.#closed = [];
  }

  /** There is no pair any more. */
  end(): void {
    this.#hasEnded = true;
  }

  released(frame: WireFrame): void {
    const name = nameOf(frame);
    const [word, ...others] = this.#waiting.get(name) ?? [];
    assert.ok(word, 'a packet left that the primary did not say so, or left twice');
    if (others.length === 0) this.#waiting.delete(name);
    else this.#waiting.set(name, others);
    if (this.#hasEnded || word.epoch < this.#commits) return;
    const account = this.#flows[word.flow]!;
    if (word.content !== '') {
      const count = account.datagrams.get(word.content) ?? 0;
      assert.ok(count > 0, `a datagram of flow ${word.flow} left that the secondary did not say`);
      account.datagrams.set(word.content, count - 1);
      return;
    }
    if (word.isSyn)
      assert.ok(account.saidSyn || account.knownSyn, 'a SYN left that the secondary did not say');
    for (const [offset, byte] of word.payload.entries()) {
      const at = word.at + offset;
      assert.ok(
        account.known.has(at) || account.said.has(at * 256 + byte),
        `byte ${at} of flow ${word.flow} left unsaid`,
      );
    }
    const acknowledged = Math.max(account.saidAck, account.knownAck);
    assert.ok(
      (word.ack ?? -1) <= acknowledged,
      `${word.ack} of flow ${word.flow} was acknowledged too early`,
    );
    account.cover(word);
  }
}

function nameOf({ bytes, vnetHdrLen }: WireFrame): string {
  return `${vnetHdrLen} ${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')}`;
}
