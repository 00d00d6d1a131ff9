/**
 * The world around two sides (src/ha/side.ts) for the model checker: an arbiter, messages, a guest's history, deaths.
 * `moves` lists everything that may happen next in a state, whatever it is. The sides are the real ones; the rest is as
 * hostile as it can be:
 *
 * - a request to the arbiter, once sent, may be carried out at any time from then on, any number of times, or never; its
 *   answer may arrive late, twice or never; the client may give up at any time (so an arbiter that is down or slow is
 *   one whose moves do not happen);
 * - messages of one connection between the sides likewise, in any order; those of an ended connection are gone;
 * - a side may suspect its peer at any time, die at any time and be started again from its disk, freeze and revive.
 *
 * A guest is its history: a string with a letter for each thing that it did. `told` is what the world has heard. What a
 * side tells must go on from that, or repeat it: else two have spoken.
 */
import { judge, type ArbiterRecord, type Proposal, type RecordId } from '../../src/ha/arbiter/arbiter.ts';
import { newSide, outputOf, step, type Action, type Event, type Rules, type Side } from '../../src/ha/side.ts';

export interface Bounds {
  /** Of the record; no swap is asked for beyond. */
  readonly epochs: number;
  /** Things that the guest does. */
  readonly history: number;
  /** Lives of each side: 2 means one restart. */
  readonly lives: number;
  /** Swaps that one life of a side asks for. */
  readonly asks: number;
}

export interface Host {
  readonly side: Side;
  readonly life: number;
  readonly is: 'up' | 'frozen' | 'dead';
  /** What its copy of the guest has done; null while it is being overwritten. */
  readonly history: string | null;
  /** The connection to the peer, by the nonce of the pairing. */
  readonly session: string | null;
  readonly call: { readonly nonce: string | null; readonly isSent: boolean } | null;
  /** Not revived since the peer last answered something asked after that. Only for the check. */
  readonly isFresh: boolean;
}

interface SwapRequest {
  readonly expected: RecordId;
  readonly next: Proposal;
  readonly by: 0 | 1;
}

type Answer = { readonly to: 0 | 1; readonly nonce: string | null } & (
  | { readonly is: 'won'; readonly record: ArbiterRecord }
  | { readonly is: 'lost' | 'record'; readonly record: ArbiterRecord | null }
);

/** To the secondary: a checkpoint, or packets to compare. To the primary: that it has as much. */
interface Message {
  readonly to: 0 | 1;
  readonly kind: 'state' | 'agreed';
  readonly session: string;
  readonly history: string;
  readonly pairing: RecordId;
  /** Asked for before the primary was last revived. */
  readonly isOld: boolean;
}

export interface World {
  readonly hosts: readonly [Host, Host];
  readonly record: ArbiterRecord;
  readonly requests: readonly SwapRequest[];
  readonly answers: readonly Answer[];
  readonly messages: readonly Message[];
  readonly told: string;
  readonly broken: string | null;
}

export interface Move {
  readonly name: string;
  readonly after: World;
  /** Part of a world in which nothing fails any more. */
  readonly isBenign: boolean;
  readonly isRestart: boolean;
}

/** How the arbiter decides; the model is also run with wrong ones. */
export type Judge = typeof judge;

const VM = 'vm';
const IDS = ['a', 'b'] as const;

export function firstWorld(): World {
  const record: ArbiterRecord = {
    version: 1,
    vm: VM,
    epoch: 1,
    nonce: 'first',
    holder: 'a',
    members: ['a'],
    data: {},
  };
  const host = (at: 0 | 1, history: string | null): Host => ({
    side: newSide(IDS[at], `${IDS[at]}1`),
    life: 1,
    is: 'up',
    history,
    session: null,
    call: null,
    isFresh: true,
  });
  return {
    hosts: [host(0, ''), host(1, null)],
    record,
    requests: [],
    answers: [],
    messages: [],
    told: '',
    broken: null,
  };
}

export class WorldRules {
  readonly #rules: Rules;
  readonly #judge: Judge;
  readonly #bounds: Bounds;

  constructor(bounds: Bounds, rules: Rules, arbiter: Judge = judge) {
    this.#bounds = bounds;
    this.#rules = rules;
    this.#judge = arbiter;
  }

  /** Whether a bound keeps something from happening here: what cannot be reached from it says nothing. */
  isCutOff(world: World): boolean {
    return (
      world.record.epoch >= this.#bounds.epochs ||
      world.hosts.some(
        ({ side, is, life }) =>
          side.asked >= this.#bounds.asks || (is === 'dead' && life >= this.#bounds.lives),
      )
    );
  }

  moves(world: World): Move[] {
    const moves: Move[] = [];
    const add = (name: string, after: World, isBenign = true, isRestart = false): void => {
      moves.push({ name, after: tidy(after), isBenign, isRestart });
    };
    for (const at of [0, 1] as const) this.#movesOf(world, at, add);
    for (const request of world.requests) add(`swap ${request.next.nonce}`, this.#carryOut(world, request));
    for (const message of world.messages) this.#deliver(world, message, add);
    return moves;
  }

  #movesOf(world: World, at: 0 | 1, add: (name: string, after: World, ...flags: boolean[]) => void): void {
    const host = world.hosts[at];
    const other = world.hosts[1 - at]!;
    const { side, call } = host;
    const id = side.id;
    if (host.is === 'dead') {
      if (host.life < this.#bounds.lives) {
        const life = host.life + 1;
        const born: Host = { ...host, side: newSide(id, `${id}${life}`), life, is: 'up', isFresh: true };
        add(`${id} restarts`, put(world, at, born), true, true);
      }
      return;
    }
    const dead: Host = {
      ...host,
      is: 'dead',
      side: newSide(id, `${id}${host.life}`),
      session: null,
      call: null,
    };
    add(`${id} dies`, put(world, at, dead), false);
    if (host.is === 'frozen') {
      const messages = world.messages.map((message) =>
        message.session === host.session ? { ...message, isOld: true } : message,
      );
      const revived = put({ ...world, messages }, at, { ...host, is: 'up', isFresh: false });
      add(`${id} revives`, this.#event(revived, at, { type: 'revived' }));
      return;
    }
    add(`${id} freezes`, put(world, at, { ...host, is: 'frozen' }), false);

    const event = (next: Event, isBenign = true): void =>
      add(`${id}: ${next.type}`, this.#event(world, at, next), isBenign);
    const mayAsk = side.asked < this.#bounds.asks && world.record.epoch < this.#bounds.epochs;
    if (mayAsk && side.phase === 'idle') event({ type: 'start' });
    if (side.phase === 'stopping') event({ type: 'guest-stopped' });
    if (mayAsk && host.session !== null) {
      const isGone = other.is !== 'up' || other.session !== host.session;
      event({ type: 'peer-lost' }, isGone);
    }
    if (mayAsk && side.phase === 'alone' && other.is === 'up' && other.side.phase === 'idle') {
      add(`${id} invites`, this.#connect(world, at));
    }
    if (call) {
      if (call.nonce === null) {
        const answer: Answer = { to: at, nonce: null, is: 'record', record: world.record };
        add(`${id} reads`, { ...world, answers: [...world.answers, answer] });
        event({ type: 'read-failed' }, false);
      } else {
        if (!call.isSent && side.swap) {
          const request: SwapRequest = { expected: side.swap.expected, next: side.swap.next, by: at };
          const sent = put(world, at, { ...host, call: { ...call, isSent: true } });
          add(`${id} sends`, { ...sent, requests: [...world.requests, request] });
        }
        event({ type: 'unreachable', nonce: call.nonce, mayHaveHappened: call.isSent }, false);
      }
    } else if (side.phase === 'asking' || side.phase === 'pairing' || side.phase === 'reading') {
      event({ type: 'retry' });
    }
    for (const answer of world.answers) {
      if (answer.to !== at) continue;
      if (answer.is === 'won') event({ type: 'won', record: answer.record });
      else if (answer.is === 'record') event({ type: 'record', record: answer.record });
      else event({ type: 'lost', nonce: answer.nonce!, current: answer.record });
    }
    if (host.history !== null && host.history.length < this.#bounds.history) {
      const history = host.history + id;
      const done = put(world, at, { ...host, history });
      if (side.phase === 'alone') add(`${id} speaks`, tell(done, history));
      if (side.phase === 'primary' && host.session !== null && side.known) {
        const message = this.#message(at, host.session, history, side.known);
        add(`${id} acts`, { ...done, messages: [...world.messages, message] });
      }
    }
  }

  #connect(world: World, at: 0 | 1): World {
    const peerAt = at === 0 ? 1 : 0;
    const host = world.hosts[at];
    const session = `${host.side.incarnation}.${host.side.asked + 1}`;
    const guest: Host = { ...world.hosts[peerAt], session, history: null };
    const joined = this.#event(put(world, peerAt, guest), peerAt, { type: 'invited', peer: host.side.id });
    return this.#event(put(joined, at, { ...host, session }), at, {
      type: 'peer-ready',
      peer: guest.side.id,
    });
  }

  #carryOut(world: World, request: SwapRequest): World {
    const { isNew, ...result } = this.#judge(VM, world.record, request.expected, request.next);
    const to = { to: request.by, nonce: request.next.nonce };
    if (result.outcome === 'lost') {
      return { ...world, answers: [...world.answers, { ...to, is: 'lost', record: result.current }] };
    }
    const answers = [...world.answers, { ...to, is: 'won' as const, record: result.record }];
    return { ...world, answers, record: isNew ? result.record : world.record };
  }

  #deliver(world: World, message: Message, add: (name: string, after: World) => void): void {
    const { to: at, session, history } = message;
    const host = world.hosts[at];
    if (host.is !== 'up') return;
    if (message.kind === 'state') {
      const isLonger = host.history === null || history.length > host.history.length;
      let after = isLonger ? put(world, at, { ...host, history }) : world;
      if (host.side.phase === 'joining') {
        after = this.#event(after, at, { type: 'checkpoint-loaded', pairing: message.pairing });
      }
      // A side that goes on alone has closed the connection, and says nothing on it.
      if (after.hosts[at].side.phase === 'secondary') {
        const answer: Message = { ...message, to: at === 0 ? 1 : 0, kind: 'agreed' };
        after = { ...after, messages: [...after.messages, answer] };
      }
      add(`${host.side.id} receives ${session}:${history}`, after);
      return;
    }
    let after = world;
    if (!message.isOld) {
      after = put(after, at, { ...host, isFresh: true });
      after = this.#event(after, at, { type: 'peer-answered' });
    }
    if (host.side.phase === 'arming') {
      // Nobody could have taken over yet: what it slept through before this does not matter.
      after = put(after, at, { ...after.hosts[at], isFresh: true });
      after = this.#event(after, at, { type: 'checkpoint-confirmed' });
    }
    const now = after.hosts[at];
    if (outputOf(now.side) === 'agreed') {
      after = tell(after, history);
      if (!now.isFresh) after = breakAt(after, `${now.side.id} spoke after it was revived, before it knew`);
    }
    add(`${host.side.id} hears ${session}:${history}`, after);
  }

  #message(from: 0 | 1, session: string, history: string, pairing: RecordId): Message {
    return { to: from === 0 ? 1 : 0, kind: 'state', session, history, pairing, isOld: false };
  }

  #event(world: World, at: 0 | 1, event: Event): World {
    const host = world.hosts[at];
    const { side, actions } = step(host.side, event, this.#rules);
    const isAnswer = ['won', 'lost', 'unreachable', 'record', 'read-failed'].includes(event.type);
    const hangsUp = ['idle', 'stopping', 'asking', 'alone'].includes(side.phase);
    const isCut = hangsUp || event.type === 'peer-lost' || side.swap?.isPeerLost === true;
    let after = put(world, at, {
      ...host,
      side,
      call: isAnswer || side.phase === 'idle' || side.phase === 'stopping' ? null : host.call,
      session: isCut ? null : host.session,
    });
    for (const action of actions) after = this.#act(after, at, action);
    return after;
  }

  #act(world: World, at: 0 | 1, action: Action): World {
    const host = world.hosts[at];
    switch (action.type) {
      case 'read':
        return put(world, at, { ...host, call: { nonce: null, isSent: false } });
      case 'swap':
        return put(world, at, { ...host, call: { nonce: action.next.nonce, isSent: false } });
      case 'checkpoint': {
        if (host.history === null) return breakAt(world, `${host.side.id} sends a guest that it does not have`);
        const message = this.#message(at, action.pairing.nonce, host.history, action.pairing);
        return { ...world, messages: [...world.messages, message] };
      }
      case 'ask-peer': {
        const { side, session, history } = host;
        if (session === null || history === null) return world;
        const pairing = side.known!;
        return { ...world, messages: [...world.messages, this.#message(at, session, history, pairing)] };
      }
      case 'take-over':
      case 'start-guest':
        return host.history === null ? breakAt(world, `${host.side.id} runs half a guest`) : world;
      default:
        return world;
    }
  }
}

/** What is wrong in a state, or null. */
export function fault(world: World): string | null {
  if (world.broken !== null) return world.broken;
  const free = world.hosts.filter(({ side }) => outputOf(side) === 'free');
  if (free.length > 1) return 'both speak alone';
  for (const { side, history } of free) {
    if (!history?.startsWith(world.told)) return `${side.id} speaks alone and lacks what the world was told`;
    if (world.record.holder !== side.id) return `${side.id} speaks alone, and the record does not say so`;
  }
  for (const member of world.record.members) {
    const { history } = world.hosts[member === 'a' ? 0 : 1];
    if (!history?.startsWith(world.told)) return `member ${member} lacks what the world was told`;
  }
  return null;
}

/** Somebody is there for the world. */
export function isServed(world: World): boolean {
  const [a, b] = world.hosts;
  if ([a, b].some(({ is, side }) => is === 'up' && side.phase === 'alone')) return true;
  if (a.is !== 'up' || b.is !== 'up' || a.session === null || a.session !== b.session) return false;
  const primary = a.side.phase === 'primary' ? a.side : b.side;
  const secondary = primary === a.side ? b.side : a.side;
  return outputOf(primary) === 'agreed' && secondary.phase === 'secondary';
}

function put(world: World, at: 0 | 1, host: Host): World {
  return { ...world, hosts: at === 0 ? [host, world.hosts[1]] : [world.hosts[0], host] };
}

function breakAt(world: World, broken: string): World {
  return { ...world, broken };
}

function tell(world: World, history: string): World {
  if (history.startsWith(world.told)) return { ...world, told: history };
  return world.told.startsWith(history) ? world : breakAt(world, 'two stories were told');
}

/** Without what can have no effect any more, each thing once, in one order: so that equal states look equal. */
function tidy(world: World): World {
  const waitsFor = (at: 0 | 1, nonce: string | null): boolean => {
    const { call } = world.hosts[at];
    return call !== null && call.nonce === nonce && (nonce === null || call.isSent);
  };
  const requests = world.requests.filter(
    ({ by, expected, next }) => expected.epoch >= world.record.epoch || waitsFor(by, next.nonce),
  );
  const answers = world.answers.filter(({ to, nonce }) => waitsFor(to, nonce));
  const messages = world.messages.filter(({ to, session }) => world.hosts[to].session === session);
  return { ...world, requests: unique(requests), answers: unique(answers), messages: unique(messages) };
}

function unique<T>(items: readonly T[]): readonly T[] {
  if (items.length < 2) return items;
  const byText = new Map(items.map((item) => [JSON.stringify(item), item]));
  return [...byText.keys()].toSorted().map((text) => byText.get(text)!);
}
