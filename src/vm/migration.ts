/**
 * Migration and COLO as a manager sees them: capabilities, parameters, `migrate`, `-incoming`, x-colo-lost-heartbeat,
 * and the answers of query-migrate and query-colo-status (QEMU qapi/migration.json, migration/colo-failover.c).
 * The dialogues themselves are in checkpoint/.
 */
import net from 'node:net';
import { withDeadline } from '../base/async.ts';
import { ClosedError, ColoError, ParameterError, messageOf } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { listenSocket } from '../chardev/dial.ts';
import { CheckpointChannel } from '../checkpoint/channel.ts';
import { endKindOf } from '../checkpoint/end-kind.ts';
import type {
  CheckpointCause,
  CheckpointRecord,
  ColoExitReason,
  ProtectedGuest,
} from '../checkpoint/guest.ts';
import { DEFAULT_HEARTBEAT } from '../checkpoint/heartbeat.ts';
import type { HeartbeatSettings } from '../checkpoint/heartbeat.ts';
import type { Hello } from '../checkpoint/messages.ts';
import { HandoverError, receiveMachine, sendMachine } from '../checkpoint/migration.ts';
import { DEFAULT_RUN_SHARE } from '../checkpoint/mismatch-floor.ts';
import { ColoPrimary } from '../checkpoint/primary.ts';
import type { PrimaryHooks } from '../checkpoint/primary.ts';
import { ColoSecondary } from '../checkpoint/secondary.ts';
import { DEFAULT_ANNOUNCE_TIMES } from '../net/announcer.ts';
import type { AnnounceTimes } from '../net/announcer.ts';
import type { TlsLookup } from '../base/tls/objects.ts';
import { parseMigrationUri } from './address.ts';
import type { MigrationAddress } from './address.ts';
import { IncomingTls, connectTo, hostnameOf } from './migration-socket.ts';
import type { OutgoingTls } from './migration-socket.ts';
import type { RunControl } from './run-control.ts';

export type MigrationStatus =
  'none' | 'setup' | 'active' | 'colo' | 'completed' | 'failed' | 'cancelling' | 'cancelled';

export type ColoMode = 'none' | 'primary' | 'secondary';

/** x-colo works; the others are accepted so that QEMU's managers can set them, and change nothing. */
export const CAPABILITIES = ['x-colo', 'return-path', 'events', 'x-ignore-shared', 'auto-converge'] as const;
export type Capability = (typeof CAPABILITIES)[number];

const SETTLE_MS = 30_000;

export interface MigrationHost {
  readonly guest: ProtectedGuest;
  readonly run: RunControl;
  describe(colo: boolean): Hello;
  emit(event: string, data?: Record<string, unknown>): void;
  /** The roles of the netdevs: a secondary hears nothing from the wire and is not heard on it. */
  setSilent(silent: boolean): void;
  /** Throws ColoError when a NIC's output would leave without having been compared. */
  requireComparers(): void;
  /** Tells every filter that this side goes on alone. */
  notifyFilters(event: 'failover'): void;
  /** Resolves when no block job is on its way to its end. */
  settleJobs(): Promise<void>;
  /** Broadcasts the guest's MAC addresses (QEMU: announce-self). */
  announce(times: AnnounceTimes): void;
  /** -S was given: an incoming guest stays paused. Ignored when a secondary takes over, as in QEMU. */
  readonly startPaused: boolean;
  /** Finds what tls-creds names. */
  readonly tlsCredentials: TlsLookup;
}

/** The parameters of TLS, as QEMU shows them: empty for none. */
export interface MigrationTlsParameters {
  readonly creds: string;
  readonly hostname: string;
}

/** QEMU's answer; `x-heartbeat` is ours, of a pair whose peer beats. */
export interface ColoStatus {
  readonly mode: ColoMode;
  readonly 'last-mode': ColoMode;
  readonly reason: string;
  readonly 'x-heartbeat'?: Readonly<Record<string, number | boolean>>;
  /** COLO_EXIT's x-detail and x-message, while it waits for x-colo-lost-heartbeat. */
  readonly 'x-exit'?: Readonly<Record<'detail' | 'message', string>>;
}

/** What the monitor shows of the last checkpoints. */
export interface CheckpointStats {
  count: number;
  last: CheckpointRecord | null;
  readonly byCause: Record<CheckpointCause, number>;
  /** The newest records, oldest first; at most KEPT_RECORDS. */
  readonly records: CheckpointRecord[];
  /** On a secondary: how long each load took, in milliseconds; the newest last, at most KEPT_RECORDS. */
  readonly loadsMs: number[];
}

const KEPT_RECORDS = 1024;
const log = loggerFor('migration');

export class VmMigration {
  readonly capabilities = new Map<Capability, boolean>(CAPABILITIES.map((name) => [name, false]));
  readonly stats: CheckpointStats = {
    count: 0,
    last: null,
    byCause: { timer: 0, mismatch: 0, parameter: 0, request: 0 },
    records: [],
    loadsMs: [],
  };
  /** The parameters announce-initial, -max, -rounds and -step: for the end of a migration, and for a failover. */
  announceTimes: AnnounceTimes = DEFAULT_ANNOUNCE_TIMES;
  /** For the next connection, outgoing or incoming. */
  tls: MigrationTlsParameters = { creds: '', hostname: '' };
  readonly #host: MigrationHost;
  #status: MigrationStatus = 'none';
  #errorText: string | null = null;
  #mode: ColoMode = 'none';
  #lastMode: ColoMode = 'none';
  #failover: 'none' | 'active' | 'completed' = 'none';
  /** Why the pair has ended, for whoever has missed the event. */
  #exit: ColoStatus['x-exit'] | null = null;
  #checkpointDelayMs = 20_000;
  #mismatchRunShare = DEFAULT_RUN_SHARE;
  #heartbeat = DEFAULT_HEARTBEAT;
  #primary: ColoPrimary | null = null;
  #secondary: ColoSecondary | null = null;
  #listener: net.Server | null = null;
  readonly #incomingTls = new IncomingTls();
  #channel: CheckpointChannel | null = null;
  #incoming: { host: string; port: number } | string | null = null;
  /** Ends an outgoing migration's waiting. */
  #breakOff: AbortController | null = null;

  constructor(host: MigrationHost) {
    this.#host = host;
  }

  get mode(): ColoMode {
    return this.#mode;
  }

  get checkpointDelayMs(): number {
    return this.#checkpointDelayMs;
  }

  /** As in QEMU a change during COLO asks for a checkpoint at once. */
  set checkpointDelayMs(ms: number) {
    this.#checkpointDelayMs = ms;
    this.#primary?.setDelay(ms);
  }

  get mismatchRunShare(): number {
    return this.#mismatchRunShare;
  }

  /** Percent, at most MAX_RUN_SHARE. */
  set mismatchRunShare(percent: number) {
    this.#mismatchRunShare = percent;
    this.#primary?.setMismatchRunShare(percent);
  }

  get heartbeat(): HeartbeatSettings {
    return this.#heartbeat;
  }

  /** Also of a pair that there is. */
  set heartbeat(settings: HeartbeatSettings) {
    this.#heartbeat = settings;
    this.#channel?.setHeartbeat(settings);
  }

  setCapabilities(wanted: readonly { capability: Capability; state: boolean }[]): void {
    if (['setup', 'active', 'colo', 'cancelling'].includes(this.#status)) {
      throw new ColoError("There's a migration process in progress");
    }
    for (const { capability, state } of wanted) this.capabilities.set(capability, state);
  }

  /** A comparer saw a difference, or a person asks. Without COLO running nothing happens. */
  requestCheckpoint(cause: CheckpointCause): void {
    this.#primary?.request(cause);
  }

  /** `migrate`: returns at once; the outcome shows in query-migrate and in events. */
  migrate(uri: string): void {
    const address = parseMigrationUri(uri);
    if (['setup', 'active', 'colo', 'cancelling'].includes(this.#status)) {
      throw new ColoError("There's a migration process in progress");
    }
    if (this.#host.run.state === 'inmigrate')
      throw new ColoError('Guest is waiting for an incoming migration');
    if (this.capabilities.get('x-colo')) this.#host.requireComparers();
    if (this.#host.run.state === 'postmigrate') {
      throw new ColoError("Can't migrate the vm that was paused due to previous migration");
    }
    const tls = this.#outgoingTls(address);
    this.#setStatus('setup');
    this.#errorText = null;
    void this.#migrate(address, tls, (this.#breakOff = new AbortController()).signal);
  }

  /** Breaks an outgoing migration off. As in QEMU it is no way out of COLO: x-colo-lost-heartbeat is. */
  cancel(): void {
    if (this.#status !== 'setup' && this.#status !== 'active') return;
    this.#setStatus('cancelling');
    const reason = new ColoError('migration was cancelled');
    this.#breakOff?.abort(reason);
    this.#channel?.destroy(reason);
  }

  /** Listens for the source; one at a time. What is not a source is turned away and the listener stays. */
  async listen(uri: string): Promise<void> {
    const address = parseMigrationUri(uri);
    const server = net.createServer();
    const { type } = address;
    await listenSocket(
      server,
      type === 'unix' ? address : { type, host: address.host, port: `${address.port}` },
    );
    const bound = server.address();
    this.#incoming =
      typeof bound === 'string' || bound === null ? bound : { host: bound.address, port: bound.port };
    this.#listener = server;
    this.#setStatus('setup');
    this.#host.setSilent(true);
    server.on('error', (error) => log.warn({ err: error }, 'incoming listener'));
    server.on('connection', (socket) => void this.#admit(socket));
  }

  /** Takes a source in if it is the only one and, with TLS, known. */
  async #admit(clear: net.Socket): Promise<void> {
    const { creds } = this.tls;
    const turnedAway = (error: unknown): void => {
      log.warn({ err: error }, 'an incoming migration was turned away');
      this.#errorText = messageOf(error);
    };
    const find = (): TlsCredentials => this.#host.tlsCredentials(creds, 'server');
    const socket =
      creds === '' || this.#channel ? clear : await this.#incomingTls.enter(clear, find, turnedAway);
    if (socket === null) return;
    if (this.#channel || !this.#listener) socket.destroy();
    else await this.#accept(socket);
  }

  /** Null: in clear. Throws what QEMU would find out only when it has connected. */
  #outgoingTls(address: MigrationAddress): OutgoingTls | null {
    const { creds, hostname } = this.tls;
    if (creds === '') return null;
    const credentials = this.#host.tlsCredentials(creds, 'client');
    const tls = { credentials, hostname: hostname === '' ? null : hostname };
    credentials.clientOptions(hostnameOf(tls, address));
    return tls;
  }

  /**
   * x-colo-lost-heartbeat: this side goes on alone. The errors are QEMU's (qmp_x_colo_lost_heartbeat).
   */
  async lostHeartbeat(): Promise<void> {
    if (this.#mode === 'none') throw new ColoError('VM is not in COLO mode');
    if (this.#failover === 'active') throw new ColoError('COLO failover is already activated');
    this.#failover = 'active';
    const { guest } = this.#host;
    try {
      if (this.#primary) {
        await this.#primary.failover();
      } else if (this.#secondary) {
        await this.#secondary.failover();
        // First the switches learn where the guest is now, then what the primary may have kept is said again.
        this.#host.setSilent(false);
        this.#host.announce(this.announceTimes);
        this.#host.notifyFilters('failover');
        await guest.resume();
      }
    } catch (error) {
      this.#failover = 'none';
      throw error;
    }
    this.#host.run.isFollower = false;
    this.#failover = 'completed';
    this.#lastMode = this.#mode;
    this.#mode = 'none';
    this.#primary = null;
    this.#secondary = null;
    this.#channel = null;
    this.#setStatus('completed');
  }

  /** Of the checkpoint channel; null: there is none. */
  get channelTraffic(): CheckpointChannel['traffic'] | null {
    return this.#channel?.traffic ?? null;
  }

  /** Those of the kept records that came after the first `count` of all. */
  recordsAfter(count: number): CheckpointRecord[] {
    const { stats } = this;
    return stats.records.slice(Math.max(0, count - (stats.count - stats.records.length)));
  }

  queryColoStatus(): ColoStatus {
    const reason =
      this.#failover === 'none' ? 'none' : this.#failover === 'completed' ? 'request' : 'processing';
    const heard = this.#channel?.heartbeat ?? null;
    return {
      'last-mode': this.#lastMode,
      mode: this.#mode,
      reason,
      ...(heard && {
        'x-heartbeat': {
          'last-heard-ms': Math.round(heard.lastHeardMs),
          'is-silent': heard.isSilent,
          'interval-ms': heard.intervalMs,
          'patience-ms': heard.patienceMs,
        },
      }),
      ...(this.#exit && this.#mode !== 'none' && { 'x-exit': this.#exit }),
    };
  }

  queryMigrate(): Record<string, unknown> {
    if (this.#status === 'none') return {};
    const incoming = this.#incoming;
    return {
      status: this.#status,
      ...(this.#errorText !== null && this.#status === 'failed' ? { 'error-desc': this.#errorText } : {}),
      ...(incoming !== null && this.#host.run.state === 'inmigrate'
        ? {
            'socket-address': [
              typeof incoming === 'string'
                ? { type: 'unix', path: incoming }
                : { type: 'inet', host: incoming.host, port: String(incoming.port), ipv4: true },
            ],
          }
        : {}),
    };
  }

  /** The bound address of `-incoming`, for tests that listen on port 0. */
  get incomingAddress(): { host: string; port: number } | string | null {
    return this.#incoming;
  }

  /** Why the last migration failed or was refused, or null. */
  get errorText(): string | null {
    return this.#errorText;
  }

  close(): void {
    const reason = new ColoError('the VM is ending');
    this.#listener?.close();
    this.#breakOff?.abort(reason);
    this.#channel?.destroy(reason);
  }

  async #migrate(address: MigrationAddress, tls: OutgoingTls | null, signal: AbortSignal): Promise<void> {
    const { run } = this.#host;
    let socket: net.Socket | null = null;
    try {
      // A mirror that is being cut has to be whole before a secondary is built on its target; and before the
      // destination is spoken to, whose patience is short.
      await withDeadline(this.#host.settleJobs(), SETTLE_MS, 'a block job that is ending', signal);
      socket = await connectTo(address, tls, signal);
      await this.#outgoing(socket, tls !== null, signal);
    } catch (cause) {
      socket?.destroy();
      const isCancelled = this.#status === 'cancelling';
      this.#errorText = messageOf(cause);
      log.warn({ err: cause }, isCancelled ? 'migration was cancelled' : 'migration failed');
      const putBack = cause instanceof HandoverError ? run.settle('paused') : run.restore();
      await putBack.catch((error: unknown) => log.error({ err: error }, 'the guest cannot go on'));
      this.#setStatus(isCancelled ? 'cancelled' : 'failed');
    }
  }

  async #outgoing(socket: net.Socket, isSecure: boolean, signal: AbortSignal): Promise<void> {
    const colo = this.capabilities.get('x-colo') === true;
    const channel = (this.#channel = this.#channelOn(socket));
    const { guest, run } = this.#host;
    this.#setStatus('active');
    try {
      await sendMachine(guest, channel, this.#host.describe(colo));
      if (colo) signal.throwIfAborted();
    } catch (error) {
      this.#channel = null;
      channel.destroy(null);
      // There is no pair, and no x-colo-lost-heartbeat will ask: what was held leaves.
      if (colo) for (const net of guest.networks()) await net.stop('primary', true).catch(() => undefined);
      // In TLS 1.3 a destination looks at our certificate when our handshake is over.
      if (isSecure && !channel.isIntroduced && error instanceof ClosedError) {
        throw new ColoError(
          `${error.message}; if the destination refused this side's certificate, its log tells why`,
          {
            cause: error,
          },
        );
      }
      throw error;
    }
    if (!colo) {
      this.#channel = null;
      channel.end();
      await run.settle('postmigrate');
      this.#setStatus('completed');
      return;
    }
    this.#mode = 'primary';
    this.#exit = null;
    this.#failover = 'none';
    const hooks: PrimaryHooks = {
      onExit: (reason, error) => this.#onExit('primary', reason, error),
      onCheckpoint: (record) => this.#record(record),
      onHeard: (isHeard) => run.setHeard(isHeard),
    };
    const primary = (this.#primary = new ColoPrimary(guest, channel, this.#checkpointDelayMs, hooks, {
      mismatchRunShare: this.#mismatchRunShare,
    }));
    this.#setStatus('colo');
    await primary.run();
  }

  #channelOn(socket: net.Socket): CheckpointChannel {
    const told = (event: string, silentMs: number): void =>
      this.#host.emit(event, { 'silent-ms': Math.round(silentMs) });
    return new CheckpointChannel(socket, {
      heartbeat: this.#heartbeat,
      onHeartbeat: {
        onSilent: (silentMs) => told('COLO_PEER_SILENT', silentMs),
        onBack: (silentMs) => told('COLO_PEER_BACK', silentMs),
        onDeafPeer: (isDeaf) => this.#primary?.setPeerDeaf(isDeaf),
      },
    });
  }

  async #accept(socket: net.Socket): Promise<void> {
    const channel = (this.#channel = this.#channelOn(socket));
    const { guest, run } = this.#host;
    try {
      const theirs = await receiveMachine(guest, channel, () => this.#host.describe(false));
      this.#listener?.close();
      this.#listener = null;
      if (!theirs.colo) {
        this.#channel = null;
        this.#setStatus('completed');
        this.#host.setSilent(false);
        this.#host.announce(this.announceTimes);
        if (
          run.wantedAfterMigration === 'stop' ||
          (this.#host.startPaused && run.wantedAfterMigration === null)
        )
          await run.settle('paused');
        else await guest.resume();
        return;
      }
      this.#mode = 'secondary';
      this.#exit = null;
      run.isFollower = true;
      this.#failover = 'none';
      const secondary = (this.#secondary = new ColoSecondary(guest, channel, {
        onExit: (reason, error) => this.#onExit('secondary', reason, error),
        onLoaded: ({ loadMs }) => keep(this.stats.loadsMs, loadMs),
      }));
      this.#setStatus('colo');
      await secondary.run();
      // Half of one state and half of another: nobody may let it run.
      if (secondary.isTorn && run.state === 'colo') run.mark('internal-error');
    } catch (cause) {
      // Garbage, a wrong machine, a source that died: the listener stays for another try.
      log.warn({ err: cause }, 'incoming migration refused');
      this.#errorText = messageOf(cause);
      await channel.sendFailure(messageOf(cause)).catch(() => undefined);
      channel.destroy(null);
      this.#channel = null;
    }
  }

  #onExit(mode: 'primary' | 'secondary', reason: ColoExitReason, error: Error | null): void {
    if (error) log.warn({ err: error, mode }, 'COLO ended');
    this.#exit = error && { detail: endKindOf(error), message: error.message };
    const why = this.#exit && { 'x-detail': this.#exit.detail, 'x-message': this.#exit.message };
    this.#host.emit('COLO_EXIT', { mode, reason, ...why });
  }

  #record(record: CheckpointRecord): void {
    const { stats } = this;
    stats.count++;
    stats.last = record;
    stats.byCause[record.cause]++;
    keep(stats.records, record);
  }

  #setStatus(status: MigrationStatus): void {
    this.#status = status;
    if (this.capabilities.get('events')) this.#host.emit('MIGRATION', { status });
  }
}

/** Appends, and forgets the oldest beyond the bound. */
function keep<T>(list: T[], entry: T): void {
  list.push(entry);
  if (list.length > KEPT_RECORDS) list.shift();
}

/** Guards a name from outside. */
export function isCapability(name: string): name is Capability {
  return (CAPABILITIES as readonly string[]).includes(name);
}

/** Throws as QEMU does for a capability it does not know. */
export function requireCapability(name: string): Capability {
  if (!isCapability(name)) {
    throw new ParameterError(`Parameter 'capability' does not accept value '${name}'`);
  }
  return name;
}
