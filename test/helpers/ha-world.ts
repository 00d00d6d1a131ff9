/**
 * The world around two sides (src/ha/side.ts) for the model checker: an arbiter, messages, a guest's history, deaths.
 * `moves` lists everything that may happen next in a state, whatever it is. The sides are the real ones; the rest is as
 * hostile as it can be:
 *
 * - a request to the arbiter, once sent, may be carried out at any time from then on, any number of times, or never; its
 *   answer may arrive late, twice or never; the client may give up at any time (so an arbiter that is down or slow is
 *   one whose moves do not happen);
 * - messages of one connection between the sides likewise, in any order; those of an ended connection are gone;
 * - a side may suspect its peer at any time, die at any time and be started again from its disk, freeze and revive. One
 *   that is frozen is one whose moves do not happen, until it learns that it stood still; one that is dead is one that
 *   was started anew and does nothing.
 *
 * A guest is its history: a letter for each thing that it did. What the world was told is the beginning of every story;
 * so a history is kept as what comes after it, BEHIND when it lacks some of it, FORKED when it contradicts it. What a
 * side tells must go on from there, or repeat it: else two have spoken.
 *
 * `tidy` makes states that differ in names only one and the same: epochs are counted from the record's, nonces are
 * numbered as they occur, a record that was replaced is just old. So nothing bounds how often sides die, freeze, revive,
 * ask and take over; the only bounds are those of `Bounds`.
 */
import { judge, type ArbiterRecord, type Proposal, type RecordId } from '../../src/ha/arbiter/arbiter.ts';
import {
  newSide,
  outputOf,
  step,
  type Action,
  type Event,
  type Rules,
  type Side,
} from '../../src/ha/side.ts';

export interface Bounds {
  /** Things that a guest does beyond what the world was told. */
  readonly ahead: number;
}

const BEHIND = '-';
const FORKED = '!';
/** The record's epoch in a tidy state; OLD stands for every epoch that has no effect any more. */
const NOW = 10;
const OLD = 1;

export interface Host {
  readonly side: Side;
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
  readonly broken: string | null;
}

export interface Move {
  readonly name: string;
  readonly after: World;
  /** Part of a world in which nothing fails any more. */
  readonly isBenign: boolean;
  readonly isStart: boolean;
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
    side: newSide(IDS[at], IDS[at]),
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

  moves(world: World): Move[] {
    const moves: Move[] = [];
    const add = (name: string, after: World, isBenign = true, isStart = false): void => {
      moves.push({ name, after: tidy(after), isBenign, isStart });
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
    if (side.phase !== 'idle' || call) add(`${id} dies`, put(world, at, dead(host)), false);
    const speaks = ['arming', 'pairing', 'primary'].includes(side.phase);
    const messages = world.messages.map((message) =>
      speaks && message.session === host.session ? { ...message, isOld: true } : message,
    );
    const revived = put({ ...world, messages }, at, { ...host, isFresh: !speaks });
    add(`${id} freezes and revives`, this.#event(revived, at, { type: 'revived' }), false);

    const event = (next: Event, isBenign = true): void =>
      add(`${id}: ${next.type}`, this.#event(world, at, next), isBenign, next.type === 'start');
    if (side.phase === 'idle') event({ type: 'start' });
    if (host.session !== null) {
      event({ type: 'peer-lost' }, other.session !== host.session);
    }
    if (side.phase === 'alone' && other.side.phase === 'idle') {
      add(`${id} invites`, this.#connect(world, at));
    }
    if (call) {
      if (call.nonce === null) {
        const answer: Answer = { to: at, nonce: null, is: 'record', record: world.record };
        if (!world.answers.some(({ to, is }) => to === at && is === 'record')) {
          add(`${id} reads`, { ...world, answers: [...world.answers, answer] });
        }
      } else {
        if (!call.isSent && side.swap) {
          const request: SwapRequest = { expected: side.swap.expected, next: side.swap.next, by: at };
          const sent = put(world, at, { ...host, call: { ...call, isSent: true } });
          add(`${id} sends`, { ...sent, requests: [...world.requests, request] });
        }
        event({ type: 'unreachable', nonce: call.nonce, mayHaveHappened: call.isSent }, false);
      }
    }
    for (const answer of world.answers) {
      if (answer.to !== at) continue;
      if (answer.is === 'won') event({ type: 'won', record: answer.record });
      else if (answer.is === 'record') event({ type: 'record', record: answer.record });
      else event({ type: 'lost', nonce: answer.nonce!, current: answer.record });
    }
    const { history } = host;
    if (side.phase === 'alone') add(`${id} speaks`, tell(world, at, (history ?? BEHIND) + id));
    if (side.phase === 'primary' && host.session !== null && side.known && isWhole(history)) {
      if (history.length >= this.#bounds.ahead) return;
      const longer = history + id;
      const message = this.#message(at, host.session, longer, side.known);
      const done = put(world, at, { ...host, history: longer });
      add(`${id} acts`, { ...done, messages: [...world.messages, message] });
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
      return { ...world, answers: [...world.answers, { ...to, is: 'lost', record: null }] };
    }
    const answers = [...world.answers, { ...to, is: 'won' as const, record: result.record }];
    return { ...world, answers, record: isNew ? result.record : world.record };
  }

  #deliver(world: World, message: Message, add: (name: string, after: World) => void): void {
    const { to: at, session, history } = message;
    const host = world.hosts[at];
    if (message.kind === 'state') {
      const isLonger = !isWhole(host.history) || (isWhole(history) && history.length > host.history.length);
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
      after = tell(after, at, history);
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
    // Being slow is not doing anything: that needs no state of its own.
    if (side.phase === 'stopping') return this.#event(after, at, { type: 'guest-stopped' });
    if (actions.some(({ type }) => type === 'back-off')) return this.#event(after, at, { type: 'retry' });
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
        if (host.history === null)
          return breakAt(world, `${host.side.id} sends a guest that it does not have`);
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

/** The same for equal states, and for no others. Written for speed: it is asked for every move. */
export function textOf(world: World): string {
  const { record, hosts, requests, answers, messages } = world;
  let text = `${textOfId(record)}${textOfProposal(record)};${textOfHost(hosts[0])};${textOfHost(hosts[1])}`;
  for (const request of requests) text += `;${textOfRequest(request)}`;
  text += ';/';
  for (const answer of answers) text += `;${textOfAnswer(answer)}`;
  text += ';/';
  for (const message of messages) text += `;${textOfMessage(message)}`;
  return `${text};${world.broken ?? ''}`;
}

function textOfRequest({ by, expected, next }: SwapRequest): string {
  return `${by}${textOfId(expected)}>${textOfProposal(next)}`;
}

function textOfAnswer({ to, nonce, is, record }: Answer): string {
  return `${to}${nonce ?? 'r'}${is}${textOfId(record)}${record ? textOfProposal(record) : ''}`;
}

function textOfMessage({ to, kind, session, history, pairing, isOld }: Message): string {
  return `${to}${kind}${session}${history}${textOfId(pairing)}${+isOld}`;
}

function textOfId(id: RecordId | null): string {
  return id === null ? '' : `${id.epoch}${id.nonce}`;
}

function textOfProposal({ nonce, holder, members }: Proposal): string {
  return `${nonce}${holder ?? '0'}${members.length === 1 ? members[0]! : members.join('')}`;
}

function textOfHost({ side, history, session, call, isFresh }: Host): string {
  const { swap } = side;
  let text = `${side.phase},${textOfId(side.known)},${side.peer ?? ''},`;
  if (swap) {
    text +=
      `${textOfId(swap.expected)}>${textOfProposal(swap.next)}` +
      `${+swap.mayHaveHappened}${+swap.isPeerLost}${+swap.isFromDisk}`;
  }
  text += `,${+side.isAnswered},${history ?? '0'},${session ?? ''},`;
  return `${text}${call ? `${call.nonce ?? 'r'}${+call.isSent}` : ''},${+isFresh}`;
}

/** What is wrong in a state, or null. */
export function fault(world: World): string | null {
  if (world.broken !== null) return world.broken;
  const free = world.hosts.filter(({ side }) => outputOf(side) === 'free');
  if (free.length > 1) return 'both speak alone';
  for (const { side, history } of free) {
    if (!isWhole(history)) return `${side.id} speaks alone and lacks what the world was told`;
    if (world.record.holder !== side.id) return `${side.id} speaks alone, and the record does not say so`;
  }
  for (const member of world.record.members) {
    const { history } = world.hosts[member === 'a' ? 0 : 1];
    if (!isWhole(history)) return `member ${member} lacks what the world was told`;
  }
  return null;
}

/** Somebody is there for the world. */
export function isServed(world: World): boolean {
  const [a, b] = world.hosts;
  if ([a, b].some(({ side }) => side.phase === 'alone')) return true;
  if (a.session === null || a.session !== b.session) return false;
  const primary = a.side.phase === 'primary' ? a.side : b.side;
  const secondary = primary === a.side ? b.side : a.side;
  return outputOf(primary) === 'agreed' && secondary.phase === 'secondary';
}

/** One that is dead is as one that was started again and does nothing. */
function dead(host: Host): Host {
  return { ...host, side: newSide(host.side.id, host.side.id), session: null, call: null, isFresh: true };
}

function put(world: World, at: 0 | 1, host: Host): World {
  const { record, requests, answers, messages, broken } = world;
  const hosts = at === 0 ? ([host, world.hosts[1]] as const) : ([world.hosts[0], host] as const);
  return { hosts, record, requests, answers, messages, broken };
}

function breakAt(world: World, broken: string): World {
  return { ...world, broken };
}

function isWhole(history: string | null): history is string {
  return history !== null && !history.startsWith(BEHIND) && !history.startsWith(FORKED);
}

/** The world hears `story` (after what it has been told): every other history is now seen from there. */
function tell(world: World, at: 0 | 1, story: string): World {
  if (story === BEHIND || story === '') return world;
  if (!isWhole(story)) return breakAt(world, 'two stories were told');
  const since = <T extends string | null>(history: T): T | string => {
    if (!isWhole(history)) return history;
    if (history.startsWith(story)) return history.slice(story.length);
    return story.startsWith(history) ? BEHIND : FORKED;
  };
  const hosts = world.hosts.map((host, index) => {
    const speaker = index === at && host.side.phase === 'alone';
    return { ...host, history: speaker ? '' : since(host.history) };
  });
  const messages = world.messages.map((message) => ({ ...message, history: since(message.history) }));
  return { ...world, hosts: hosts as unknown as [Host, Host], messages };
}

/** Of a connection that is still up at the receiver's; says something new, or is still waited for. */
function hasEffect({ hosts }: World, { to, session, kind, history, isOld }: Message): boolean {
  if (hosts[to].session !== session) return false;
  if (history !== '' && history !== BEHIND) return true;
  const primary = hosts[kind === 'state' ? 1 - to : to]!;
  const secondary = hosts[kind === 'state' ? to : 1 - to]!;
  if (kind === 'state' && secondary.side.phase !== 'secondary') return true;
  if (primary.session !== session) return false;
  if (primary.side.phase === 'arming') return true;
  return !isOld && !(primary.side.isAnswered && primary.isFresh);
}

/** Without what can have no effect any more, each thing once, in one order, with plain names. */
export function tidy(world: World): World {
  const names = new Names(world.record.epoch);
  const record = names.record(world.record);
  const hosts: readonly [Host, Host] = [names.host(world.hosts[0]), names.host(world.hosts[1])];
  const requests = world.requests.length === 0 ? world.requests : plain(world, names);
  const answers = world.answers
    .filter(({ to, nonce }) => waitsFor(world, to, nonce))
    .map((answer) => names.answer(answer));
  const messages = world.messages
    .filter((message) => hasEffect(world, message))
    .map((message) => names.message(message));
  return {
    hosts,
    record,
    requests: unique(requests, textOfRequest),
    answers: unique(answers, textOfAnswer),
    messages: unique(messages, textOfMessage),
    broken: world.broken,
  };
}

function waitsFor({ hosts }: World, at: 0 | 1, nonce: string | null): boolean {
  const { call } = hosts[at];
  return call !== null && call.nonce === nonce && (nonce === null || call.isSent);
}

/** Gives names in the order in which they are asked for, and counts epochs from the record's. */
class Names {
  readonly epoch: number;
  readonly #names = new Map<string, string>();

  constructor(epoch: number) {
    this.epoch = epoch;
  }

  known(nonce: string): string | undefined {
    return this.#names.get(nonce);
  }

  name(nonce: string): string {
    let known = this.#names.get(nonce);
    if (known === undefined) {
      known = `n${this.#names.size}`;
      this.#names.set(nonce, known);
    }
    return known;
  }

  id({ epoch, nonce }: RecordId): RecordId {
    if (epoch >= this.epoch) return { epoch: epoch - this.epoch + NOW, nonce: this.name(nonce) };
    return { epoch: epoch === this.epoch - 1 ? NOW - 1 : OLD, nonce: 'old' };
  }

  record(record: ArbiterRecord): ArbiterRecord {
    const { epoch, nonce } = this.id(record);
    return withId(record, epoch, nonce);
  }

  host(host: Host): Host {
    const { side, session, call } = host;
    const { id, incarnation, phase, peer, swap, isAnswered } = side;
    const renamed = swap && {
      expected: this.id(swap.expected),
      next: withNonce(swap.next, this.name(swap.next.nonce)),
      // Who asks to be alone does not look at it.
      mayHaveHappened: swap.mayHaveHappened && phase === 'pairing',
      isPeerLost: swap.isPeerLost,
      isFromDisk: swap.isFromDisk,
    };
    const known = side.known && this.id(side.known);
    return {
      side: { id, incarnation, phase, known, peer, swap: renamed, isAnswered, asked: 0 },
      history: host.history,
      session: session === null ? null : this.name(session),
      call: call && { nonce: call.nonce === null ? null : this.name(call.nonce), isSent: call.isSent },
      isFresh: host.isFresh,
    };
  }

  answer(answer: Answer): Answer {
    const { to, is, record } = answer;
    const nonce = answer.nonce === null ? null : this.name(answer.nonce);
    if (is !== 'won') return { to, nonce, is, record: record && this.record(record) };
    // One that was won and replaced since is still recognised by its nonce.
    const { epoch } = this.id(record);
    return { to, nonce, is, record: withId(record, epoch, this.name(record.nonce)) };
  }

  message(message: Message): Message {
    const { to, kind, history, isOld } = message;
    const session = this.name(message.session);
    return { to, kind, session, history, pairing: this.id(message.pairing), isOld };
  }
}

function withId(record: ArbiterRecord, epoch: number, nonce: string): ArbiterRecord {
  const { vm, holder, members, data } = record;
  return { version: 1, vm, epoch, nonce, holder, members, data };
}

function withNonce({ holder, members, data }: Proposal, nonce: string): Proposal {
  return { nonce, holder, members, data };
}

/**
 * Swaps whose senders have given them up are named by what they do: of those that do the same, one stands for all, since
 * only one could be won. A record that no host knows and no swap leads to is just gone.
 */
function plain(world: World, names: Names): SwapRequest[] {
  const { epoch } = names;
  const requests = world.requests.filter(
    ({ by, expected, next }) => expected.epoch >= epoch || waitsFor(world, by, next.nonce),
  );
  return requests.map((request) => {
    const { expected, next } = request;
    const isOld = expected.epoch < epoch;
    return {
      by: request.by,
      expected: {
        epoch: Math.max(OLD, expected.epoch - epoch + NOW),
        nonce: isOld ? 'old' : plainName(requests, names, expected.nonce),
      },
      next: withNonce(next, plainName(requests, names, next.nonce)),
    };
  });
}

function plainName(requests: readonly SwapRequest[], names: Names, nonce: string): string {
  const known = names.known(nonce);
  if (known !== undefined) return known;
  const maker = requests.find(({ next }) => next.nonce === nonce);
  if (!maker) return 'gone';
  const { by, expected, next } = maker;
  const before = plainName(requests, names, expected.nonce);
  return `(${by}${expected.epoch - names.epoch}${before}${next.holder ?? '0'}${next.members.join('')})`;
}

/** Each once, in the order of their texts. There are few. */
function unique<T>(items: readonly T[], textOfItem: (item: T) => string): readonly T[] {
  if (items.length < 2) return items;
  const texts: string[] = [];
  const sorted: T[] = [];
  for (const item of items) {
    const text = textOfItem(item);
    let at = 0;
    while (at < texts.length && texts[at]! < text) at++;
    if (texts[at] === text) continue;
    texts.splice(at, 0, text);
    sorted.splice(at, 0, item);
  }
  return sorted;
}
