/**
 * When the other copy of a pair counts as lost. What is heard: the checkpoint channel's end (COLO_EXIT), its silence
 * (COLO_PEER_SILENT), and what the daemon of the peer's host says on a channel of its own. What is concluded:
 * ha/beat/diagnosis. A wrong suspicion costs protection, never safety: the arbiter decides who goes on.
 */
import type { QmpEvent } from '../qmp/types.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { ControllerParts } from './parts.ts';

export interface PeerWatchHooks {
  silent(reason: string): void;
  back(reason: string): void;
  lost(reason: string, data: Readonly<Record<string, unknown>>): void;
}

/** When both copies live and the link between them is gone, the primary goes on: the secondary asks so much later. */
const SECONDARY_WAITS_MS = 300;
/** What a peer's daemon needs to say that its process has died, if that is why the connection was closed. */
const WORD_MS = 100;

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

  /** The peer's daemon: the process of its copy is gone. */
  onPeerDied(host: string): void {
    if (this.#isLost || host !== this.#peer) return;
    this.#lost('process-dead', `the process of the copy on ${host} has died`);
  }

  #closed(detail: string): void {
    const peer = this.#peer ?? '';
    const beat = this.#parts.beat(peer);
    const isThere = beat.isConnected && beat.vm(this.#spec.name)?.isAlive === true;
    if (!isThere) {
      this.#lost('process-dead', `the connection to the copy on ${peer} is closed`, detail);
      return;
    }
    // Its host says that it lives: a cut, or its word is still on its way.
    const waitMs = this.#role === 'secondary' ? SECONDARY_WAITS_MS : WORD_MS;
    this.#after(waitMs, () => this.#lost('link-cut', `the link to the copy on ${peer} is broken`, detail));
  }

  #silent(silentMs: number): void {
    if (this.#timer) return;
    const peer = this.#peer ?? '';
    const beat = this.#parts.beat(peer);
    const said = beat.vm(this.#spec.name);
    const { patienceMs, linkPatienceMs } = this.#spec.heartbeat;
    const isHostHeard = beat.isConnected && beat.silentMs !== null && beat.silentMs < patienceMs;
    if (!isHostHeard) {
      this.#lost(
        'host-silent',
        `nothing is heard of ${peer}: neither the copy nor its host's daemon`,
        `${silentMs} ms`,
      );
      return;
    }
    if (said?.isAlive === true && said.isAnswering) {
      this.#hooks.silent(`the link to the copy on ${peer} is silent, the copy lives`);
      const waitMs = linkPatienceMs + (this.#role === 'secondary' ? SECONDARY_WAITS_MS : 0);
      this.#after(waitMs, () =>
        this.#lost('link-cut', `the link to the copy on ${peer} has been silent for too long`),
      );
      return;
    }
    this.#lost('process-frozen', `the copy on ${peer} stands still, its host does not`, `${silentMs} ms`);
  }

  #after(ms: number, act: () => void): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (!this.#isLost) act();
    }, ms);
  }

  #lost(kind: string, reason: string, detail?: string): void {
    this.stop();
    this.#hooks.lost(reason, { kind, ...(detail === undefined ? {} : { detail }) });
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : 'error';
}
