/**
 * What a thousand hosts and five thousand VMs ask of one etcd, and how long a lost rack is felt: simulated hosts with the
 * real registry, placement, arbiter and side table, false guests (bench/cluster/). Prints figures with their conditions.
 * Needs etcd (Debian: etcd-server) and some 4 GiB of memory; docs/cluster.md has a run.
 *
 *   node --import tsx bench/cluster.ts [--hosts 1000] [--vms 5000] [--rack 50] [--members 3] [--workers 2] [--steady 30]
 *     [--resync 5000,20000] [--json]
 */
import os from 'node:os';
import { parseArgs } from 'node:util';
import { simulate, type Percentiles, type Rates } from './cluster/simulate.ts';

const { values } = parseArgs({
  options: {
    hosts: { type: 'string', default: '1000' },
    vms: { type: 'string', default: '5000' },
    rack: { type: 'string', default: '50' },
    members: { type: 'string', default: '3' },
    workers: { type: 'string', default: '2' },
    steady: { type: 'string', default: '30' },
    resync: { type: 'string', default: '5000,20000' },
    deadline: { type: 'string', default: '30000' },
    attempt: { type: 'string', default: '5000' },
    json: { type: 'boolean', default: false },
  },
});
const hosts = Number(values.hosts);
const vms = Number(values.vms);
const [low = 0, high = low] = values.resync.split(',').map(Number);
const vmMemoryMiB = 1024;

const report = await simulate(
  {
    hosts,
    vms,
    rackSize: Number(values.rack),
    members: Number(values.members),
    workers: Number(values.workers),
    steadySeconds: Number(values.steady),
    vmMemoryMiB,
    // Half as much again as all copies need.
    hostMemoryMiB: Math.ceil((3 * vms * vmMemoryMiB) / hosts),
    resyncMs: [low, high],
    detectMs: [350, 500],
    deadlineMs: Number(values.deadline),
    attemptMs: Number(values.attempt),
  },
  (line) => process.stderr.write(`${process.uptime().toFixed(0).padStart(4)} s  ${line}\n`),
);

if (values.json) console.log(JSON.stringify(report, null, 2));
else {
  const load = os.loadavg().map((value) => value.toFixed(1));
  console.log(
    `${os.cpus().length} processors (${os.cpus()[0]?.model ?? '?'}), load ${load.join(' ')}, Node.js ${process.version}`,
  );
  console.log(`${hosts} hosts, ${vms} VMs, ${values.members} etcd, resync ${low} to ${high} ms`);
  console.log(
    `all protected: ${report.isAllProtected}, ${(report.upMs / 1000).toFixed(1)} s after the first 'up'`,
  );
  table('coming up', report.up);
  table('at rest', report.steady);
  table('rack lost, until all are protected', report.loss);
  console.log(
    `lost: ${report.lostHosts} hosts, ${report.lostPrimaries} primaries, ${report.lostSecondaries} secondaries`,
  );
  line('secondary heard', report.heardSecondary);
  line('primary heard alone', report.heardPrimary);
  line('protected again', report.protectedAgain);
  line('… less its resync', report.protectedAgainLessResync);
  console.log(
    `never heard ${report.neverHeard}, never protected ${report.neverProtected}, failed calls ${report.failures}`,
  );
  console.log(
    `etcd: db ${mib(report.etcdDbBytes)} MiB, resident ${mib(report.etcdRssBytes)} MiB, ${report.watchers} watchers`,
  );
}

function table(title: string, rates: Rates): void {
  const a = (value: number): string => (value / hosts).toFixed(3);
  console.log(`${title} (${rates.seconds.toFixed(0)} s):`);
  console.log(
    `  requests ${rates.requests.toFixed(0)}/s (a host ${a(rates.requests)}), bytes out ${(rates.bytesOut / 1024).toFixed(0)} KiB/s, ` +
      `in ${(rates.bytesIn / 1024).toFixed(0)} KiB/s (a host ${a(rates.bytesOut)} and ${a(rates.bytesIn)} B/s)`,
  );
  console.log(
    `  puts ${rates.etcdPuts.toFixed(0)}/s, watch events ${rates.etcdEvents.toFixed(0)}/s, hints ${rates.hints.toFixed(0)}/s, ` +
      `etcd ${rates.etcdCpu.toFixed(0)} % and all hosts ${rates.hostsCpu.toFixed(0)} % of a processor`,
  );
}

function line(title: string, { count, p50, p99, max }: Percentiles): void {
  console.log(`${title}: ${count}, p50 ${ms(p50)}, p99 ${ms(p99)}, max ${ms(max)}`);
}

function ms(value: number): string {
  return `${value.toFixed(0)} ms`;
}

function mib(bytes: number): string {
  return (bytes / 1024 ** 2).toFixed(0);
}
