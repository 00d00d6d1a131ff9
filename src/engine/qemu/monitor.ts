/**
 * The QMP of the QEMU that runs the guest, as one monitor although the process behind it changes: commands wait while
 * one process takes over from another, what they set for good is told to the next one too, and events come from the one
 * that runs the guest only. Also here, because it shows in the events: whether QEMU stopped because we said so.
 *
 * Facts, asked of QEMU 7.2: STOP and RESUME are sent before the reply to the command that caused them; a monitor answers
 * in order, so query-status sent right behind stop tells why the guest stands before anything else happens to it.
 */
import { Deferred, withDeadline } from '../../base/async.ts';
import { ClosedError } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';
import { QmpCommandError } from '../../qmp/client.ts';
import type { QmpEvent, QmpVersion } from '../../qmp/types.ts';
import type { EngineMonitor, ShutdownCause } from '../engine.ts';
import type { QemuChild } from './child.ts';
import { LastingCommands } from './lasting-commands.ts';

const log = loggerFor('engine-qemu');

/** A dump of a big guest takes minutes, and its user waits for it. */
const COMMAND_DEADLINE_MS = 600_000;
/** How long a command waits for the process that takes over. */
const SWAP_DEADLINE_MS = 30_000;
/** How often a command is given to the next process when its own was replaced. */
const MAX_REPEATS = 3;

/** Events of what we do with QEMU, or of what its user does not know of. */
const OWN_EVENTS = new Set([
  'STOP',
  'RESUME',
  'SHUTDOWN',
  'MIGRATION',
  'MIGRATION_PASS',
  'NETDEV_STREAM_CONNECTED',
  'NETDEV_STREAM_DISCONNECTED',
]);

/** Run states in which a guest stands without having been told to. */
const SELF_STOPS = new Set([
  'io-error',
  'watchdog',
  'guest-panicked',
  'internal-error',
  'suspended',
  'debug',
]);

export interface MonitorHooks {
  /** A command is given that may change the state of the machine. */
  onBegin(): void;
  /** The guest stands by itself; `state` is QEMU's run state. Maybe told more than once, and while it stands anyway. */
  onSelfStop(state: string): void;
  onSelfResume(): void;
  /** It is over: powered off, or its reset was to end it. */
  onShutdown(cause: ShutdownCause): void;
}

/** What this needs of a QemuChild. */
export type MonitoredChild = Pick<QemuChild, 'qmp' | 'onEvent'>;

export class QemuMonitor implements EngineMonitor {
  onEvent: EngineMonitor['onEvent'] = null;
  commands: ReadonlySet<string> = new Set();
  version: QmpVersion = { qemu: { major: 0, minor: 0, micro: 0 }, package: '' };
  readonly #hooks: MonitorHooks;
  readonly #lasting = new LastingCommands();
  #child: MonitoredChild | null = null;
  /** Resolves when there is a process again. */
  #next = new Deferred<void>();
  #failure: Error | null = null;
  /** STOP and RESUME are ours at the moment. */
  #isCommanding = false;

  constructor(hooks: MonitorHooks) {
    this.#hooks = hooks;
  }

  /** `child` runs the guest from now on. */
  async attach(child: MonitoredChild): Promise<void> {
    child.onEvent = (event) => this.#onEvent(event);
    if (this.commands.size === 0) {
      this.version = child.qmp.greeting.QMP.version;
      const known = (await child.qmp.execute('query-commands')) as { name: string }[];
      this.commands = new Set(known.map(({ name }) => name));
    }
    await this.#lasting.repeat((command, args) => child.qmp.execute(command, args));
    this.#child = child;
    this.#next.resolve();
  }

  /** The process is being replaced: commands wait for the next. */
  detach(): void {
    if (!this.#child) return;
    this.#child.onEvent = null;
    this.#child = null;
    this.#next = new Deferred();
  }

  /** There will be no process any more. */
  close(reason: Error): void {
    this.detach();
    this.#failure ??= reason;
    this.#next.reject(reason);
  }

  async execute(command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    for (let repeats = 0; ; repeats++) {
      const child = await this.ready(command);
      if (!command.startsWith('query-')) this.#hooks.onBegin();
      try {
        const result = await child.qmp.execute(command, args, { timeoutMs: COMMAND_DEADLINE_MS });
        this.#lasting.note(command, args);
        return result;
      } catch (error) {
        // What it did to a guest that a checkpoint has replaced is undone: it is done to the new one.
        const wasReplaced = this.#child !== child && !this.#failure && !(error instanceof QmpCommandError);
        if (!wasReplaced || repeats === MAX_REPEATS) throw error;
      }
    }
  }

  /**
   * No vCPU runs when this ends. QEMU takes one command a turn of its main loop: it has looked at its sockets once more
   * before it stops.
   */
  async stop(): Promise<void> {
    const { qmp } = await this.ready('stop');
    await this.#command(async () => {
      qmp.execute('query-status').catch(() => undefined);
      const stopped = qmp.execute('stop');
      qmp.execute('query-status').then(
        (answer) => this.#standing(answer),
        () => undefined, // told by `stop`
      );
      await stopped;
    });
  }

  async cont(): Promise<void> {
    const { qmp } = await this.ready('cont');
    await this.#command(() => qmp.execute('cont'));
  }

  async #command(act: () => Promise<unknown>): Promise<void> {
    this.#isCommanding = true;
    try {
      await act();
    } finally {
      this.#isCommanding = false;
    }
  }

  /** Waits for a process, within bounds; `command` is for the error. Throws ClosedError, TimeoutError. */
  async ready(command: string): Promise<MonitoredChild> {
    if (!this.#child && !this.#failure) await withDeadline(this.#next.promise, SWAP_DEADLINE_MS, command);
    if (this.#failure)
      throw new ClosedError(`${command}: the machine is gone: ${this.#failure.message}`, {
        cause: this.#failure,
      });
    if (!this.#child) throw new ClosedError(`${command}: the machine is being replaced`);
    return this.#child;
  }

  #onEvent(event: QmpEvent): void {
    const { event: name, data, timestamp } = event;
    if (!OWN_EVENTS.has(name)) this.onEvent?.(name, data, timestamp);
    if (name === 'SUSPEND') this.#hooks.onSelfStop('suspended');
    else if (name === 'WAKEUP') this.#hooks.onSelfResume();
    else if (name === 'SHUTDOWN') {
      const { guest, reason } = data;
      // On a signal to QEMU itself it ends, and its end is told.
      if (reason === 'host-signal' || reason === 'host-qmp-quit') return;
      this.#hooks.onShutdown({ guest: guest === true, reason: String(reason) });
    } else if (this.#isCommanding) return;
    else if (name === 'RESUME') this.#hooks.onSelfResume();
    else if (name === 'STOP') {
      this.#child?.qmp.execute('query-status').then(
        (answer) => this.#standing(answer),
        (error: unknown) => log.debug({ err: error }, 'why the guest stands'),
      );
    }
  }

  #standing(answer: unknown): void {
    const { status } = answer as { status: string };
    if (SELF_STOPS.has(status)) this.#hooks.onSelfStop(status);
  }
}
