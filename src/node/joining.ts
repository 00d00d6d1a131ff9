/**
 * One try at a new secondary, from its own end: disks, process, exports; then the guest's state. Ends with the primary's
 * first whole checkpoint here, or with everything given up.
 */
import { ClosedError, ColoError } from '../base/errors.ts';
import { Deferred } from '../base/async.ts';
import { API_VERSION, type JoinAnswer, type JoinRequest } from '../api/service.ts';
import type { PairLinks, PortLease, RunningVm } from '../ha/index.ts';
import type { ControllerParts } from './parts.ts';

/** How often the inviting host is asked whether it still means it, milliseconds; and how many answers may be missing. */
const ASK_MS = 2_000;
const MISSED_ANSWERS = 3;
/** The state of a large guest takes its time; a primary that dies meanwhile is noticed otherwise. */
const STATE_MS = 600_000;

export class Joining {
  readonly from: string;
  readonly #request: JoinRequest;
  readonly #parts: ControllerParts;
  readonly #confirmed = new Deferred<void>();
  readonly #abandoned = new AbortController();
  #vm: RunningVm | null = null;
  #ports: PortLease | null = null;
  #asking: NodeJS.Timeout | null = null;
  /** All that `start` does with the disks and the process. Never rejects. */
  #starting: Promise<unknown> = Promise.resolve();

  constructor(request: JoinRequest, parts: ControllerParts) {
    this.from = request.from;
    this.#request = request;
    this.#parts = parts;
  }

  /** `onLost`: the inviting host does not mean it any more. Throws ColoError; the caller abandons. */
  start(onLost: (reason: string) => void): Promise<{ vm: RunningVm; answer: JoinAnswer }> {
    const started = this.#start(onLost);
    this.#starting = started.catch(() => undefined);
    return started;
  }

  async #start(onLost: (reason: string) => void): Promise<{ vm: RunningVm; answer: JoinAnswer }> {
    const { spec, sizes, bitmapSince, nics, primaryHost } = this.#request;
    const { room, address, disks, steps } = this.#parts;
    const made = await disks.forJoin(sizes, bitmapSince);
    this.#abandoned.signal.throwIfAborted();
    const ports = (this.#ports = await room.reservePorts(2));
    const links: PairLinks = {
      primaryHost,
      secondaryHost: address,
      nics,
      nbdPort: ports.ports[0] ?? 0,
      migrationPort: ports.ports[1] ?? 0,
      ...(this.#parts.tlsFolder === undefined ? {} : { tlsFolder: this.#parts.tlsFolder }),
    };
    const vm = (this.#vm = await room.startSecondary(spec, made.disks, links));
    if (this.#abandoned.signal.aborted) {
      await vm.kill();
      this.#abandoned.signal.throwIfAborted();
    }
    await steps.exportDisks(vm, spec, links);
    ports.release();
    this.#askNowAndThen(onLost);
    return { vm, answer: { version: API_VERSION, links, isBitmapEnough: made.isBitmapEnough } };
  }

  /** Resolves when the guest's first state is here, whole. Throws ColoError. */
  async awaitState(): Promise<void> {
    const vm = this.#vm;
    if (!vm) throw new ClosedError('the secondary was given up');
    const { signal } = this.#abandoned;
    const running = vm.qmp.waitFor('RESUME', () => true, STATE_MS, signal);
    running.catch(() => undefined);
    const { mode } = (await vm.qmp.execute('query-colo-status')) as { mode: string };
    if (mode !== 'secondary') await running;
    signal.throwIfAborted();
  }

  /** The side has been saved as a secondary. */
  confirmed(): void {
    this.#stopAsking();
    this.#confirmed.resolve();
  }

  get confirmation(): Promise<void> {
    return this.#confirmed.promise;
  }

  /** Resolves when neither disks nor process are used any more. */
  async abandon(reason: string): Promise<void> {
    this.#stopAsking();
    const why = new ColoError(reason);
    this.#abandoned.abort(why);
    this.#confirmed.reject(why);
    this.#ports?.release();
    await this.#vm?.kill();
    await this.#starting;
  }

  /** The daemon ends; what is under way is left as it is. */
  close(): void {
    this.#stopAsking();
    this.#confirmed.resolve();
  }

  #askNowAndThen(onLost: (reason: string) => void): void {
    let missed = 0;
    const { from } = this;
    const { name } = this.#request.spec;
    const ask = async (): Promise<void> => {
      try {
        const { phase } = await this.#parts.peer(from).copy(name);
        missed = 0;
        if (phase !== 'alone' && phase !== 'arming' && phase !== 'pairing' && phase !== 'primary') {
          onLost(`'${name}' is ${phase} on ${from}, which had invited this host`);
          return;
        }
      } catch {
        if (++missed >= MISSED_ANSWERS) {
          onLost(`${from}, which had invited this host, does not answer`);
          return;
        }
      }
      if (!this.#abandoned.signal.aborted && !this.#confirmed.settled) {
        this.#asking = setTimeout(() => void ask(), ASK_MS);
      }
    };
    this.#asking = setTimeout(() => void ask(), ASK_MS);
  }

  #stopAsking(): void {
    if (this.#asking) clearTimeout(this.#asking);
    this.#asking = null;
  }
}
