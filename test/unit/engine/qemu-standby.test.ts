// The QEMU that waits for the next state; real ones die in test/e2e/qemu-kills.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ColoError } from '../../../src/base/errors.ts';
import type { QemuMachine } from '../../../src/engine/qemu/machine.ts';
import { Standby } from '../../../src/engine/qemu/standby.ts';

const MACHINE = {
  child: { ended: new Promise(() => undefined) },
  isRetired: false,
  retire: () => Promise.resolve(),
} as unknown as QemuMachine;

test('one that dies while it is being started is replaced, once', async () => {
  let launches = 0;
  const failing = (times: number) => () => {
    if (++launches <= times) return Promise.reject(new ColoError('killed by SIGKILL'));
    return Promise.resolve(MACHINE);
  };
  const standby = new Standby(failing(1));
  assert.equal(await standby.take(), MACHINE);
  await standby.close();
  launches = 0;
  const hopeless = new Standby(failing(9));
  await assert.rejects(hopeless.take(), /cannot be started: killed by SIGKILL/);
  assert.equal(launches, 2);
  await hopeless.close();
});
