/**
 * The secondary's half of replication: the chain active disk → hidden disk → secondary disk.
 *
 * The rule it keeps (docs/qemu-behaviour.md 5.1 to 5.4): through this chain the secondary VM sees the last complete
 * checkpoint plus its own writes, whatever the NBD export writes to the secondary disk meanwhile. Its own writes go to
 * the active disk; the old content of what the export overwrites goes to the hidden disk first (CopyBeforeWrite). A request
 * of the VM that is on its way through the chain is counted in `#requests`; the export's write waits for those that
 * had begun before its copy was in the hidden disk, since they may have found the hidden disk empty there.
 *
 * It assumes that the NBD export is cut before `failover`; writes from outside that come all the same are refused
 * until the chain has been merged (`#fence`).
 */
import { Gate } from '../../../base/async.ts';
import { ColoError, IoError } from '../../../base/errors.ts';
import type { BlockExtent, WriteFlags } from '../../driver.ts';
import { statusAbove } from '../../jobs/allocation.ts';
import type { ChunkBitmap } from '../../jobs/chunk-bitmap.ts';
import { CommitJob } from '../../jobs/commit.ts';
import { CopyBeforeWrite } from '../../jobs/copy-before-write.ts';
import type { EmitEvent } from '../../jobs/job.ts';
import { RangeTracker } from '../../jobs/range-tracker.ts';
import { BlockNode } from '../../node.ts';

/** Most that is asked for an owner at once, since the answer is of use for one piece only. */
const OWNER_BYTES = 1024 * 1024;

export interface ChainDisks {
  readonly active: BlockNode;
  readonly hidden: BlockNode;
  readonly secondary: BlockNode;
}

/** Finds the three disks below `active`. Throws with QEMU's texts, in QEMU's order. */
export function findChain(active: BlockNode): ChainDisks {
  const hidden = active.backing;
  if (!hidden) throw new ColoError("Active disk doesn't have backing file");
  const secondary = hidden.backing;
  if (!secondary) throw new ColoError("Hidden disk doesn't have backing file");
  // Graph.ts notes a block backend (-drive id=) as the user `drive:ID`.
  if (![...secondary.users].some((user) => user.startsWith('drive:'))) {
    throw new ColoError("The secondary disk doesn't have block backend");
  }
  if (active.lengthBytes !== hidden.lengthBytes || hidden.lengthBytes !== secondary.lengthBytes) {
    throw new ColoError("Active disk, hidden disk, secondary disk's length are not the same");
  }
  if (!active.driver.makeEmpty || !hidden.driver.makeEmpty) {
    throw new ColoError("Active disk or hidden disk doesn't support make_empty");
  }
  for (const node of [active, hidden, secondary]) {
    if (!node.readOnly) continue;
    throw new ColoError(`Node '${node.nodeName}' is read-only; replication needs it with read-only=off`);
  }
  return { active, hidden, secondary };
}

export class SecondaryChain {
  readonly disks: ChainDisks;
  readonly #backup: CopyBeforeWrite;
  /** The VM's requests on their way through the chain, widened to whole clusters. */
  readonly #requests = new RangeTracker();
  /** Closed while the chain is being emptied or switched. */
  readonly #gate = new Gate();
  /** Requests copy whole clusters up, so they read that much of the chain. */
  readonly #granularity: number;
  /** The secondary disk past its hooks: for our own writes while the fence is up. */
  readonly #behindFence: BlockNode;
  #removeFence: (() => void) | null = null;

  constructor(disks: ChainDisks) {
    this.disks = disks;
    const { active, hidden, secondary } = disks;
    this.#granularity = Math.max(active.driver.clusterBytes ?? 1, hidden.driver.clusterBytes ?? 1);
    this.#behindFence = new BlockNode(secondary.nodeName, secondary.driver);
    this.#backup = new CopyBeforeWrite({
      source: secondary,
      target: hidden,
      readersPassed: (offset, length) => this.#requests.settled(offset, length),
    });
  }

  get backup(): CopyBeforeWrite {
    return this.#backup;
  }

  start(): void {
    this.#backup.start();
  }

  /** The first failed copy-before-write, or null. */
  get error(): Error | null {
    return this.#backup.error;
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#through(offset, target.byteLength, () => this.disks.active.read(offset, target));
  }

  async write(offset: number, source: Uint8Array, flags?: WriteFlags): Promise<void> {
    await this.#through(offset, source.byteLength, () => this.disks.active.write(offset, source, flags));
  }

  async writeZeroes(offset: number, length: number, flags?: WriteFlags): Promise<void> {
    await this.#through(offset, length, () => this.disks.active.writeZeroes(offset, length, flags));
  }

  status(offset: number, length: number): Promise<BlockExtent[]> {
    return statusAbove(this.disks.active, null, offset, length);
  }

  /** Resolves when the requests that overlap the range and have begun by now have ended, with the clusters they copy up. */
  requestsEnded(offset: number, length: number): Promise<void> {
    return this.#requests.settled(offset, length);
  }

  /**
   * After a failed failover: calls `act` for each piece of the range, with the node that the piece is written to.
   * A write to the active disk copies whole clusters up and thereby takes over what lies beside it. So the owner is
   * asked for again after each piece, and nobody else may write to the active disk meanwhile: the caller has these
   * calls come one at a time, and `requestsEnded` before.
   */
  async eachOwner(
    offset: number,
    length: number,
    act: (node: BlockNode, offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const { active, secondary } = this.disks;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const [first] = await statusAbove(active, secondary, at, Math.min(end - at, OWNER_BYTES));
      if (!first) throw new IoError('EIO', `Node '${active.nodeName}' does not tell its status at ${at}`);
      await act(first.allocated ? active : this.#behindFence, at, first.length);
      at += first.length;
    }
  }

  async flush(): Promise<void> {
    await this.disks.active.flush();
  }

  async flushSecondary(): Promise<void> {
    await this.#behindFence.flush();
  }

  /** All that the VM sees through the chain is on stable storage afterwards. */
  async settle(): Promise<void> {
    const { active, hidden } = this.disks;
    await Promise.all([active.flush(), hidden.flush(), this.#behindFence.flush()]);
  }

  /**
   * The overlays hold nothing any more, also after a power failure. The secondary disk has it all, flushed, and nobody
   * writes. The hidden disk first: alone above the secondary disk it would show what the active one has hidden.
   */
  async empty(): Promise<void> {
    await this.disks.hidden.makeEmpty(true);
    await this.disks.active.makeEmpty(true);
  }

  /**
   * A new epoch: what the secondary disk holds now is the checkpoint. Requests of the VM and of the export that have
   * begun end first; later ones wait and belong to the new epoch.
   */
  async checkpoint(): Promise<void> {
    if (!this.#backup.active) throw new ColoError('Backup job was cancelled unexpectedly');
    if (this.#backup.error)
      throw new IoError('EIO', 'Backup job was cancelled unexpectedly', { cause: this.#backup.error });
    this.#gate.close();
    try {
      await this.#requests.idle();
      await this.#backup.hold();
      await this.disks.active.makeEmpty();
      await this.disks.hidden.makeEmpty();
      this.#backup.beginEpoch();
    } finally {
      this.#backup.release();
      this.#gate.open();
    }
  }

  /**
   * Ends copy-before-write once the export's writes in flight have ended. `fence`: writes to the secondary disk that
   * do not come from here are refused from now on.
   */
  async stopBackup(fence: boolean): Promise<void> {
    if (fence) this.#raiseFence();
    await this.#backup.stop(fence);
  }

  dropFence(): void {
    this.#removeFence?.();
    this.#removeFence = null;
  }

  /**
   * The job that brings active and hidden disk into the secondary disk and then calls `pivot` in a quiet moment.
   * `allocated` hears first what they hold.
   */
  commit(
    id: string,
    emit: EmitEvent,
    hooks: { readonly pivot: () => Promise<void>; readonly allocated?: (overlaid: ChunkBitmap) => void },
  ): CommitJob {
    const { active, secondary } = this.disks;
    return new CommitJob({
      id,
      emit,
      top: active,
      base: secondary,
      target: this.#behindFence,
      quiesce: async () => {
        this.#gate.close();
        await this.#requests.idle();
      },
      ...hooks,
      release: () => this.#gate.open(),
    });
  }

  /** For the end of the node: what waits goes on. */
  close(): void {
    this.#gate.open();
    this.dropFence();
  }

  /** True while requests have to wait for `admitted` before they are routed. Ask again after each wait. */
  get held(): boolean {
    return !this.#gate.isOpen;
  }

  admitted(): Promise<void> {
    return this.#gate.pass();
  }

  #raiseFence(): void {
    const { secondary } = this.disks;
    const text = `Node '${secondary.nodeName}' is being merged after a failover; its export must be stopped`;
    this.#removeFence ??= secondary.onBeforeWrite(() => Promise.reject(new IoError('EPERM', text)));
  }

  async #through(offset: number, length: number, act: () => Promise<void>): Promise<void> {
    const start = offset - (offset % this.#granularity);
    const end = Math.ceil((offset + length) / this.#granularity) * this.#granularity;
    const token = this.#requests.enter(start, end - start);
    try {
      await act();
    } finally {
      this.#requests.leave(token);
    }
  }
}
