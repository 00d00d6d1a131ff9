/** A process with some of the simulated hosts: `at % workers` says which. Counts what they send and get. */
import diagnostics from 'node:diagnostics_channel';
import type net from 'node:net';
import { messageOf } from '../../src/base/errors.ts';
import { SimHost } from './host.ts';
import {
  nowMs,
  sleep,
  type Envelope,
  type Load,
  type SimOptions,
  type ToMain,
  type ToWorker,
} from './messages.ts';

const hosts = new Map<number, SimHost>();
const sockets = new Set<net.Socket>();
let [requests, bytesIn, bytesOut, hints, failures] = [0, 0, 0, 0, 0];
let isRackLost = false;
let options: SimOptions;
let me = 0;

const tell = (message: ToMain): void => void process.send?.(message);

diagnostics.subscribe('http.client.request.start', () => {
  requests++;
});
diagnostics.subscribe('net.client.socket', (message) => {
  const { socket } = message as { socket: net.Socket };
  sockets.add(socket);
  socket.once('close', () => {
    sockets.delete(socket);
    bytesIn += socket.bytesRead;
    bytesOut += socket.bytesWritten;
  });
});

function load(): Load {
  const open = [...sockets];
  const { user, system } = process.cpuUsage();
  return {
    requests,
    bytesIn: open.reduce((sum, { bytesRead }) => sum + bytesRead, bytesIn),
    bytesOut: open.reduce((sum, { bytesWritten }) => sum + bytesWritten, bytesOut),
    hints,
    failures,
    cpuMs: (user + system) / 1000,
  };
}

function deliver(envelope: Envelope): void {
  const { to, from, vm, message } = envelope;
  if (to % options.workers === me) hosts.get(to)?.receive(from, vm, message);
  else tell(envelope);
}

async function start(endpoints: readonly string[]): Promise<void> {
  for (let at = me; at < options.hosts; at += options.workers) {
    const host = new SimHost(at, {
      options,
      endpoints,
      send: (to, from, vm, message) =>
        void setImmediate(deliver, { type: 'peer', to, from, vm, message } satisfies Envelope),
      told: (vm, from, what, resyncMs) =>
        tell({ type: 'told', vm, host: from, what, atMs: nowMs(), resyncMs }),
      hint: () => {
        hints++;
      },
      failed: (error) => {
        if (failures++ < 5) tell({ type: 'trouble', text: messageOf(error) });
      },
      isRackLost: () => isRackLost,
    });
    hosts.set(at, host);
    await host.start();
    // Leases that are kept alive all in the same moment are not what a cluster looks like.
    if (options.hosts > 100) await sleep(5);
  }
  tell({ type: 'started' });
}

async function kill(dead: ReadonlySet<number>): Promise<void> {
  isRackLost = true;
  const gone = [...hosts].filter(([at]) => dead.has(at));
  for (const [at] of gone) hosts.delete(at);
  const dying = gone.map(([, host]) => host.die());
  for (const host of hosts.values()) host.lose(dead);
  await Promise.all(dying);
}

process.on('message', (message: ToWorker) => {
  switch (message.type) {
    case 'start':
      ({ options, worker: me } = message);
      void start(message.endpoints);
      return;
    case 'peer':
      hosts.get(message.to)?.receive(message.from, message.vm, message.message);
      return;
    case 'kill':
      void kill(new Set(message.hosts));
      return;
    case 'measure':
      tell({ type: 'measured', load: load() });
      return;
    case 'stop':
      process.exit(0);
  }
});
process.on('disconnect', () => process.exit(0));
