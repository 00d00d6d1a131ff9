/**
 * One VM's copy on a simulated host: the real table of src/ha/side.ts and the real arbiter; the guest is a timer. What a
 * daemon would do around it is in host.ts.
 */
import { ArbiterUnreachableError, type Arbiter } from '../../src/ha/arbiter/arbiter.ts';
import { newSide, step, type Action, type Event, type Side } from '../../src/ha/side.ts';
import { between, sleep } from './messages.ts';

/** Drawn: milliseconds until a guest that takes over, or starts, is heard; until a first checkpoint is there. */
const TAKE_OVER_MS = [20, 80] as const;
const START_MS = [50, 200] as const;
const CHECKPOINT_MS = [100, 300] as const;
const BACK_OFF_MS = [200, 400] as const;

export interface CopyHooks {
  onPhase(copy: SimCopy, before: Side['phase']): void;
  onSpeaks(copy: SimCopy): void;
  sendCheckpoint(copy: SimCopy, action: Extract<Action, { type: 'checkpoint' }>): void;
  confirm(copy: SimCopy): void;
}

export class SimCopy {
  readonly vm: string;
  readonly memoryMiB: number;
  readonly #arbiter: Arbiter;
  readonly #hooks: CopyHooks;
  side: Side;
  /** Of the last resync, as drawn. */
  resyncMs = 0;
  /** Whose disk is being filled; null: nobody's, or it has died. */
  joining: string | null = null;
  /** The state that was told last, and since when it is so. */
  told = '';
  sinceMs = 0;
  isDead = false;

  constructor(vm: string, host: string, memoryMiB: number, arbiter: Arbiter, hooks: CopyHooks) {
    this.vm = vm;
    this.memoryMiB = memoryMiB;
    this.#arbiter = arbiter;
    this.#hooks = hooks;
    this.side = newSide(host, crypto.randomUUID());
  }

  send(event: Event): void {
    if (this.isDead) return;
    const before = this.side.phase;
    const { side, actions } = step(this.side, event);
    this.side = side;
    if (side.phase !== before) this.#hooks.onPhase(this, before);
    for (const action of actions) void this.#act(action);
  }

  async #act(action: Action): Promise<void> {
    switch (action.type) {
      case 'read':
        return this.#arbiter.read(this.vm).then(
          (record) => this.send({ type: 'record', record }),
          () => this.send({ type: 'read-failed' }),
        );
      case 'swap': {
        const { nonce } = action.next;
        return this.#arbiter.swap(this.vm, action.expected, action.next).then(
          (result) =>
            this.send(
              result.outcome === 'won'
                ? { type: 'won', record: result.record }
                : { type: 'lost', nonce, current: result.current },
            ),
          (error: unknown) => {
            const mayHaveHappened = !(error instanceof ArbiterUnreachableError) || error.mayHaveHappened;
            this.send({ type: 'unreachable', nonce, mayHaveHappened });
          },
        );
      }
      case 'back-off':
        await sleep(between(BACK_OFF_MS));
        this.send({ type: 'retry' });
        return;
      case 'start-guest':
      case 'take-over':
        await sleep(between(action.type === 'take-over' ? TAKE_OVER_MS : START_MS));
        if (!this.isDead && this.side.phase !== 'stopping') this.#hooks.onSpeaks(this);
        return;
      case 'checkpoint':
        await sleep(between(CHECKPOINT_MS));
        if (!this.isDead) this.#hooks.sendCheckpoint(this, action);
        return;
      case 'confirm':
        this.#hooks.confirm(this);
        return;
      case 'discard':
        this.send({ type: 'guest-stopped' });
        return;
      case 'output':
      case 'receive':
      case 'ask-peer':
      case 'tell-stale':
        return;
    }
  }
}
