/**
 * Two processes of the built program as a pair: one that is frozen (SIGSTOP) is told from one that has died, on both
 * sides, and one that goes on after it was frozen itself accuses nobody.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { VmProcess } from '../../src/demo/vm-process.ts';

const STEP_MS = 60_000;
/** A machine that is busy with other tests may keep a healthy process waiting. */
const PATIENCE_MS = 1000;
const PARAMETERS = { 'x-colo-heartbeat-interval': 100, 'x-colo-heartbeat-patience': PATIENCE_MS };

async function startVm(name: string, folder: string, ...args: string[]): Promise<VmProcess> {
  // A boot sector that never ends: jmp to itself.
  const sector = Buffer.alloc(512 * 2048);
  sector.set([0xfa, 0xeb, 0xfd]);
  sector.set([0x55, 0xaa], 510);
  const disk = path.join(folder, `${name}.raw`);
  await writeFile(disk, sector);
  return VmProcess.start(name, '127.0.0.1', folder, [
    ...['-accel', 'v86', '-m', '16', '-display', 'none', ...args],
    ...['-drive', `if=ide,id=d0,file=${disk},format=raw`],
  ]);
}

interface Status {
  readonly 'x-heartbeat'?: { readonly 'is-silent': boolean; readonly 'last-heard-ms': number };
}

test('a frozen peer is told from a dead one', { timeout: 180_000 }, async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-beat-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const uri = `unix:${folder}/channel`;
  const [p, s] = await Promise.all([startVm('p', folder), startVm('s', folder, '-incoming', uri)]);
  t.after(() => Promise.all([p.kill(), s.kill()]));
  const next = (vm: VmProcess, event: string): Promise<{ data: Record<string, unknown> }> =>
    vm.qmp.waitFor(event, () => true, STEP_MS);
  for (const vm of [p, s]) await vm.qmp.execute('migrate-set-parameters', PARAMETERS);
  const x = { capability: 'x-colo', state: true };
  await p.qmp.execute('migrate-set-capabilities', { capabilities: [x] });
  const runs = [next(p, 'RESUME'), next(s, 'RESUME')];
  await p.qmp.execute('migrate', { uri });
  await Promise.all(runs);

  for (const [frozen, other] of [
    [s, p],
    [p, s],
  ] as const) {
    const silent = next(other, 'COLO_PEER_SILENT');
    process.kill(frozen.pid, 'SIGSTOP');
    const { data } = await silent;
    t.diagnostic(`${frozen.name} is frozen: ${JSON.stringify(data)}`);
    assert.ok(Number(data['silent-ms']) >= PATIENCE_MS);
    const status = (await other.qmp.execute('query-colo-status')) as Status;
    assert.equal(status['x-heartbeat']?.['is-silent'], true);
    // What it was not told while it stood still it is told now: the other one never was silent.
    let accused = false;
    void frozen.qmp
      .waitFor('COLO_PEER_SILENT', () => true, STEP_MS)
      .then(
        () => (accused = true),
        () => undefined,
      );
    const back = next(other, 'COLO_PEER_BACK');
    process.kill(frozen.pid, 'SIGCONT');
    assert.ok(Number((await back).data['silent-ms']) >= PATIENCE_MS);
    for (const vm of [p, s]) await vm.qmp.execute('query-status');
    assert.equal(accused, false);
  }

  // Nothing was torn down.
  const loaded = next(s, 'RESUME');
  await p.qmp.execute('x-colo-checkpoint');
  await loaded;

  const exit = next(p, 'COLO_EXIT');
  await s.kill();
  const { data } = await exit;
  assert.deepEqual([data['mode'], data['reason']], ['primary', 'error']);
  assert.match(String(data['x-detail']), /^(closed|reset)$/);
  const status = (await p.qmp.execute('query-colo-status')) as Status;
  assert.equal(status['x-heartbeat'], undefined);
});
