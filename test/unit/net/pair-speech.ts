/**
 * What the guests of pair-world.ts say: packets of a few TCP connections and of one flow of datagrams, each from where
 * the guest stands. Two guests that stand at the same place say the same, unless one is told to be wrong.
 */
import { PROTOCOL } from '../../../src/net/packet.ts';
import type { Word } from './pair-link.ts';
import { Noise, datagramFrame, udpBody } from './property-frames.ts';
import type { Spec } from './tcp-model.ts';
import { frameOf } from './tcp-script.ts';
import type { Plan } from './tcp-script.ts';

/** Where a guest stands on one flow. */
export interface Progress {
  isOpen: boolean;
  /** Number of the SYN that it sent is its own. */
  isOwnSyn: boolean;
  /** The SYN is history, and not repeated. */
  isSynOver: boolean;
  at: number;
  ack: number;
}

export type WorldFlow = Pick<
  Plan,
  'flow' | 'initial' | 'secondaryInitial' | 'ackInitial' | 'opening' | 'seed'
>;

export interface Utterance {
  readonly flow: number;
  readonly length: number;
  readonly back: number;
  readonly ack: number;
  /** Only for the secondary: it says something else. */
  readonly isWrong: boolean;
  /** Only for the secondary: it says and acknowledges as much as the primary has. */
  readonly catchesUp: boolean;
  readonly letter: number;
}

/** The last flow is one of datagrams. */
export class PairSpeech {
  readonly #flows: readonly WorldFlow[];
  readonly #hasVnet: boolean;
  readonly #noise: Noise;

  constructor(flows: readonly WorldFlow[], hasVnet: boolean, seed: number) {
    this.#flows = flows;
    this.#hasVnet = hasVnet;
    this.#noise = new Noise(seed);
  }

  /** Before anything is said. */
  silence(): Progress[] {
    return this.#flows.map(() => ({ isOpen: false, isOwnSyn: true, isSynOver: false, at: 0, ack: 0 }));
  }

  word(side: 'primary' | 'secondary', states: Progress[], what: Utterance, epoch: number): Word {
    const index = what.flow % this.#flows.length;
    const plan = this.#flows[index]!;
    const state = states[index]!;
    const seed = this.#noise.next();
    if (index === this.#flows.length - 1) {
      const payload = Uint8Array.of(what.letter ^ (side === 'secondary' && what.isWrong ? 0x80 : 0));
      const frame = datagramFrame(
        plan.flow,
        PROTOCOL.UDP,
        udpBody(plan.flow, payload),
        0,
        seed,
        this.#hasVnet,
      );
      return { at: 0, ack: null, payload, content: String(payload[0]), frame, epoch, flow: index };
    }
    const isFirst = !state.isOpen;
    const isSyn =
      plan.opening !== 'middle' && (isFirst || (state.at === 0 && !state.isSynOver && what.back > 30));
    state.isOpen = true;
    // No TCP says its SYN again after anything else.
    if (!isSyn) state.isSynOver = true;
    // A connection that is first seen in its middle begins with its lowest byte.
    const from = isSyn ? 0 : Math.max(0, state.at - what.back);
    const payload = isSyn ? new Uint8Array(0) : this.#stream(plan.seed, from, from + what.length);
    if (what.isWrong && side === 'secondary' && payload.length > 0) payload[payload.length - 1]! ^= 0x55;
    state.ack += isSyn ? 0 : what.ack;
    state.at = Math.max(state.at, from + payload.length);
    const spec: Spec = {
      at: from,
      ack: isSyn && plan.opening === 'active' ? null : state.ack,
      payload,
      isSyn,
    };
    const isOwnSyn = side === 'secondary' && state.isOwnSyn;
    const frame = frameOf(
      { ...plan, secondaryInitial: isOwnSyn ? plan.secondaryInitial : plan.initial },
      side,
      { ...spec, seed },
      this.#hasVnet,
    );
    return { ...spec, content: '', frame, epoch, flow: index };
  }

  #stream(seed: number, from: number, to: number): Uint8Array {
    return Uint8Array.from({ length: to - from }, (_, index) => {
      const at = from + index;
      return (Math.imul(at ^ seed, 0x9e3779b1) >>> 24) & 0xff;
    });
  }
}
