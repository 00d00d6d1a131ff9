/**
 * A cable in user space, for what the kernel here has no queueing discipline for: two TAP devices, and every frame that
 * enters one leaves the other after `delayMs` and up to `jitterMs` more, each by itself, so that frames overtake each
 * other. Arguments: the two names. Says `ready`, takes
 * lines of JSON on standard input and says `set` to each, and ends with it.
 */
import { createInterface } from 'node:readline';
import { TapDevice } from '../../src/net/netdevs/tap-device.ts';
import type { WireState } from './netns.ts';

/** Frames under way in one direction; more are dropped, as a queue does. */
const MAX_UNDER_WAY = 4096;

const [, , one = '', other = ''] = process.argv;
let state: WireState = {};

class End {
  readonly tap: TapDevice;
  peer: End | null = null;
  #underWay = 0;

  constructor(name: string) {
    this.tap = new TapDevice({ name, onFrame: (frame) => this.#pass(frame) });
  }

  #pass(frame: Uint8Array): void {
    const { delayMs = 0, jitterMs = 0 } = state;
    const waitMs = delayMs + Math.random() * jitterMs;
    if (waitMs < 1) {
      this.peer?.tap.send(frame);
      return;
    }
    if (this.#underWay >= MAX_UNDER_WAY) return;
    this.#underWay++;
    const copy = Uint8Array.from(frame);
    setTimeout(() => {
      this.#underWay--;
      this.peer?.tap.send(copy);
    }, waitMs);
  }
}

const ends = [new End(one), new End(other)] as const;
ends[0].peer = ends[1];
ends[1].peer = ends[0];
createInterface({ input: process.stdin })
  .on('line', (line) => {
    state = JSON.parse(line) as WireState;
    console.log('set');
  })
  .on('close', () => process.exit());
console.log('ready');
