/**
 * Tells when a pair of the demo has ended, and of what: a process is gone, a process is stopped (SIGSTOP), or both live and
 * do not hear each other. What each side hears of the other on the checkpoint channel comes as QMP events (COLO_PEER_SILENT,
 * COLO_PEER_BACK, COLO_EXIT); what the processes are, this machine's kernel knows. A daemon that looks after two real hosts
 * hears the same from the other host's daemon (src/node/peer-watch.ts), and rides out a cut link for as long.
 *
 * Decides nothing: whoever is told acts.
 */
import type { DiagnosisKind } from '../ha/beat/index.ts';
import type { QmpEvent } from '../qmp/types.ts';
import type { DemoCopy } from './copy.ts';

export interface PairLoss {
  /** Whose fault it is. `link`: both live. */
  readonly victim: 'primary' | 'secondary' | 'link';
  readonly kind: DiagnosisKind;
  /** One sentence. */
  readonly reason: string;
  /** Noticed then, by performance.now(). */
  readonly atMs: number;
}

export interface PairWatchHooks {
  silent(reason: string): void;
  back(reason: string): void;
  /** Once; nothing comes after it. */
  lost(loss: PairLoss): void;
}

export type Watched = Pick<DemoCopy, 'name' | 'exited' | 'processState' | 'qmp'>;

/** Both look like a cut link for a moment when one of them has just died. */
const WORD_MS = 100;

type Role = 'primary' | 'secondary';

export class PairWatch {
  readonly #pair: Readonly<Record<Role, Watched>>;
  readonly #linkPatienceMs: number;
  readonly #hooks: PairWatchHooks;
  /** Who hears nothing. */
  readonly #deaf = new Set<Role>();
  readonly #stops: (() => void)[] = [];
  #timer: NodeJS.Timeout | null = null;
  #isOver = false;

  /** `linkPatienceMs`: how long two that live may not hear each other. */
  constructor(pair: Readonly<Record<Role, Watched>>, linkPatienceMs: number, hooks: PairWatchHooks) {
    this.#pair = pair;
    this.#linkPatienceMs = linkPatienceMs;
    this.#hooks = hooks;
    for (const role of ['primary', 'secondary'] as const) {
      const { exited, qmp, name } = pair[role];
      void exited.then(() => this.#lost(role, 'process-dead', `the process of ${name} has ended`));
      this.#stops.push(qmp.onEvent((event) => this.#heard(role, event)));
    }
  }

  stop(): void {
    this.#isOver = true;
    if (this.#timer) clearTimeout(this.#timer);
    for (const stop of this.#stops) stop();
  }

  #heard(by: Role, { event, data }: QmpEvent): void {
    if (this.#isOver) return;
    if (event === 'COLO_PEER_SILENT') this.#silent(by);
    if (event === 'COLO_PEER_BACK') this.#back(by);
    // A reason of 'request' is the demo's own doing.
    if (event === 'COLO_EXIT' && data['reason'] === 'error') this.#closed(by, data['x-detail']);
  }

  #silent(by: Role): void {
    const isFirst = this.#deaf.size === 0;
    this.#deaf.add(by);
    if (this.#lookAtProcesses() || !isFirst) return;
    const { name } = this.#pair[by === 'primary' ? 'secondary' : 'primary'];
    this.#hooks.silent(`${name} is not heard, and its process lives: the link may be cut`);
    this.#after(this.#linkPatienceMs, () => {
      const waited = `${this.#linkPatienceMs / 1000} s`;
      this.#lost('link', 'link-cut', `the link is cut: both processes live and were silent for ${waited}`);
    });
  }

  #back(by: Role): void {
    if (!this.#deaf.delete(by) || this.#deaf.size > 0) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#hooks.back('both copies hear each other again');
  }

  #closed(by: Role, detail: unknown): void {
    if (this.#lookAtProcesses()) return;
    this.#after(WORD_MS, () => {
      const how = typeof detail === 'string' ? ` (${detail})` : '';
      this.#lost('link', 'link-cut', `the ${by} has lost the checkpoint channel${how}, and both live`);
    });
  }

  #after(ms: number, act: () => void): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#lookAtProcesses()) act();
    }, ms);
  }

  /** Whether that settles it. */
  #lookAtProcesses(): boolean {
    for (const role of ['primary', 'secondary'] as const) {
      const { name, processState } = this.#pair[role];
      const state = processState();
      if (state === 'gone') return this.#lost(role, 'process-dead', `the process of ${name} has ended`);
      if (state === 'stopped') {
        return this.#lost(role, 'process-frozen', `the process of ${name} is stopped and says nothing`);
      }
    }
    return false;
  }

  #lost(victim: PairLoss['victim'], kind: DiagnosisKind, reason: string): true {
    if (this.#isOver) return true;
    this.stop();
    this.#hooks.lost({ victim, kind, reason, atMs: performance.now() });
    return true;
  }
}
