/**
 * The `quorum` driver: one disk kept on several children. Writes go to all of them and succeed when enough children
 * succeed; reads are voted on or taken from the first child that answers (`read-pattern=fifo`, which COLO uses).
 * Children come and go while requests run: one that is taken away no longer counts in requests it has not answered,
 * so a dead peer can be dropped although it never answers. Facts: docs/qemu-behaviour.md 5.6, 5.7; QEMU 7.2 asked.
 *
 * On purpose not as in QEMU: a child of another length is refused (QEMU 7.2 takes it and aborts at the first write
 * behind its end); a mismatch under blkverify is EIO, not the end of the process; flush asks all children at once.
 * Discard is passed on only while there is one child: several might read differently afterwards.
 *
 * A child that leads (driver.ts; replication on the primary) is written first, the others when it has ended. It never
 * says no and cannot be read, so it is a copy rather than a voter: a write that no other child could store fails (in
 * QEMU it succeeds, and the guest reads old data from then on).
 */
import { ColoError, ERRNO_TEXT, IoError, ParameterError, errnoOf } from '../../../base/errors.ts';
import type { BlockDriver, BlockExtent, WriteFlags } from '../../driver.ts';
import { RangeTracker } from '../../jobs/range-tracker.ts';
import type { RangeToken } from '../../jobs/range-tracker.ts';
import type { BlockNode } from '../../node.ts';
import { Ballot, agreedZeros, equalBytes, majorityError, sectors, voteContents } from './vote.ts';

export const MAX_CHILDREN = 32;

export type ReadPattern = 'quorum' | 'fifo';

interface Child {
  readonly name: string;
  readonly node: BlockNode;
}

export interface QuorumOptions {
  readonly nodeName: string;
  /** At least one; they get the names `children.0`, `children.1`… */
  readonly children: readonly BlockNode[];
  readonly voteThreshold: number;
  readonly readPattern?: ReadPattern;
  readonly blkverify?: boolean;
  readonly rewriteCorrupted?: boolean;
  readonly emit: (event: string, data: Record<string, unknown>) => void;
  /** The device that shows this node, if there is one: what QUORUM_FAILURE calls it. */
  readonly deviceName?: () => string | null;
}

const NOBODY: readonly Child[] = [];

type ReportType = 'read' | 'write' | 'flush';

export class QuorumDriver implements BlockDriver {
  readonly driverName = 'quorum';
  readonly voteThreshold: number;
  readonly readPattern: ReadPattern;
  readonly blkverify: boolean;
  readonly rewriteCorrupted: boolean;
  readonly #options: QuorumOptions;
  #list: Child[];
  #map: ReadonlyMap<string, BlockNode>;
  #nextIndex: number;
  /** Requests in flight, so that a child that goes can leave their count. */
  readonly #ballots = new Set<Ballot<Child>>();
  /** With rewrite-corrupted only: a rewrite must not undo a write that races with the read. */
  readonly #ranges = new RangeTracker();

  /** Throws ParameterError with QEMU's texts. */
  constructor(options: QuorumOptions) {
    const { children, voteThreshold } = options;
    this.#options = options;
    this.voteThreshold = voteThreshold;
    this.readPattern = options.readPattern ?? 'quorum';
    // QEMU reads both options for this pattern alone.
    this.blkverify = this.readPattern === 'quorum' && options.blkverify === true;
    this.rewriteCorrupted = this.readPattern === 'quorum' && options.rewriteCorrupted === true;
    if (children.length < 1) throw new ParameterError('Number of provided children must be 1 or more');
    if (children.length > MAX_CHILDREN) throw new ParameterError(`More than ${MAX_CHILDREN} children`);
    if (voteThreshold < 1) throw new ParameterError("Parameter 'vote-threshold' expects a value >= 1");
    if (voteThreshold > children.length) throw new ParameterError('threshold may not exceed children count');
    if (this.blkverify && !(children.length === 2 && voteThreshold === 2)) {
      throw new ParameterError(
        'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
      );
    }
    if (this.blkverify && this.rewriteCorrupted) {
      throw new ParameterError('rewrite-corrupted=on cannot be used with blkverify=on');
    }
    if (children.some((child) => child.lengthBytes !== children[0]?.lengthBytes)) {
      const sizes = children
        .map(({ lengthBytes }, at) => `children.${at} has ${lengthBytes} bytes`)
        .join(', ');
      throw new ParameterError(`Could not refresh total sector count: ${ERRNO_TEXT.EIO} (${sizes})`);
    }
    this.#list = children.map((node, index) => ({ name: `children.${index}`, node }));
    this.#nextIndex = children.length;
    this.#map = new Map();
    this.#setChildren(this.#list);
  }

  get lengthBytes(): number {
    return this.#first.node.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#first.node.readOnly;
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#map;
  }

  // --- children that come and go (5.7) ---

  /** Takes `node` in and returns its role's name; notes the reference in its users. Throws ColoError. */
  addChild(node: BlockNode): string {
    if (this.blkverify) throw new ColoError('Cannot add a child to a quorum in blkverify mode');
    if (this.#list.length >= MAX_CHILDREN)
      throw new ColoError(`Too many children; the limit is ${MAX_CHILDREN}`);
    // Whoever refers to a node as a parent or as a device (graph.ts: `PARENT/ROLE`, `drive:ID`) excludes others.
    if ([...node.users].some((user) => user.includes('/') || user.startsWith('drive:'))) {
      throw new ColoError(`The node ${node.nodeName} already has a parent`);
    }
    if (node.lengthBytes !== this.lengthBytes) {
      throw new ColoError(
        `Node '${node.nodeName}' has ${node.lengthBytes} bytes, but quorum '${this.#options.nodeName}' has ` +
          `${this.lengthBytes}; use an image of the same length`,
      );
    }
    const name = `children.${this.#nextIndex++}`;
    node.users.add(`${this.#options.nodeName}/${name}`);
    this.#setChildren([...this.#list, { name, node }]);
    return name;
  }

  /**
   * Takes the child out at once, even if it is stuck: requests that waited for it end by the others' votes. Returns
   * its node, of which it has dropped the reference. Throws ColoError.
   */
  removeChild(name: string): BlockNode {
    const child = this.#list.find((one) => one.name === name);
    if (!child) throw new ColoError(`Node '${this.#options.nodeName}' does not have child '${name}'`);
    if (this.#list.length <= this.voteThreshold) {
      throw new ColoError(
        `The number of children cannot be lower than the vote threshold ${this.voteThreshold}`,
      );
    }
    if (name === `children.${this.#nextIndex - 1}`) this.#nextIndex--;
    this.#setChildren(this.#list.filter((one) => one !== child));
    child.node.users.delete(`${this.#options.nodeName}/${name}`);
    for (const ballot of this.#ballots) ballot.leave(child);
    return child.node;
  }

  // --- requests ---

  async read(offset: number, target: Uint8Array): Promise<void> {
    if (this.readPattern === 'fifo') await this.#readFifo(offset, target);
    else if (this.rewriteCorrupted)
      await this.#alone(offset, target.byteLength, () => this.#readVote(offset, target));
    else await this.#readVote(offset, target);
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    await this.#mutate(offset, source.byteLength, (node) => node.write(offset, source, flags));
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    await this.#mutate(offset, length, (node) => node.writeZeroes(offset, length, flags));
  }

  async discard(offset: number, length: number): Promise<void> {
    if (this.#list.length === 1) await this.#first.node.discard(offset, length);
  }

  async flush(): Promise<void> {
    const ballot = await this.#ask((node) => node.flush(), 'flush', 0, 0);
    if (ballot.ok < this.voteThreshold)
      throw majorityError(ballot.errors, 'Too few children could be flushed');
  }

  /** fifo: as the child that reads come from says. Otherwise zero only where all agree. */
  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    if (this.readPattern === 'fifo') {
      let last: unknown;
      for (const child of this.#list) {
        try {
          return (await child.node.blockStatus(offset, length)).map((extent) => ({
            ...extent,
            allocated: true,
          }));
        } catch (error) {
          this.#reportBad('read', child, offset, length, error);
          last = error;
        }
      }
      throw last;
    }
    const answers = await Promise.all(
      this.#list.map((child) =>
        child.node.blockStatus(offset, length).catch((error: unknown) => {
          this.#reportBad('read', child, offset, length, error);
          return [];
        }),
      ),
    );
    return agreedZeros(answers, offset, length);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  // --- inside ---

  get #first(): Child {
    const [first] = this.#list;
    if (!first) throw new Error('a quorum has no child'); // the threshold is at least 1
    return first;
  }

  #setChildren(list: Child[]): void {
    this.#list = list;
    this.#map = new Map(list.map(({ name, node }) => [name, node]));
  }

  async #mutate(offset: number, length: number, act: (node: BlockNode) => Promise<void>): Promise<void> {
    if (this.rewriteCorrupted) await this.#alone(offset, length, () => this.#writeAll(offset, length, act));
    else await this.#writeAll(offset, length, act);
  }

  async #writeAll(offset: number, length: number, act: (node: BlockNode) => Promise<void>): Promise<void> {
    const leaders = this.#leaders();
    const ballot = await this.#ask(act, 'write', offset, length, leaders);
    if (ballot.ok >= this.voteThreshold && ballot.isStored) return;
    this.#reportFailure(offset, length);
    throw majorityError(ballot.errors, `Too few children of '${this.#options.nodeName}' could be written`);
  }

  /** Asks all children at once, but `leaders` before the others; each failure is reported when it comes. */
  async #ask(
    act: (node: BlockNode, child: Child) => Promise<void>,
    type: ReportType,
    offset: number,
    length: number,
    leaders: readonly Child[] = NOBODY,
  ): Promise<Ballot<Child>> {
    const children = this.#list;
    const ballot = new Ballot(children, leaders);
    this.#ballots.add(ballot);
    const ask = (child: Child, ended?: Ballot<Child>): void => {
      act(child.node, child).then(
        () => {
          ballot.succeed(child);
          ended?.leave(child);
        },
        (error: unknown) => {
          if (ballot.fail(child, error)) this.#reportBad(type, child, offset, length, error);
          ended?.leave(child);
          if (ended !== undefined) return;
          for (const { node } of leaders) node.driver.siblingFailed?.(error);
        },
      );
    };
    if (leaders.length > 0) await this.#askFirst(leaders, ask);
    for (const child of children) {
      // One that was taken away while the leaders were asked is not written any more.
      if (!leaders.includes(child) && ballot.awaits(child)) ask(child);
    }
    await ballot.decided;
    this.#ballots.delete(ballot);
    return ballot;
  }

  #leaders(): readonly Child[] {
    const leads = (child: Child): boolean => child.node.driver.leads === true;
    return this.#list.some(leads) ? this.#list.filter(leads) : NOBODY;
  }

  /** Ends when every leader has ended or was taken away. */
  async #askFirst(
    leaders: readonly Child[],
    ask: (child: Child, ended: Ballot<Child>) => void,
  ): Promise<void> {
    const first = new Ballot(leaders);
    this.#ballots.add(first);
    for (const child of leaders) ask(child, first);
    await first.decided;
    this.#ballots.delete(first);
  }

  async #readFifo(offset: number, target: Uint8Array): Promise<void> {
    const tried = new Set<Child>();
    let last: unknown = new IoError('EIO', `Quorum '${this.#options.nodeName}' has no child to read from`);
    for (;;) {
      const child = this.#list.find((one) => !tried.has(one));
      if (!child) throw last;
      // Only the first child reads in place: one that is taken away while it reads might fill `target` much later.
      const inPlace = tried.size === 0;
      tried.add(child);
      const buffer = inPlace ? target : new Uint8Array(target.byteLength);
      try {
        if (inPlace) await child.node.read(offset, buffer);
        else await this.#readOne(child, offset, buffer);
        if (!inPlace) target.set(buffer);
        return;
      } catch (error) {
        last = error;
        // A child that was taken away meanwhile is nobody's concern any more.
        if (this.#list.includes(child)) this.#reportBad('read', child, offset, target.byteLength, error);
      }
    }
  }

  /** One child's read, given up when the child is taken away. */
  async #readOne(child: Child, offset: number, buffer: Uint8Array): Promise<void> {
    const ballot = new Ballot([child]);
    this.#ballots.add(ballot);
    child.node.read(offset, buffer).then(
      () => ballot.succeed(child),
      (error: unknown) => ballot.fail(child, error),
    );
    await ballot.decided;
    this.#ballots.delete(ballot);
    if (ballot.errors.length > 0) throw ballot.errors[0];
    if (ballot.ok === 0) throw new IoError('EIO', `Child '${child.name}' was removed`);
  }

  async #readVote(offset: number, target: Uint8Array): Promise<void> {
    const length = target.byteLength;
    const answers = new Map<Child, Uint8Array>();
    const ballot = await this.#ask(
      async (node, child) => {
        const buffer = new Uint8Array(length);
        await node.read(offset, buffer);
        answers.set(child, buffer);
      },
      'read',
      offset,
      length,
    );
    if (ballot.ok < this.voteThreshold) {
      this.#reportFailure(offset, length);
      throw majorityError(ballot.errors, `Too few children of '${this.#options.nodeName}' could be read`);
    }
    // In the children's order, whoever was faster.
    const readers = this.#list.filter((child) => answers.has(child));
    const contents = readers.map((child) => answers.get(child) ?? target);
    const [first] = contents;
    if (first && contents.every((bytes) => equalBytes(bytes, first))) {
      target.set(first);
      return;
    }
    const { winners, losers } = this.blkverify ? { winners: [], losers: [] } : voteContents(contents);
    const winner = contents[winners[0] ?? -1];
    if (!winner || winners.length < this.voteThreshold) {
      this.#reportFailure(offset, length);
      throw new IoError(
        'EIO',
        `The children of '${this.#options.nodeName}' disagree at ${offset}, ${length} bytes`,
      );
    }
    const bad = losers.flatMap((index) => readers[index] ?? []);
    for (const child of bad) this.#reportBad('read', child, offset, length);
    if (this.rewriteCorrupted) {
      await Promise.all(
        bad.map((child) =>
          child.node.write(offset, winner).catch((error: unknown) => {
            this.#reportBad('write', child, offset, length, error);
          }),
        ),
      );
    }
    target.set(winner);
  }

  /** One request at a time on a range. */
  async #alone(offset: number, length: number, act: () => Promise<void>): Promise<void> {
    const before = this.#ranges.settled(offset, length);
    const token: RangeToken = this.#ranges.enter(offset, length);
    try {
      await before;
      await act();
    } finally {
      this.#ranges.leave(token);
    }
  }

  #reportBad(type: ReportType, child: Child, offset: number, length: number, error?: unknown): void {
    this.#options.emit('QUORUM_REPORT_BAD', {
      type,
      ...(error === undefined ? {} : { error: ERRNO_TEXT[errnoOf(error)] }),
      'node-name': child.node.nodeName,
      ...sectors(offset, length),
    });
  }

  #reportFailure(offset: number, length: number): void {
    const reference = this.#options.deviceName?.() ?? this.#options.nodeName;
    this.#options.emit('QUORUM_FAILURE', { reference, ...sectors(offset, length) });
  }
}
