/**
 * How fast a VM is back, and protected again, with nobody at the keyboard: three `colo node` on one machine, a guest on
 * the embedded engine, a client that holds a session and a ledger open. The process of the copy that is heard is killed
 * with SIGKILL again and again, each time at a random moment. Told are percentiles of the time from the kill to the first
 * answer to a request that was sent after it on a connection that was open before, and to the next `protected`. A cycle
 * fails that loses a connection or an acknowledged line, or that does not end: the exit status is 1 then.
 *
 *   npm run build && node --import tsx bench/failover.ts GUEST.raw [FAILOVERS] [MEMORY_MIB]
 */
import { mkdtemp, readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../src/base/errors.ts';
import { LineConnection } from '../src/demo/line-connection.ts';
import { Workload } from '../src/demo/workload.ts';
import { ThreeHosts } from './three-hosts.ts';

const BOOT_MS = 600_000;
const SERVICE_MS = 60_000;
const PROTECTION_MS = 600_000;
/** Protected, and at work, for so long before the next kill, and up to as long again. */
const SETTLE_MS = 1_500;

const [image, failoversText = '50', memoryText = '128'] = process.argv.slice(2);
if (image === undefined) throw new Error('usage: bench/failover.ts GUEST.raw [FAILOVERS] [MEMORY_MIB]');
const failovers = Number(failoversText);
// The built program: a loader for TypeScript would be measured too.
process.env['COLO_PROGRAM'] = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

const cpu = os.cpus()[0]?.model ?? 'unknown CPU';
console.log(
  `guest of ${memoryText} MiB, engine v86; three nodes on ${os.cpus().length} × ${cpu}; Node ${process.version}; load ${os.loadavg()[0]!.toFixed(1)}`,
);
const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-failover-'));
const hosts = await ThreeHosts.start(folder, path.resolve(image), Number(memoryText));
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void hosts.close().finally(() => process.exit(1)));
let failed = 0;
try {
  await booted();
  await protectedSince(0);
  const troubles: string[] = [];
  const workload = new Workload({
    host: '127.0.0.1',
    sessionPort: hosts.sessionPort,
    ledgerPort: hosts.ledgerPort,
    intervalMs: 5,
    patienceMs: SERVICE_MS,
    onTrouble: (what) => troubles.push(what),
  });
  workload.start();
  const service: number[] = [];
  const heard: number[] = [];
  const protection: number[] = [];
  let asked = performance.now();
  let unasked = 0;
  for (let cycle = 1; cycle <= failovers; cycle++) {
    await workload.firstReplyAfter(performance.now());
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS * (1 + Math.random())));
    const { host, pid } = await hosts.primary();
    unasked += hosts.seen.filter(({ at, event }) => at >= asked && event.to === 'dissolving').length;
    const before = troubles.length;
    const killed = performance.now();
    process.kill(pid, 'SIGKILL');
    try {
      const answered = await withinPatience(workload.firstReplyAfter(killed));
      const alone = await hosts.event(killed, ({ to }) => to === 'unprotected', SERVICE_MS);
      const whole = await protectedSince(killed);
      service.push(answered - killed);
      heard.push(alone.at - killed);
      protection.push(whole - killed);
      asked = whole;
      if (troubles.length > before) throw new Error(troubles.slice(before).join('; '));
      console.log(
        `${cycle}: killed on ${host}; answered after ${(answered - killed).toFixed(0)} ms, protected after ${((whole - killed) / 1000).toFixed(1)} s`,
      );
    } catch (error) {
      failed++;
      console.log(`${cycle}: FAILED: ${messageOf(error)}\n${hosts.story(killed)}`);
      await keepLogs();
      break;
    }
  }
  const report = await workload.stop();
  print('SIGKILL to an answer on an open connection', service, 'ms');
  print('SIGKILL to the event that the survivor is heard', heard, 'ms');
  print('SIGKILL to full protection', protection, 'ms');
  console.log(
    `${failed} of ${service.length + failed} cycles failed; ${report.requests} requests, ` +
      `${report.connectionsLost} connections lost, ${report.ledgerLinesLost} of ${report.ledgerLines} ledger lines lost`,
  );
  if (unasked > 0) console.log(`the pair fell apart ${unasked} times with nobody killed`);
  if (failed + report.connectionsLost + report.ledgerLinesLost > 0) process.exitCode = 1;
} finally {
  await hosts.close();
}

async function booted(): Promise<void> {
  const deadline = performance.now() + BOOT_MS;
  for (;;) {
    try {
      const connection = await LineConnection.open('127.0.0.1', hosts.sessionPort, 2000);
      await connection.request('hello', 2000).finally(() => connection.close());
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

async function protectedSince(since: number): Promise<number> {
  return (await hosts.event(since, ({ to }) => to === 'protected', PROTECTION_MS)).at;
}

async function withinPatience(answered: Promise<number>): Promise<number> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error('the guest does not answer any more')), SERVICE_MS);
  });
  return Promise.race([answered, late]).finally(() => clearTimeout(timer));
}

/** Of a cycle that failed: what the processes said. */
async function keepLogs(): Promise<void> {
  for (const host of ['a', 'b', 'c']) {
    for (const name of ['node.log', 'state/vms/web/vm.log']) {
      const text = await readFile(path.join(folder, host, name), 'utf8').catch(() => '');
      if (text !== '') console.log(`--- ${host}/${name}\n${text.slice(-4000)}`);
    }
  }
}

function print(what: string, values: readonly number[], unit: string): void {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): string => {
    const value = sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
    return value === undefined ? '-' : value.toFixed(0);
  };
  console.log(
    `${what}: p50 ${at(0.5)}, p90 ${at(0.9)}, p99 ${at(0.99)}, largest ${at(1)} ${unit} (${sorted.length} times)`,
  );
}
