/**
 * The other end of http-server.ts: a host's daemon as NodeService and PeerService, over its unix socket or over TCP. Which
 * call is which request is here; how a request is made, client-transport.ts.
 */
import type { Duplex } from 'node:stream';
import type { z } from 'zod';
import { ColoError, ParameterError, ProtocolError } from '../base/errors.ts';
import { parseHostFacts, type HostFacts } from '../ha/spec/facts.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import type { Finding, HaEvent, HostView, VmView } from '../ha/views.ts';
import { parseNodeAddress, textOfNodeAddress, type NodeAddress } from './address.ts';
import { ClientTransport, type NodeClientOptions } from './client-transport.ts';
import { MAX_LOG_LINE, NOTHING_TO_UPGRADE } from './routes.ts';
import { answers } from './schemas.ts';
import type {
  CallOptions,
  Copy,
  CopyReport,
  EventQuery,
  Health,
  JoinAnswer,
  JoinRequest,
  NodeService,
  PeerService,
} from './service.ts';

export type { NodeClientOptions } from './client-transport.ts';

export class NodeClient implements NodeService, PeerService {
  readonly address: NodeAddress;
  /** For messages. */
  readonly where: string;
  readonly #wire: ClientTransport;

  /** Connects to nothing yet. Throws ParameterError for an address that is none. */
  constructor(address: NodeAddress | string, options: NodeClientOptions = {}) {
    this.address = typeof address === 'string' ? parseNodeAddress(address) : address;
    this.where = textOfNodeAddress(this.address);
    this.#wire = new ClientTransport(this.address, options);
  }

  /** Calls under way end. */
  async close(): Promise<void> {
    await this.#wire.close();
  }

  health(): Promise<Health> {
    return this.#get('/v1/health', answers.health);
  }

  hosts(): Promise<readonly HostView[]> {
    return this.#get('/v1/hosts', answers.hosts);
  }

  vms(): Promise<readonly VmView[]> {
    return this.#get('/v1/vms', answers.vms);
  }

  vm(name: string): Promise<VmView> {
    return this.#get(vmPath(name), answers.vm);
  }

  spec(name: string): Promise<VmSpec> {
    return this.#get(vmPath(name, '/spec'), answers.spec);
  }

  check(spec: VmSpec): Promise<readonly Finding[]> {
    return this.#post('/v1/check', { spec }, answers.findings);
  }

  up(spec: VmSpec): Promise<VmView> {
    return this.#wire.call('PUT', vmPath(spec.name), { spec }, answers.vm);
  }

  down(name: string, options: { readonly purge: boolean }, call?: CallOptions): Promise<VmView> {
    return this.#post(vmPath(name, '/down'), { purge: options.purge }, answers.vm, call);
  }

  checkpoint(name: string, call?: CallOptions): Promise<VmView> {
    return this.#post(vmPath(name, '/checkpoint'), {}, answers.vm, call);
  }

  failover(name: string, call?: CallOptions): Promise<VmView> {
    return this.#post(vmPath(name, '/failover'), {}, answers.vm, call);
  }

  migrate(name: string, host: string, call?: CallOptions): Promise<VmView> {
    return this.#post(vmPath(name, '/migrate'), { host }, answers.vm, call);
  }

  setPaused(name: string, isPaused: boolean): Promise<VmView> {
    return this.#post(vmPath(name, '/pause'), { isPaused }, answers.vm);
  }

  setMaintenance(
    host: string,
    isOn: boolean,
    options: { readonly drain: boolean },
    call?: CallOptions,
  ): Promise<HostView> {
    const path = `/v1/hosts/${encodeURIComponent(host)}/maintenance`;
    return this.#post(path, { isOn, drain: options.drain }, answers.host, call);
  }

  async *events({ after, vm, follow, signal }: EventQuery): AsyncGenerator<HaEvent> {
    const query = new URLSearchParams({ follow: follow ? '1' : '0' });
    if (after !== undefined) query.set('after', String(after));
    if (vm !== undefined) query.set('vm', vm);
    for await (const value of this.#wire.lines(`/v1/events?${query.toString()}`, signal)) {
      yield this.#wire.read(answers.event, value);
    }
  }

  async *logs(
    name: string,
    options: { readonly lines: number; readonly follow: boolean; readonly signal?: AbortSignal },
  ): AsyncGenerator<string> {
    const query = new URLSearchParams({ lines: String(options.lines), follow: options.follow ? '1' : '0' });
    for await (const value of this.#wire.lines(vmPath(name, `/logs?${query.toString()}`), options.signal)) {
      const { line } = value as { line?: unknown };
      if (typeof line !== 'string' || line.length > MAX_LOG_LINE) {
        throw new ProtocolError(`${this.where}: a line of the log is not one`);
      }
      yield line;
    }
  }

  console(name: string, copy?: Copy): Promise<Duplex> {
    return this.#upgrade(vmPath(name, '/console'), 'colo-console', copy);
  }

  screen(name: string, copy?: Copy): Promise<Duplex> {
    return this.#upgrade(vmPath(name, '/screen'), 'colo-screen', copy);
  }

  qmp(name: string, command: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const body = { command, ...(args && { arguments: args }) };
    return this.#post(vmPath(name, '/qmp'), body, answers.anything);
  }

  copy(name: string): Promise<CopyReport> {
    return this.#get(peerPath(name), answers.copy);
  }

  join(wanted: JoinRequest, call?: CallOptions): Promise<JoinAnswer> {
    return this.#post(peerPath(wanted.spec.name, '/join'), wanted, answers.join, call);
  }

  awaitCheckpoint(
    name: string,
    { epoch, nonce }: { readonly epoch: number; readonly nonce: string },
    call?: CallOptions,
  ): Promise<void> {
    return this.#post(peerPath(name, '/await-checkpoint'), { epoch, nonce }, answers.done, call);
  }

  takeOver(name: string, call?: CallOptions): Promise<void> {
    return this.#post(peerPath(name, '/take-over'), {}, answers.done, call);
  }

  leave(name: string, reason: string): Promise<void> {
    return this.#post(peerPath(name, '/leave'), { reason }, answers.done);
  }

  purge(name: string): Promise<void> {
    return this.#post(peerPath(name, '/purge'), {}, answers.done);
  }

  async facts(spec: VmSpec): Promise<HostFacts> {
    return parseHostFacts(await this.#post('/peer/v1/facts', { spec }, answers.facts));
  }

  async #upgrade(path: string, protocol: string, copy: Copy | undefined): Promise<Duplex> {
    try {
      return await this.#wire.upgrade(copy === 'secondary' ? `${path}?copy=${copy}` : path, protocol);
    } catch (error) {
      if (!(error instanceof ParameterError) || !error.message.endsWith(NOTHING_TO_UPGRADE)) throw error;
      const what = protocol === 'colo-screen' ? 'screens' : 'consoles of secondaries';
      throw new ColoError(
        `${this.where}: that node is of an earlier version, which has no ${what}: upgrade it`,
        {
          cause: error,
        },
      );
    }
  }

  #get<T>(path: string, schema: z.ZodType<T>): Promise<T> {
    return this.#wire.call('GET', path, null, schema);
  }

  #post<T>(path: string, body: object, schema: z.ZodType<T>, call?: CallOptions): Promise<T> {
    return this.#wire.call('POST', path, body, schema, call);
  }
}

function vmPath(name: string, rest = ''): string {
  return `/v1/vms/${encodeURIComponent(name)}${rest}`;
}

function peerPath(name: string, rest = ''): string {
  return `/peer/v1/vms/${encodeURIComponent(name)}${rest}`;
}
