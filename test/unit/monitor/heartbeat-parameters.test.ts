/** The heartbeat's migration parameters, as a monitor sets and asks them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';

test('interval and patience have defaults, bounds, and are set together or not at all', async (t) => {
  const vm = await bareVm(t);
  const heartbeat = async (): Promise<unknown[]> => {
    const all = (await vm.execute('query-migrate-parameters')) as Record<string, unknown>;
    return [all['x-colo-heartbeat-interval'], all['x-colo-heartbeat-patience']];
  };
  assert.deepEqual(await heartbeat(), [100, 400]);
  await vm.execute('migrate-set-parameters', { 'x-colo-heartbeat-interval': 20 });
  assert.deepEqual(await heartbeat(), [20, 400]);
  await vm.execute('migrate-set-parameters', { 'x-colo-heartbeat-patience': 0 });
  assert.deepEqual(await heartbeat(), [20, 0]);
  for (const interval of [0, 9, 60_001]) {
    assert.equal(
      await vm.failure('migrate-set-parameters', {
        'x-colo-heartbeat-interval': interval,
        'x-colo-heartbeat-patience': 7,
      }),
      "GenericError: Parameter 'x-colo-heartbeat-interval' expects an integer in the range of 10 to 60000",
    );
  }
  assert.equal(
    await vm.failure('migrate-set-parameters', { 'x-colo-heartbeat-patience': 600_001 }),
    "GenericError: Parameter 'x-colo-heartbeat-patience' expects an integer in the range of 0 to 600000",
  );
  assert.deepEqual(await heartbeat(), [20, 0]);
  // Without a pair there is nothing to tell: the answer is QEMU's.
  assert.deepEqual(await vm.execute('query-colo-status'), {
    'last-mode': 'none',
    mode: 'none',
    reason: 'none',
  });
});
