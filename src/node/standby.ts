/**
 * How this host becomes the secondary of another: invited, disks and process made (joining.ts), the guest's first state
 * awaited; or all of it dropped. The controller gives what is its own: side, life, process.
 */
import { ColoError, messageOf } from '../base/errors.ts';
import type { JoinAnswer, JoinRequest } from '../api/service.ts';
import type { RecordId } from '../ha/arbiter/index.ts';
import type { RunningVm } from '../ha/index.ts';
import type { LifeEvent } from '../ha/life/life.ts';
import type { Event, Phase } from '../ha/side.ts';
import { Joining } from './joining.ts';
import type { ControllerParts } from './parts.ts';

export interface StandbyHooks {
  readonly phase: () => Phase;
  readonly feed: (event: Event) => void;
  readonly step: (event: LifeEvent, reason: string) => void;
  readonly attach: (vm: RunningVm) => void;
  /** The process that was attached is listened to no more, and ended. */
  readonly forget: () => Promise<void>;
}

export class Standby {
  readonly #name: string;
  readonly #parts: ControllerParts;
  readonly #hooks: StandbyHooks;
  #joining: Joining | null = null;

  constructor(name: string, parts: ControllerParts, hooks: StandbyHooks) {
    this.#name = name;
    this.#parts = parts;
    this.#hooks = hooks;
  }

  /** From the invitation to the first whole checkpoint. */
  get isJoining(): boolean {
    return this.#joining !== null;
  }

  /** Throws ColoError; all is dropped then. */
  async join(request: JoinRequest): Promise<JoinAnswer> {
    const { feed, step, attach } = this.#hooks;
    feed({ type: 'invited', peer: request.from });
    step('sync', `invited by ${request.from}`);
    const joining = (this.#joining = new Joining(request, this.#parts));
    try {
      const { vm, answer } = await joining.start((reason) => void this.#drop(joining, reason));
      attach(vm);
      return answer;
    } catch (error) {
      await this.#drop(joining, messageOf(error));
      throw error;
    }
  }

  /** Resolves when the guest is here and this side could take it over. Throws ColoError; all is dropped then. */
  async awaitCheckpoint(pairing: RecordId): Promise<void> {
    const joining = this.#joining;
    if (!joining) throw new ColoError(`'${this.#name}' is not joining on ${this.#parts.host}`);
    const { feed, step } = this.#hooks;
    step('synced', 'the disks are equal');
    try {
      await joining.awaitState();
      await this.#parts.disks.note({ type: 'loaded', of: pairing });
      feed({ type: 'checkpoint-loaded', pairing });
      await joining.confirmation;
    } catch (error) {
      await this.#drop(joining, messageOf(error));
      throw error;
    }
    this.#joining = null;
    step('whole', `follows ${joining.from}`);
  }

  /** The side has been saved as a secondary. */
  confirmed(): void {
    this.#joining?.confirmed();
  }

  async drop(reason: string): Promise<void> {
    if (this.#joining) await this.#drop(this.#joining, reason);
  }

  /** The daemon ends; what is under way is left as it is. */
  close(): void {
    this.#joining?.close();
  }

  async #drop(joining: Joining, reason: string): Promise<void> {
    if (this.#joining !== joining) return;
    this.#joining = null;
    const { phase, feed, step, forget } = this.#hooks;
    step('sync-failed', reason);
    step('stop', reason);
    await joining.abandon(reason);
    await forget();
    feed({ type: phase() === 'joining' ? 'peer-lost' : 'stop' });
    step('stopped', reason);
    this.#parts.publish();
  }
}
