/**
 * The checkpoint frame's two sides without a VM: guests are MemoryEngines, disks and networks write what they are told
 * into a journal that both sides share.
 */
import type { Socket } from 'node:net';
import { Deferred } from '../../../src/base/async.ts';
import type { CheckpointParticipant } from '../../../src/base/participant.ts';
import { CheckpointChannel } from '../../../src/checkpoint/channel.ts';
import type { CheckpointRecord, ProtectedGuest } from '../../../src/checkpoint/guest.ts';
import type { Hello } from '../../../src/checkpoint/messages.ts';
import { receiveMachine, sendMachine } from '../../../src/checkpoint/migration.ts';
import { ColoPrimary } from '../../../src/checkpoint/primary.ts';
import type { PrimaryHooks, PrimaryOptions } from '../../../src/checkpoint/primary.ts';
import { ColoSecondary } from '../../../src/checkpoint/secondary.ts';
import { MemoryEngine } from '../../helpers/memory-engine.ts';

/** A participant that writes what it is told into a journal shared by both sides. */
export class Journal implements CheckpointParticipant {
  readonly participantName: string;
  readonly lines: string[];
  failure: Error | null = null;
  /** Verbs that fail, as `primary commit`. */
  readonly failing = new Set<string>();
  /** Awaited in each verb that may wait. */
  onVerb: (what: string) => Promise<void> | void = () => undefined;

  constructor(name: string, lines: string[]) {
    this.participantName = name;
    this.lines = lines;
  }

  start = (role: string) => this.#log(role, 'start');
  stopped(role: string) {
    this.lines.push(`${role} ${this.participantName} stopped`);
    return [{ stream: `${role}-stream`, bytes: 7 }];
  }
  peerMarks = (role: string, marks: readonly { stream: string }[]) =>
    this.#log(role, `marks ${marks.map((mark) => mark.stream).join()}`);
  commit = (role: string) => this.#log(role, 'commit');
  stop = (role: string, failover: boolean) => this.#log(role, `stop ${failover ? 'failover' : 'error'}`);
  error = () => this.failure;

  async #log(role: string, what: string): Promise<void> {
    this.lines.push(`${role} ${this.participantName} ${what}`);
    await this.onVerb(`${role} ${what}`);
    if (this.failing.has(`${role} ${what}`)) throw new Error(`${role} ${what} failed`);
  }
}

export interface Side {
  engine: MemoryEngine;
  guest: ProtectedGuest;
  disk: Journal;
  net: Journal;
}

export function side(lines: string[], pages = 16): Side {
  const engine = new MemoryEngine(pages);
  const disk = new Journal('disk', lines);
  const net = new Journal('net', lines);
  const guest: ProtectedGuest = {
    engine,
    pause: () => engine.pause(),
    resume: (lateMs) => engine.resume(lateMs),
    disks: () => [disk],
    networks: () => [net],
  };
  return { engine, guest, disk, net };
}

export function hello(engine: MemoryEngine, colo = true): Hello {
  return {
    engine: 'memory',
    buildId: engine.buildId,
    ramBytes: engine.ramBytes,
    colo,
    disks: [{ id: 'd0', lengthBytes: 1 << 20 }],
    nics: [{ id: 'n0' }],
  };
}

export interface Pair {
  p: Side;
  s: Side;
  lines: string[];
  primary: ColoPrimary;
  secondary: ColoSecondary;
  records: CheckpointRecord[];
  exits: string[];
  errors: (Error | null)[];
  /** What the primary was told about being heard. */
  heard: boolean[];
  heardNext(): Promise<void>;
  /** Asks for a checkpoint and waits until the primary has taken one. */
  checkpoint(): Promise<void>;
  /** Resolves after `count` further checkpoints, whoever asked for them. */
  checkpoints(count: number): Promise<void>;
  close(): void;
}

export interface PairOptions {
  readonly patienceMs?: number;
  readonly delayMs?: number;
  readonly primary?: PrimaryOptions;
  /** The secondary's clock. */
  readonly now?: () => number;
  /** What the primary is told about being heard, as it is told. */
  readonly onHeard?: (isHeard: boolean) => void;
  /** Called when both sides are made and nothing has been sent. */
  readonly prepare?: (p: Side, s: Side) => void;
  /** Called when the loops begin. */
  readonly onMade?: (pair: Pair) => void;
}

export interface Sockets {
  left: Socket;
  right: Socket;
  close(): void;
}

/** Both guests run when it resolves. */
export async function protect(sockets: Sockets, options: PairOptions = {}): Promise<Pair> {
  const { patienceMs = 60_000, delayMs = 3_600_000 } = options;
  const lines: string[] = [];
  const p = side(lines);
  const s = side(lines);
  p.engine.ram[5000] = 42;
  p.engine.device = 1;
  p.engine.state = 'running';
  options.prepare?.(p, s);
  const pc = new CheckpointChannel(sockets.left, { patienceMs });
  const sc = new CheckpointChannel(sockets.right, { patienceMs });
  await Promise.all([
    sendMachine(p.guest, pc, hello(p.engine)),
    receiveMachine(s.guest, sc, () => hello(s.engine)),
  ]);
  const records: CheckpointRecord[] = [];
  const exits: string[] = [];
  const errors: (Error | null)[] = [];
  const heard: boolean[] = [];
  let onHeard = new Deferred<void>();
  let waiters: { count: number; done: Deferred<void> }[] = [];
  const hooks: PrimaryHooks = {
    onExit: (reason, error) => {
      exits.push(`primary ${reason}`);
      errors.push(error);
    },
    onHeard: (isHeard) => {
      heard.push(isHeard);
      options.onHeard?.(isHeard);
      onHeard.resolve();
    },
    onCheckpoint: (record) => {
      records.push(record);
      for (const waiter of waiters) if (--waiter.count === 0) waiter.done.resolve();
      waiters = waiters.filter(({ count }) => count > 0);
    },
  };
  const primary = new ColoPrimary(p.guest, pc, delayMs, hooks, options.primary);
  const secondary = new ColoSecondary(
    s.guest,
    sc,
    {
      onExit: (reason) => exits.push(`secondary ${reason}`),
    },
    options.now,
  );
  const running = new Deferred<void>();
  const resume = p.guest.resume.bind(p.guest);
  p.guest.resume = async () => {
    await resume();
    running.resolve();
  };
  const checkpoints = (count: number): Promise<void> => {
    const done = new Deferred<void>();
    waiters.push({ count, done });
    return done.promise;
  };
  const pair: Pair = {
    p,
    s,
    lines,
    primary,
    secondary,
    records,
    exits,
    errors,
    heard,
    heardNext: () => {
      onHeard = new Deferred<void>();
      return onHeard.promise;
    },
    checkpoint: () => {
      const taken = checkpoints(1);
      primary.request('mismatch');
      return taken;
    },
    checkpoints,
    close: () => sockets.close(),
  };
  void secondary.run();
  void primary.run();
  options.onMade?.(pair);
  await running.promise;
  return pair;
}

/** Ends both sides' loops. */
export async function end(pair: Pair): Promise<void> {
  pair.close();
  await Promise.all([pair.primary.ended, pair.secondary.ended]);
}
