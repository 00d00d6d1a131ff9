/**
 * The seam between the checkpoint frame and what it coordinates: disks and networks take part in a checkpoint through
 * these verbs, and the frame knows nothing else of them (the shape of QEMU's include/block/replication.h,
 * ReplicationOps, with the network's part made explicit). Implemented in block/ and net/, driven by checkpoint/.
 *
 * Roles: on the primary, `capture` closes one epoch: what was sent or written so far belongs to the checkpoint that is
 * being taken; what comes later waits. `commit` says that the secondary holds that checkpoint. On the secondary,
 * `commit` says that the new state has been loaded and the guest is about to run from it.
 */

export type Role = 'primary' | 'secondary';

/** A stream's position that travels with a checkpoint, so that both sides cut it at the same byte. */
export interface StreamMark {
  /** Names the connection on both sides: `host:port>host:port`, sender first. */
  readonly stream: string;
  /** Bytes that the sender had written on that connection. */
  readonly bytes: number;
}

/** A frame that the primary's guest has said and that has not left yet, and the netdev that it is for. */
export interface HeldFrame {
  readonly netdev: string;
  readonly frame: Uint8Array;
}

export interface CheckpointParticipant {
  readonly participantName: string;
  /** Protection begins. Throws when this participant cannot take part; nothing is changed then. */
  start(role: Role): Promise<void>;
  /** The guest is about to be paused: hold what comes from outside (frames) until `resumed`. */
  stopping?(role: Role): void;
  /**
   * The guest stands still. Returns the marks of the streams that this side sends, for the other side.
   * On the primary, writes and output of the next epoch are held from here until `commit`.
   */
  stopped(role: Role): StreamMark[];
  /** The other side's marks have arrived: drop or wait for what lies before them. */
  peerMarks?(role: Role, marks: readonly StreamMark[]): Promise<void>;
  /**
   * Primary, after `stopped`: what of the closed epoch has not left. It travels with the checkpoint: a guest that goes on
   * from that state believes that it has been said, and would wait for its retransmission timer.
   */
  heldOutput?(): Promise<HeldFrame[]>;
  /** Secondary, before `commit`: the primary's held output, to be said at failover; the next `commit` replaces it. */
  peerHeldOutput?(frames: readonly HeldFrame[]): void;
  /** The guest runs again on this side (on the primary possibly before `commit`). */
  resumed?(role: Role): void;
  /** Primary: the secondary holds the checkpoint. Secondary: the checkpoint is loaded (RAM and devices). */
  commit(role: Role): Promise<void>;
  /** The first failure remembered since start (a forwarded write that failed, say), or null. */
  error(): Error | null;
  /**
   * Primary, before `start`: `told` hears of the first failure from then on, or of an end of this participant's that
   * nobody asked it for by `stop`, at that very moment: whatever request of the guest's met it has not been answered.
   */
  onFailure?(told: (error: Error) => void): void;
  /** Protection ends. `failover`: this side goes on alone. */
  stop(role: Role, failover: boolean): Promise<void>;
}
