/**
 * What the dashboard costs the process that serves it: CPU time of a server in a process of its own, nobody watching, then
 * with ten pages that watch the same VM at rest, and with ten that watch a guest at work. Its source is imitated, as large
 * as a cluster of three hosts and ten VMs, so that what is measured is the server's own part: asking, comparing, sending.
 * With an address, a running `colo demo` or `colo node` is watched instead, and the CPU time of process PID is told.
 *
 *   npm run build && node --import tsx bench/dashboard.ts [URL PID VM [TOKEN]]
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { DashboardServer } from '../src/dashboard/server.ts';
import { FalseSource } from '../test/helpers/dashboard-source.ts';

const WATCHERS = 10;
const SETTLE_MS = 3_000;
const MEASURE_MS = 20_000;
/** USER_HZ is 100 on Linux. */
const TICK_MS = 10;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** User and system time of a process so far, its children's not. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

async function share(pid: number, what: string): Promise<void> {
  await sleep(SETTLE_MS);
  const [cpu, at] = [cpuMs(pid), performance.now()];
  await sleep(MEASURE_MS);
  const percent = ((cpuMs(pid) - cpu) / (performance.now() - at)) * 100;
  console.log(`${what}: ${percent.toFixed(2)} % of a core (load ${os.loadavg()[0]!.toFixed(1)})`);
}

async function watch(
  url: string,
  vm: string,
  token: string | undefined,
): Promise<{ bytes: number; close(): void }> {
  const told = { bytes: 0, close: (): void => undefined };
  const sockets = Array.from({ length: WATCHERS }, () => {
    const protocols = ['colo-dashboard', ...(token === undefined ? [] : [`token.${token}`])];
    const socket = new WebSocket(`${url.replace(/^http/, 'ws')}v1/live`, protocols, {
      rejectUnauthorized: false,
    });
    socket.on('message', (data) => (told.bytes += (data as Buffer).length));
    socket.on('close', (code, reason) => code !== 1005 && console.log(`closed: ${code} ${String(reason)}`));
    return socket;
  });
  await Promise.all(sockets.map((socket) => once(socket, 'open')));
  for (const socket of sockets) socket.send(JSON.stringify({ type: 'watch', vm }));
  told.close = () => sockets.forEach((socket) => socket.close());
  return told;
}

async function measure(url: string, pid: number, vm: string, token?: string): Promise<void> {
  await share(pid, 'nobody watches');
  const pages = await watch(url, vm, token);
  await share(pid, `${WATCHERS} pages watch`);
  const before = pages.bytes;
  await sleep(2_000);
  console.log(`sent to each: ${Math.round((pages.bytes - before) / 2 / WATCHERS)} bytes a second`);
  pages.close();
}

if (process.send) {
  const source = new FalseSource('node');
  const server = await DashboardServer.listen({ host: '127.0.0.1', port: 0 }, source);
  process.on('message', () => source.live());
  process.on('disconnect', () => process.exit());
  process.send(server.url);
} else {
  const cpu = os.cpus()[0]?.model ?? 'unknown CPU';
  console.log(`${os.cpus().length} × ${cpu}; Node ${process.version}`);
  const [given, pid, vm = 'demo', token] = process.argv.slice(2);
  if (given !== undefined) await measure(given, Number(pid), vm, token);
  else {
    const child = fork(fileURLToPath(import.meta.url), { stdio: 'inherit' });
    const [url] = (await once(child, 'message')) as [string];
    console.log('a guest at rest');
    await measure(url, child.pid!, 'web');
    child.send('work');
    console.log('a guest at work, with a checkpoint every two seconds');
    await measure(url, child.pid!, 'web');
    child.disconnect();
  }
}
