/**
 * Every route of the API as a table: what it takes, and which call of the service it is. http-server.ts serves it;
 * docs/api.md lists it (a test compares). `/v1` is for people, `/peer/v1` for other hosts' daemons.
 */
import type { Duplex } from 'node:stream';
import type { z } from 'zod';
import { ParameterError } from '../base/errors.ts';
import { hostName, queries, read, requests, vmName } from './schemas.ts';
import type { Copy, NodeService, PeerService } from './service.ts';

/** What came in, not yet checked. */
export interface Incoming {
  readonly params: Readonly<Record<string, string>>;
  readonly query: unknown;
  readonly body: unknown;
  /** Aborted when whoever asked has gone away. */
  readonly signal: AbortSignal;
}

export interface AnswerRoute<Service> {
  readonly kind: 'answer';
  readonly method: 'GET' | 'POST' | 'PUT';
  readonly path: string;
  /** Throws ParameterError for what came in, and whatever the service throws. */
  readonly run: (service: Service, incoming: Incoming) => Promise<unknown>;
}

/** Answered by JSON lines, as many as there are. */
export interface StreamRoute {
  readonly kind: 'stream';
  readonly method: 'GET';
  readonly path: string;
  readonly run: (service: NodeService, incoming: Incoming) => AsyncIterable<unknown>;
}

/** Becomes a stream of bytes in both directions. `?copy=` says of which copy. */
export interface UpgradeRoute {
  readonly kind: 'upgrade';
  readonly method: 'GET';
  readonly path: string;
  /** The value of the header `Upgrade`. */
  readonly protocol: string;
  readonly run: (service: NodeService, vm: string, copy: Copy | undefined) => Promise<Duplex>;
}

export const UPGRADE_ROUTES: readonly UpgradeRoute[] = [
  {
    kind: 'upgrade',
    method: 'GET',
    path: '/v1/vms/:vm/console',
    protocol: 'colo-console',
    run: (service, vm, copy) => service.console(vm, copy),
  },
  {
    kind: 'upgrade',
    method: 'GET',
    path: '/v1/vms/:vm/screen',
    protocol: 'colo-screen',
    run: (service, vm, copy) => service.screen(vm, copy),
  },
];

/** Said of any other path. A client knows a node that does not have such a route yet by it. */
export const NOTHING_TO_UPGRADE = 'there is nothing to upgrade';

const vmOf = ({ params }: Incoming): string => read(vmName, params['vm'], 'the VM in the path');
const hostOf = ({ params }: Incoming): string => read(hostName, params['host'], 'the host in the path');
const body = <T>(schema: z.ZodType<T>, { body: given }: Incoming): T =>
  read(schema, given === undefined || given === null ? {} : given, 'the request');
const query = <T>(schema: z.ZodType<T>, incoming: Incoming): T => read(schema, incoming.query, 'the query');

type Run<Service> = AnswerRoute<Service>['run'];
const get = <S>(path: string, run: Run<S>): AnswerRoute<S> => ({ kind: 'answer', method: 'GET', path, run });
const post = <S>(path: string, run: Run<S>): AnswerRoute<S> => ({
  kind: 'answer',
  method: 'POST',
  path,
  run,
});
const stream = (path: string, run: StreamRoute['run']): StreamRoute => ({
  kind: 'stream',
  method: 'GET',
  path,
  run,
});

export const NODE_ROUTES: readonly (AnswerRoute<NodeService> | StreamRoute)[] = [
  get('/v1/health', (node) => node.health()),
  get('/v1/hosts', (node) => node.hosts()),
  post('/v1/hosts/:host/maintenance', (node, incoming) => {
    const { isOn, drain } = body(requests.maintenance, incoming);
    return node.setMaintenance(hostOf(incoming), isOn, { drain }, { signal: incoming.signal });
  }),
  post('/v1/check', (node, incoming) => node.check(body(requests.spec, incoming).spec)),
  get('/v1/vms', (node) => node.vms()),
  get('/v1/vms/:vm', (node, incoming) => node.vm(vmOf(incoming))),
  {
    kind: 'answer',
    method: 'PUT',
    path: '/v1/vms/:vm',
    run: (node, incoming) => {
      const spec = body(requests.spec, incoming).spec;
      if (spec.name !== vmOf(incoming)) {
        throw new ParameterError(
          `the request: spec.name: '${spec.name}' is put at '${vmOf(incoming)}': they must be the same`,
        );
      }
      return node.up(spec);
    },
  },
  get('/v1/vms/:vm/spec', (node, incoming) => node.spec(vmOf(incoming))),
  post('/v1/vms/:vm/down', (node, incoming) => {
    const { purge } = body(requests.down, incoming);
    return node.down(vmOf(incoming), { purge }, { signal: incoming.signal });
  }),
  post('/v1/vms/:vm/checkpoint', (node, incoming) => {
    body(requests.nothing, incoming);
    return node.checkpoint(vmOf(incoming), { signal: incoming.signal });
  }),
  post('/v1/vms/:vm/failover', (node, incoming) => {
    body(requests.nothing, incoming);
    return node.failover(vmOf(incoming), { signal: incoming.signal });
  }),
  post('/v1/vms/:vm/migrate', (node, incoming) => {
    const { host } = body(requests.migrate, incoming);
    return node.migrate(vmOf(incoming), host, { signal: incoming.signal });
  }),
  post('/v1/vms/:vm/pause', (node, incoming) => {
    const { isPaused } = body(requests.paused, incoming);
    return node.setPaused(vmOf(incoming), isPaused);
  }),
  post('/v1/vms/:vm/qmp', (node, incoming) => {
    const { command, arguments: args } = body(requests.qmp, incoming);
    return node.qmp(vmOf(incoming), command, args);
  }),
  stream('/v1/events', (node, incoming) => {
    const { after, vm, follow } = query(queries.events, incoming);
    const { signal } = incoming;
    return node.events({
      follow,
      signal,
      ...(after !== undefined && { after }),
      ...(vm !== undefined && { vm }),
    });
  }),
  stream('/v1/vms/:vm/logs', (node, incoming) => {
    const { lines, follow } = query(queries.logs, incoming);
    return logLines(node.logs(vmOf(incoming), { lines, follow, signal: incoming.signal }));
  }),
];

export const PEER_ROUTES: readonly AnswerRoute<PeerService>[] = [
  get('/peer/v1/vms/:vm', (peer, incoming) => peer.copy(vmOf(incoming))),
  post('/peer/v1/vms/:vm/join', (peer, incoming) => {
    const request = body(requests.join, incoming);
    if (request.spec.name !== vmOf(incoming)) {
      throw new ParameterError(`the request: spec.name: '${request.spec.name}' is not the VM in the path`);
    }
    return peer.join(request, { signal: incoming.signal });
  }),
  post('/peer/v1/vms/:vm/await-checkpoint', (peer, incoming) => {
    const { epoch, nonce } = body(requests.pairing, incoming);
    return peer.awaitCheckpoint(vmOf(incoming), { epoch, nonce }, { signal: incoming.signal });
  }),
  post('/peer/v1/vms/:vm/take-over', (peer, incoming) => {
    body(requests.nothing, incoming);
    return peer.takeOver(vmOf(incoming), { signal: incoming.signal });
  }),
  post('/peer/v1/vms/:vm/leave', (peer, incoming) =>
    peer.leave(vmOf(incoming), body(requests.reason, incoming).reason),
  ),
  post('/peer/v1/vms/:vm/purge', (peer, incoming) => {
    body(requests.nothing, incoming);
    return peer.purge(vmOf(incoming));
  }),
  post('/peer/v1/facts', (peer, incoming) => peer.facts(body(requests.spec, incoming).spec)),
];

/** A longer line of a log is cut. */
export const MAX_LOG_LINE = 65_536;

async function* logLines(lines: AsyncIterable<string>): AsyncGenerator<{ line: string }> {
  for await (const line of lines) yield { line: line.slice(0, MAX_LOG_LINE) };
}
