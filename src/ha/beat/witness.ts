/**
 * Gathers everything that this host knows of another one, for diagnose.ts: what the heartbeat channel has heard, what
 * others hear, whether the arbiter is reached, and a fresh connection. `look` answers at once; `lookAgain` tries a
 * connection first, and is for telling people: nobody waits for it before the arbiter is asked.
 */
import type { PeerAddress } from './dialler.ts';
import { diagnose, type Diagnosis, type Evidence } from './diagnose.ts';
import { othersEvidence, peerEvidence } from './evidence.ts';
import type { Heartbeats } from './heartbeats.ts';
import { probe, type Probe } from './prober.ts';

export interface Suspicion {
  readonly host: string;
  readonly vm: string;
  readonly checkpoint: Evidence['checkpoint'];
  /** Since when the copy has given cause for it. */
  readonly silentMs: number;
}

export interface WitnessOptions {
  readonly heartbeats: Pick<Heartbeats, 'peer' | 'hosts' | 'whoHears'>;
  /** Where a host's API listens; null: not known. */
  readonly apiOf: (host: string) => PeerAddress | null;
  /** Whether the arbiter has answered lately. */
  readonly reachesArbiter: () => 'yes' | 'no' | 'unknown';
  readonly patienceMs: number;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
  readonly probe?: (address: string, port: number, deadlineMs: number) => Promise<Probe>;
}

export class Witness {
  readonly #options: WitnessOptions;
  readonly #now: () => number;
  #doubtUntil = 0;

  constructor(options: WitnessOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** This process stood still: what it has not heard counts for nothing until it could have heard it. */
  stoodStill(): void {
    this.#doubtUntil = this.#now() + this.#options.patienceMs;
  }

  /** By what is known now. */
  look(suspicion: Suspicion): Diagnosis {
    return this.#diagnose(suspicion, 'unknown');
  }

  /** The same after a try at a connection; takes the patience at most. */
  async lookAgain(suspicion: Suspicion): Promise<Diagnosis> {
    const api = this.#options.apiOf(suspicion.host);
    const before = this.#now();
    const answer = api
      ? await (this.#options.probe ?? probe)(api.address, api.port, this.#options.patienceMs)
      : 'unknown';
    const silentMs = suspicion.silentMs + this.#now() - before;
    return this.#diagnose({ ...suspicion, silentMs }, answer);
  }

  #diagnose({ host, vm, checkpoint, silentMs }: Suspicion, answer: Evidence['probe']): Diagnosis {
    const { heartbeats } = this.#options;
    const evidence: Evidence = {
      stoodStill: this.#now() < this.#doubtUntil,
      checkpoint,
      ...peerEvidence(heartbeats.peer(host), vm, silentMs),
      probe: answer,
      othersSeePeer: othersEvidence(heartbeats.whoHears(host)),
      anybodyElse: this.#anybodyElse(host),
    };
    return diagnose(evidence, { peer: host, vm });
  }

  #anybodyElse(host: string): Evidence['anybodyElse'] {
    const { heartbeats, reachesArbiter } = this.#options;
    const arbiter = reachesArbiter();
    if (arbiter === 'yes') return 'yes';
    const others = heartbeats
      .hosts()
      .filter((other) => other !== host)
      .map((other) => heartbeats.peer(other).status);
    if (others.includes('ok')) return 'yes';
    return arbiter === 'no' || others.some((status) => status !== 'none') ? 'no' : 'unknown';
  }
}
