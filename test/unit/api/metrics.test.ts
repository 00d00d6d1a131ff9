/** Views and events become series; what is gone leaves none behind; the three pages answer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NodeMetrics } from '../../../src/api/metrics.ts';
import { MetricsServer } from '../../../src/api/metrics-server.ts';
import type { HostView, VmView } from '../../../src/ha/views.ts';
import { eventOf, falseNode, HOST, VM } from '../../helpers/false-node.ts';

/** `name{labels}` to value. */
async function scrape(metrics: NodeMetrics): Promise<Map<string, number>> {
  const lines = (await metrics.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]),
  );
}

test('a VM’s and a host’s views are told, and what is gone is not', async () => {
  let vms: VmView[] = [VM];
  let host: HostView | null = HOST;
  const silences = new Map([['beta', 1500]]);
  const metrics = new NodeMetrics(
    { vms: () => vms, host: () => host },
    { silences: () => silences, isProcessTold: false },
  );
  const told = await scrape(metrics);
  const expected: Record<string, number> = {
    'colo_vm_state{vm="web1",state="syncing"}': 1,
    'colo_vm_state{vm="web1",state="protected"}': 0,
    'colo_vm_state_since_seconds{vm="web1"}': 1_764_000_000,
    'colo_vm_epoch{vm="web1"}': 7,
    'colo_vm_paused{vm="web1"}': 0,
    'colo_vm_checkpoints_total{vm="web1",cause="timer"}': 40,
    'colo_vm_checkpoints_total{vm="web1",cause="mismatch"}': 1,
    'colo_vm_checkpoint_pause_seconds{vm="web1"}': 0.012,
    'colo_vm_resync_bytes{vm="web1",part="done"}': 512,
    'colo_vm_resync_bytes{vm="web1",part="total"}': 2048,
    'colo_vm_memory_bytes{vm="web1"}': 128 * 1024 * 1024,
    'colo_host_info{host="alpha",software="0.1.0"}': 1,
    'colo_host_free_memory_bytes{host="alpha"}': 3000 * 1024 * 1024,
    'colo_host_vms{host="alpha",role="secondary"}': 2,
    'colo_beat_silence_seconds{peer="beta"}': 1.5,
  };
  for (const [series, value] of Object.entries(expected)) assert.equal(told.get(series), value, series);
  // A scrape reads; it does not add up.
  assert.deepEqual(await scrape(metrics), told);
  vms = [{ ...VM, state: 'protected', copies: [] }];
  silences.clear();
  const later = await scrape(metrics);
  assert.equal(later.get('colo_vm_state{vm="web1",state="syncing"}'), 0);
  assert.equal(later.get('colo_vm_state{vm="web1",state="protected"}'), 1);
  assert.equal(later.get('colo_vm_resync_bytes{vm="web1",part="done"}'), undefined);
  assert.equal(later.get('colo_beat_silence_seconds{peer="beta"}'), undefined);
  vms = [];
  host = null;
  assert.deepEqual(
    [...(await scrape(metrics)).keys()].filter((name) => /^colo_(vm|host)/.test(name)),
    [],
  );
});

test('events and questions to the arbiter are counted', async () => {
  const metrics = new NodeMetrics({ vms: () => [], host: () => null }, { isProcessTold: false });
  metrics.observe(eventOf(1));
  metrics.observe(eventOf(2, { type: 'failover' }));
  metrics.observe(eventOf(3, { type: 'failover' }));
  metrics.arbiterAsked('swap', 'ok', 0.02);
  metrics.arbiterAsked('swap', 'unreachable', 5);
  const told = await scrape(metrics);
  assert.equal(told.get('colo_vm_failovers_total{vm="web1"}'), 2);
  assert.equal(told.get('colo_events_total{type="state"}'), 1);
  assert.equal(told.get('colo_arbiter_requests_total{operation="swap",outcome="unreachable"}'), 1);
  assert.equal(told.get('colo_arbiter_request_seconds_count{operation="swap"}'), 2);
  assert.equal(told.get('colo_arbiter_request_seconds_bucket{le="0.025",operation="swap"}'), 1);
});

test('the process is told too, unless not wanted', async () => {
  const metrics = new NodeMetrics({ vms: () => [], host: () => null });
  assert.match(await metrics.text(), /^process_resident_memory_bytes \d+/m);
});

test('/metrics, /healthz and /readyz answer; what fails is told and ends nothing', async (t) => {
  let isBroken = false;
  let troubles: string[] = [];
  const metrics = new NodeMetrics(
    {
      vms: () => {
        if (isBroken) throw new Error('the registry does not answer');
        return [VM];
      },
      host: () => HOST,
    },
    { isProcessTold: false },
  );
  const server = await MetricsServer.listen({ address: '127.0.0.1', port: 0 }, metrics, async () => ({
    ...(await falseNode().health()),
    isHealthy: troubles.length === 0,
    troubles,
  }));
  t.after(() => server.close());
  const get = async (path: string, method = 'GET'): Promise<[number, string]> => {
    const response = await fetch(`http://${server.address}${path}`, { method });
    return [response.status, await response.text()];
  };
  const [status, text] = await get('/metrics');
  assert.equal(status, 200);
  assert.match(text, /^# TYPE colo_vm_epoch gauge\ncolo_vm_epoch\{vm="web1"\} 7$/m);
  assert.deepEqual(await get('/healthz'), [200, 'ok\n']);
  assert.deepEqual(await get('/readyz'), [200, 'ok\n']);
  troubles = ['the arbiter does not answer', 'the clock jumped'];
  assert.deepEqual(await get('/readyz'), [503, 'the arbiter does not answer\nthe clock jumped\n']);
  assert.deepEqual(await get('/healthz'), [200, 'ok\n']);
  isBroken = true;
  assert.deepEqual(await get('/metrics'), [500, 'the registry does not answer\n']);
  isBroken = false;
  assert.equal((await get('/metrics'))[0], 200);
  assert.equal((await get('/secrets'))[0], 404);
  assert.equal((await get('/metrics', 'POST'))[0], 405);
});
