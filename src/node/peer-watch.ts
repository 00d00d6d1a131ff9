/**
 * When the other copy of a pair counts as lost. What is heard: the checkpoint channel's end (COLO_EXIT), its silence
 * (COLO_PEER_SILENT), and what the daemon of the peer's host says on a channel of its own. What is concluded:
 * ha/beat/diagnosis. A wrong suspicion costs protection, never safety: the arbiter decides who goes on.
 */
import type { QmpEvent } from '../qmp/types.ts';
import type { RunningVm } from '../ha/index.ts';
import type { Diagnosis } from '../ha/beat/index.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { ControllerParts } from './parts.ts';

export interface PeerWatchHooks {
  silent(reason: string): void;
  back(reason: string): void;
  lost(reason: string, data: Readonly<Record<string, unknown>>): void;
}

/** When both copies live and the link between them is gone, the primary goes on: the secondary asks so much later. */
const SECONDARY_WAITS_MS = 300;
/** A side that something of its own has failed on leaves it to the other for so long: an arbiter may be slow. */
const WORSE_WAITS_MS = 3_000;
/** What a peer's daemon needs to say that its process has died, if that is why the connection was closed. */
const WORD_MS = 100;

type Channel = 'silent' | 'closed';

export class PeerWatch {
  readonly #spec: VmSpec;
  readonly #parts: ControllerParts;
  readonly #hooks: PeerWatchHooks;
  #role: 'primary' | 'secondary' | null = null;
  #peer: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #isLost = false;

  constructor(spec: VmSpec, parts: ControllerParts, hooks: PeerWatchHooks) {
    this.#spec = spec;
    this.#parts = parts;
    this.#hooks = hooks;
  }

  get role(): 'primary' | 'secondary' | null {
    return this.#role;
  }

  /** Of the pair that is watched, or was last. */
  get peer(): string | null {
    return this.#peer;
  }

  start(role: 'primary' | 'secondary', peer: string): void {
    this.stop();
    this.#role = role;
    this.#peer = peer;
    this.#isLost = false;
  }

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#isLost = true;
  }

  onVmEvent({ event, data }: QmpEvent): void {
    if (this.#isLost || this.#role === null) return;
    if (event === 'COLO_EXIT' && data['reason'] === 'error') this.#closed(textOf(data['x-detail']));
    if (event === 'COLO_PEER_SILENT') this.#silent(Number(data['silent-ms'] ?? 0));
    if (event === 'COLO_PEER_BACK' && this.#timer) {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#hooks.back('the other copy is heard again');
    }
  }

  /** Events may have been missed: what has happened meanwhile is asked for. */
  async ask(qmp: RunningVm['qmp']): Promise<void> {
    const status = (await qmp.execute('query-colo-status')) as {
      readonly 'x-exit'?: { readonly detail: string };
      readonly 'x-heartbeat'?: { readonly 'is-silent': boolean; readonly 'last-heard-ms': number };
    };
    if (this.#isLost || this.#role === null) return;
    const { 'x-exit': exit, 'x-heartbeat': heard } = status;
    if (exit) this.#closed(exit.detail);
    else if (heard?.['is-silent'] === true) this.#silent(heard['last-heard-ms']);
  }

  /** The peer's daemon: the process of its copy is gone. */
  onPeerDied(host: string): void {
    if (this.#isLost || host !== this.#peer) return;
    this.#lost(this.#look('silent', 0), 'silent', 0);
  }

  #closed(detail: string): void {
    const seen = this.#look('closed', 0);
    // A primary that has said that it gives up lives, and is asking: its secondary's disk lacks a write, say.
    const isAsking = this.#role === 'secondary' && detail === 'peer-failed';
    // Its own disk lacks a write: the other side has all of them, and is the better one to go on.
    const isWorse = detail === 'failed';
    // Its host says that it lives: a cut, or its word is still on its way.
    if (seen.kind !== 'link-cut' && !isAsking && !isWorse) this.#lost(seen, 'closed', 0, detail);
    else {
      const waitMs = isWorse ? WORSE_WAITS_MS : this.#role === 'secondary' ? SECONDARY_WAITS_MS : WORD_MS;
      this.#after(waitMs, () => this.#lost(this.#look('closed', 0), 'closed', 0, detail));
    }
  }

  #silent(silentMs: number): void {
    if (this.#timer) return;
    const seen = this.#look('silent', silentMs);
    const { patienceMs, linkPatienceMs } = this.#spec.heartbeat;
    if (seen.kind === 'i-stood-still') {
      this.#after(patienceMs, () => this.#silent(silentMs));
      return;
    }
    if (!seen.mayWait) {
      this.#lost(seen, 'silent', silentMs);
      return;
    }
    this.#hooks.silent(seen.sentence);
    const waitMs = linkPatienceMs + (this.#role === 'secondary' ? SECONDARY_WAITS_MS : 0);
    this.#after(waitMs, () => {
      const longer = silentMs + waitMs;
      this.#lost(this.#look('silent', longer), 'silent', longer);
    });
  }

  #look(checkpoint: Channel, silentMs: number): Diagnosis {
    return this.#parts.witness.look({ host: this.#peer ?? '', vm: this.#spec.name, checkpoint, silentMs });
  }

  #after(ms: number, act: () => void): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (!this.#isLost) act();
    }, ms);
  }

  #lost(seen: Diagnosis, channel: Channel, silentMs: number, detail?: string): void {
    const peer = this.#peer ?? '';
    this.stop();
    const data = { kind: seen.kind, channel, ...(detail === undefined ? {} : { detail }) };
    this.#hooks.lost(seen.sentence, data);
    void this.#tellCloser(peer, seen, channel, silentMs);
  }

  /** With what a fresh connection says, which nobody has waited for. */
  async #tellCloser(host: string, before: Diagnosis, checkpoint: Channel, silentMs: number): Promise<void> {
    const seen = await this.#parts.witness.lookAgain({ host, vm: this.#spec.name, checkpoint, silentMs });
    if (seen.kind === before.kind || !seen.isLoss) return;
    this.#parts.tell({ type: 'diagnosis', reason: seen.sentence, data: { peer: host, kind: seen.kind } });
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : 'error';
}
