/**
 * The `replication` driver: one node on each side of a disk that is replicated. On the primary it forwards writes to
 * the other host; on the secondary it gives the VM a view that a checkpoint can throw back. The stages and the routes
 * of requests are a table in routing.ts; the two halves are forwarder.ts and secondary-chain.ts.
 *
 * Facts: docs/qemu-behaviour.md 5.1 to 5.5. Where QEMU errs or is silent and this differs on purpose:
 * - a stop without failover on the secondary does empty the overlays (QEMU has dropped its backup job by then);
 * - a failover flushes all three disks before it is answered, and the overlays are emptied for good before the secondary
 *   disk takes their place: merging them again after a power failure is right at any time;
 * - after the first failed forward the primary sends no more (the other disk is worthless already), and the frame ends
 *   protection at that moment (QEMU: at the next checkpoint);
 * - read-only hidden or secondary disks are refused at start: the opener has the hidden disk opened read-write.
 */
import { Mutex } from '../../../base/async.ts';
import { ColoError, IoError, OwnDiskError, messageOf } from '../../../base/errors.ts';
import { loggerFor } from '../../../base/logger.ts';
import type { CheckpointParticipant, Role } from '../../../base/participant.ts';
import type { BlockDriver, BlockExtent, StrongOptions, WriteFlags } from '../../driver.ts';
import { statusAbove } from '../../jobs/allocation.ts';
import type { CommitJob } from '../../jobs/commit.ts';
import type { EmitEvent } from '../../jobs/job.ts';
import type { BlockNode } from '../../node.ts';
import { NbdDriver } from '../nbd.ts';
import { Forwarder } from './forwarder.ts';
import type { ForwardedTraffic } from './forwarder.ts';
import { MODE_NUMBER, ROUTES, VERBS } from './routing.ts';
import type { ReplicationMode, Stage } from './routing.ts';
import { SecondaryChain, findChain } from './secondary-chain.ts';
import { requireTop } from './top-node.ts';

const BLOCKED = 'Block device is in use by internal backup job';
/** The key that forbids every operation on a node (graph.ts, jobs/manager.ts). */
const EVERYTHING = '*';

export interface ReplicationOptions {
  readonly nodeName: string;
  readonly mode: ReplicationMode;
  readonly file: BlockNode;
  /** Secondary: the name that `findTop` looks up. */
  readonly topId?: string;
  /** Secondary: finds the root above this node (top-id). */
  readonly findTop?: () => BlockNode | null;
  readonly emit: EmitEvent;
}

/** Takes down in which ranges the disk of this side may differ from the other one's. */
export interface PartedRecord {
  mark(offset: number, length: number): void;
  /** All that may differ by the moment of parting has been marked. */
  complete(): void;
  /** That could not be found out. */
  spoil(): void;
}

export class ReplicationDriver implements BlockDriver {
  readonly driverName = 'replication';
  readonly nodeName: string;
  readonly mode: ReplicationMode;
  readonly strongOptions: StrongOptions;
  readonly participant: CheckpointParticipant;
  /** Told of the commit job of a failover before it starts, e.g. to list it. Without it the job makes no events. */
  onJob: ((job: CommitJob) => void) | null = null;
  /** Lets go of a node that this one no longer refers to as `user` (BlockGraph.detach); without it, at close. */
  onDetach: ((node: BlockNode, user: string) => Promise<void>) | null = null;
  /**
   * The disks of the two sides part: at the first failed forward or the end of replication (primary), at failover
   * (secondary). Called once, at that very moment: what is written to the disk afterwards, or ends afterwards, is for
   * the receiver to record; what may differ by then is marked in what it returns.
   */
  onParted: (() => PartedRecord | null) | null = null;
  readonly #findTop: () => BlockNode | null;
  readonly #emit: EmitEvent;
  readonly #forwarder: Forwarder;
  /** Verbs come one at a time. */
  readonly #verbs = new Mutex();
  /** After a failed failover, writes come one at a time. */
  readonly #splitWrites = new Mutex();
  readonly #log;
  #file: BlockNode;
  #children: ReadonlyMap<string, BlockNode>;
  #stage: Stage = 'none';
  #chain: SecondaryChain | null = null;
  #blockedTop: BlockNode | null = null;
  #job: CommitJob | null = null;
  #error: Error | null = null;
  /** The checkpoint frame's, on a primary. */
  #onFailure: ((error: Error) => void) | null = null;

  constructor(options: ReplicationOptions) {
    this.nodeName = options.nodeName;
    this.mode = options.mode;
    this.strongOptions = {
      mode: options.mode,
      ...(options.topId === undefined ? {} : { 'top-id': options.topId }),
    };
    this.#file = options.file;
    this.#children = new Map([['file', options.file]]);
    this.#findTop = options.findTop ?? (() => null);
    this.#emit = options.emit;
    this.#forwarder = new Forwarder(options.file, (unsettled) => {
      const ended = new IoError('EIO', `Replication to '${options.file.nodeName}' has ended`);
      this.#onFailure?.(this.#forwarder.error ?? ended);
      const record = this.onParted?.();
      if (!record) return;
      unsettled.each((offset, length) => record.mark(offset, length));
      record.complete();
    });
    this.#log = loggerFor('replication').child({ node: options.nodeName, mode: options.mode });
    this.participant = this.#makeParticipant();
  }

  get stage(): Stage {
    return this.#stage;
  }

  /** The commit job of a failover, if there was one. Its `ended` tells when the merge is over. */
  get commitJob(): CommitJob | null {
    return this.#job;
  }

  /** Writes that wait at the primary's gate. */
  get waitingWrites(): number {
    return this.#forwarder.waitingWrites;
  }

  /** Of a primary, since it was opened. */
  get traffic(): ForwardedTraffic {
    return this.#forwarder.traffic;
  }

  get lengthBytes(): number {
    return this.#file.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#file.readOnly;
  }

  /** Before this side's own disk: a primary that dies must not have on it what the secondary has never heard of. */
  get leads(): boolean {
    return this.mode === 'primary' && this.#stage === 'running';
  }

  /** The secondary's disk holds a write that this side's lacks: no checkpoint may cover that. */
  siblingFailed(error: unknown): void {
    const text = `A write that the other host has could not be written here: ${messageOf(error)}`;
    if (this.leads) this.#forwarder.giveUp(new OwnDiskError('EIO', text, { cause: error }));
  }

  children(): ReadonlyMap<string, BlockNode> {
    return this.#children;
  }

  // --- verbs (5.1) ---

  /** Throws with QEMU's texts; nothing is changed then. */
  async start(mode: ReplicationMode): Promise<void> {
    await this.#verbs.run(async () => {
      if (this.#answer('start') === 'ignore') return;
      if (mode !== this.mode) {
        const [needs, got] = [MODE_NUMBER[this.mode], MODE_NUMBER[mode]];
        throw new ColoError(`The parameter mode's value is invalid, needs ${needs}, but got ${got}`);
      }
      if (this.mode === 'secondary') await this.#startSecondary();
      else this.#forwarder.start();
      this.#error = null;
      this.#enter('running', 'started');
    });
  }

  /** Secondary: what the secondary disk holds now is the checkpoint, and the VM's own writes are forgotten. */
  async doCheckpoint(): Promise<void> {
    await this.#verbs.run(async () => {
      if (this.#answer('checkpoint') === 'ignore' || this.mode === 'primary') return;
      await this.#checkpoint();
    });
  }

  /** Secondary: what its VM sees survives a power failure from now on, as it does after a failover. */
  async settle(): Promise<void> {
    await this.#verbs.run(async () => {
      if (this.mode === 'secondary' && this.#stage === 'running') await this.#chain?.settle();
    });
  }

  /** What query-xen-replication-status tells, or null. */
  getError(): Error | null {
    const answer = VERBS.getError[this.#stage];
    if (typeof answer === 'object') return new ColoError(answer.refuse);
    const cause = this.#latched();
    return cause ? new IoError('EIO', 'I/O error occurred', { cause }) : null;
  }

  /**
   * Ends replication. On the secondary `failover` begins to merge the overlays into the secondary disk and returns
   * without waiting for that; the export has to be cut before.
   */
  async stopReplication(failover: boolean): Promise<void> {
    await this.#verbs.run(async () => {
      if (this.#answer('stop') === 'ignore') return;
      if (this.mode === 'primary') {
        this.#forwarder.stop();
        this.#forwarder.clearError();
        this.#enter('done', 'stopped');
      } else if (failover) await this.#failover();
      else await this.#stopSecondary();
    });
  }

  // --- requests (5.3) ---

  async read(offset: number, target: Uint8Array): Promise<void> {
    while (this.#chain?.held) await this.#chain.admitted();
    const route = this.#route.read;
    if (route === 'overlay' && this.#chain) return this.#chain.read(offset, target);
    if (route === 'file') return this.#file.read(offset, target);
    throw this.#refusal('read');
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    while (this.#chain?.held) await this.#chain.admitted();
    const route = this.#route.write;
    if (route === 'forward') return this.#forwarder.write(offset, source, flags);
    if (route === 'overlay' && this.#chain) return this.#chain.write(offset, source, flags);
    if (route === 'file') return this.#file.write(offset, source, flags);
    if (route !== 'split') throw this.#refusal('written');
    return this.#split(offset, source.byteLength, (node, at, length) =>
      node.write(at, source.subarray(at - offset, at - offset + length), flags),
    );
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    while (this.#chain?.held) await this.#chain.admitted();
    const route = this.#route.write;
    if (route === 'forward') return this.#forwarder.writeZeroes(offset, length, flags);
    if (route === 'overlay' && this.#chain) return this.#chain.writeZeroes(offset, length, flags);
    if (route === 'file') return this.#file.writeZeroes(offset, length, flags);
    if (route !== 'split') throw this.#refusal('written');
    return this.#split(offset, length, (node, at, piece) => node.writeZeroes(at, piece, flags));
  }

  /** Only where it cannot change what the other side or a checkpoint sees. */
  async discard(offset: number, length: number): Promise<void> {
    while (this.#chain?.held) await this.#chain.admitted();
    if (this.#route.write === 'file') await this.#file.discard(offset, length);
  }

  async flush(): Promise<void> {
    while (this.#chain?.held) await this.#chain.admitted();
    const route = this.#route.write;
    if (route === 'forward') return this.#forwarder.flush();
    if (route === 'file') return this.#file.flush();
    if (route === 'overlay' || route === 'split') await this.#chain?.flush();
    if (route === 'split') await this.#chain?.flushSecondary();
  }

  async blockStatus(offset: number, length: number): Promise<BlockExtent[]> {
    while (this.#chain?.held) await this.#chain.admitted();
    const route = this.#route.read;
    if (route === 'overlay' && this.#chain) return this.#chain.status(offset, length);
    if (route === 'refuse' && this.mode === 'secondary') throw this.#refusal('read');
    return statusAbove(this.#file, null, offset, length);
  }

  /** Primary: the node is no longer written to by its quorum, so what it stands for is no copy any more. */
  takenOut(): void {
    if (this.leads)
      this.#forwarder.giveUp(new IoError('EIO', `Node '${this.nodeName}' was taken out of its quorum`));
  }

  /** Primary: ends what waits for the other host, at once and for good; the node is of no use but to be closed. */
  breakOff(): void {
    if (this.mode !== 'primary') return;
    this.#forwarder.stop();
    if (this.#file.driver instanceof NbdDriver) this.#file.driver.breakOff();
  }

  async close(): Promise<void> {
    this.#forwarder.stop();
    this.#job?.abandon();
    await this.#job?.ended;
    await this.#chain?.stopBackup(false);
    this.#chain?.close();
    this.#unblockTop();
  }

  // --- inside ---

  get #route(): (typeof ROUTES)[ReplicationMode][Stage] {
    return ROUTES[this.mode][this.#stage];
  }

  #latched(): Error | null {
    return this.#forwarder.error ?? this.#error ?? this.#chain?.error ?? null;
  }

  #refusal(verb: string): IoError {
    return new IoError('EIO', `Node '${this.nodeName}' (${this.mode}, ${this.#stage}) cannot be ${verb}`);
  }

  #answer(verb: keyof typeof VERBS): 'act' | 'ignore' {
    const answer = VERBS[verb][this.#stage];
    if (typeof answer === 'object') throw new ColoError(answer.refuse);
    return answer;
  }

  #enter(stage: Stage, reason: string): void {
    this.#log.info({ from: this.#stage, to: stage }, reason);
    this.#stage = stage;
  }

  async #startSecondary(): Promise<void> {
    const disks = findChain(this.#file);
    const top = requireTop(this.#findTop(), this);
    const chain = new SecondaryChain(disks);
    chain.start();
    try {
      await chain.checkpoint();
    } catch (error) {
      await chain.stopBackup(false);
      throw error;
    }
    this.#chain = chain;
    this.#blockedTop = top;
    top.blockers.set(EVERYTHING, BLOCKED);
  }

  async #checkpoint(): Promise<void> {
    if (!this.#chain) throw new ColoError('Backup job was cancelled unexpectedly');
    try {
      await this.#chain.checkpoint();
    } catch (error) {
      this.#error ??= error as Error;
      throw error;
    }
  }

  async #stopSecondary(): Promise<void> {
    try {
      await this.#checkpoint();
    } finally {
      await this.#chain?.stopBackup(false);
      this.#unblockTop();
      this.#enter('done', 'stopped without failover');
    }
  }

  async #failover(): Promise<void> {
    const chain = this.#chain;
    if (!chain) throw new ColoError('Block replication is not running');
    this.#enter('failover', 'failover: the overlays are merged into the secondary disk');
    await chain.stopBackup(true);
    this.#unblockTop();
    // Whoever is heard from now on must not lose to a power failure what this view of the disk is made of.
    await chain.settle().catch((error: unknown) => {
      this.#error ??= error as Error;
      this.#log.error(
        { err: error },
        'the disks could not be flushed at failover; a power failure may lose data',
      );
    });
    const emit: EmitEvent = this.onJob ? this.#emit : () => undefined;
    // The secondary disk has what the primary forwarded: apart from what the overlays hold it is the primary's disk.
    const record = this.onParted?.() ?? null;
    const job = chain.commit(`failover-${this.nodeName.replace(/^#/, '')}`, emit, {
      pivot: () => this.#pivot(chain),
      allocated: (overlaid) => {
        overlaid.eachRun((offset, length) => record?.mark(offset, length));
        record?.complete();
      },
    });
    if (record) void job.ended.then(() => record.spoil());
    this.#job = job;
    this.onJob?.(job);
    if (job.status === 'undefined') job.start();
    void this.#afterCommit(job, chain);
  }

  /** Nothing is in flight here now: the secondary disk is whole and takes the overlays' place. */
  async #pivot(chain: SecondaryChain): Promise<void> {
    await chain.empty();
    chain.dropFence();
    this.#file = chain.disks.secondary;
    this.#children = new Map([['file', this.#file]]);
    this.#file.users.add(`${this.nodeName}/file`);
    this.#enter('done', 'failover complete');
  }

  async #afterCommit(job: CommitJob, chain: SecondaryChain): Promise<void> {
    await job.ended;
    if (this.#stage === 'failover') {
      this.#error = job.failure ?? new IoError('EIO', 'The merge of the overlays was broken off');
      this.#enter('failover-failed', this.#error.message);
      return;
    }
    try {
      await this.onDetach?.(chain.disks.active, `${this.nodeName}/file`);
    } catch (error) {
      this.#log.warn({ err: error }, 'the active disk could not be closed');
    }
  }

  async #split(
    offset: number,
    length: number,
    act: (node: BlockNode, offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const chain = this.#chain;
    if (!chain) throw this.#refusal('written');
    // Writes that began before the merge failed may still be copying clusters up.
    await chain.requestsEnded(offset, length);
    await this.#splitWrites.run(() => chain.eachOwner(offset, length, act));
  }

  #unblockTop(): void {
    if (this.#blockedTop?.blockers.get(EVERYTHING) === BLOCKED) this.#blockedTop.blockers.delete(EVERYTHING);
    this.#blockedTop = null;
  }

  #makeParticipant(): CheckpointParticipant {
    const takesPart = (role: Role): boolean => role === this.mode && this.#stage === 'running';
    return {
      participantName: `replication:${this.nodeName}`,
      start: (role) => this.start(role),
      stopped: (role) => {
        if (role === 'primary' && takesPart(role)) this.#forwarder.closeGate();
        return [];
      },
      commit: async (role) => {
        if (!takesPart(role)) return;
        if (role === 'primary') this.#forwarder.openGate();
        else await this.doCheckpoint();
      },
      error: () => (this.#stage === 'none' ? null : this.getError()),
      onFailure: (told) => {
        this.#onFailure = told;
      },
      stop: async (_role, failover) => {
        if (this.#stage === 'running') await this.stopReplication(failover);
      },
    };
  }
}

/** Tells a replication node from others, so that whoever walks the graph finds them. */
export function isReplication(driver: BlockDriver): driver is ReplicationDriver {
  return driver instanceof ReplicationDriver;
}

/** The replication nodes among `nodes`, newest first, as QEMU's replication_*_all goes. */
export function findReplications(nodes: Iterable<BlockNode>): ReplicationDriver[] {
  const found: ReplicationDriver[] = [];
  for (const { driver } of nodes) if (isReplication(driver)) found.unshift(driver);
  return found;
}
