/**
 * What the checkpoint frame needs of the machine it protects. The VM (vm/machine.ts) implements it; the frame knows
 * neither disks nor networks but as participants, and the guest only through this.
 */
import type { CheckpointParticipant } from '../base/participant.ts';
import type { Engine } from '../engine/engine.ts';

export interface ProtectedGuest {
  readonly engine: Engine;
  /**
   * Freezes the guest: frames from outside wait, no vCPU runs, no disk request is in flight, and a user's `cont` does
   * not let it run. Emits STOP if it ran.
   */
  pause(): Promise<void>;
  /**
   * Lets a frozen guest run and the waiting frames in, whether it ran before `pause` or not. Emits RESUME. Nothing for a
   * guest that was not frozen, or that has ended. `lateMs`: its clock goes on from that much later.
   */
  resume(lateMs?: number): Promise<void>;
  /** Taken at the start of protection: the disks' replication nodes. */
  disks(): readonly CheckpointParticipant[];
  /** Taken at every checkpoint: filters may be added and deleted meanwhile. */
  networks(): readonly CheckpointParticipant[];
}

/** Why a checkpoint was asked for. */
export type CheckpointCause = 'timer' | 'mismatch' | 'parameter' | 'request';

/** One checkpoint as the primary saw it; times in milliseconds. */
export interface CheckpointRecord {
  readonly sequence: number;
  readonly cause: CheckpointCause;
  /** When it was done, since 1970 by this host's clock. */
  readonly atMs: number;
  /** How long the guest stood still. */
  readonly pauseMs: number;
  /** From the request until the secondary held the state (held packets left then). */
  readonly heldMs: number;
  /** From the request until the secondary ran from the state. */
  readonly totalMs: number;
  readonly pages: number;
  readonly bytes: number;
}

/** COLO_EXIT's reasons (qapi/migration.json, COLOExitReason, without `none` and `processing`). */
export type ColoExitReason = 'request' | 'error';
