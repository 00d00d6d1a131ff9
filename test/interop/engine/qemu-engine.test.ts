/** The engine contract on a stock QEMU, with a guest of one boot sector (the tests of v86-engine.test.ts, and swaps). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ColoError } from '../../../src/base/errors.ts';
import { bootedQemu, skipReason, waitingQemu } from './qemu-machines.ts';

/** The RAM part without the ids of its state and of its parent. */
export function withoutIds(ram: Uint8Array): Uint8Array {
  return ram.slice().fill(0, 16, 32);
}

void describe('QemuEngine', { skip: skipReason }, () => {
  it('runs, pauses and resumes a guest; a paused one stands still', async () => {
    await using machine = await bootedQemu();
    const { engine, console } = machine;
    await engine.pause();
    assert.equal(engine.state, 'paused');
    await engine.pause();
    const first = await engine.capture({ full: true });
    const second = await engine.capture({ full: false });
    assert.ok(first.pages > 0);
    assert.equal(second.pages, 0, 'a paused guest changes no page');
    await engine.resume();
    const before = await console.counter();
    assert.ok((await console.counter()) > before);
  });

  it('refuses commands in the wrong state', async () => {
    await using machine = await bootedQemu();
    await assert.rejects(machine.engine.capture({ full: true }), ColoError);
    await assert.rejects(machine.engine.load([]), ColoError);
    await machine.engine.stop();
    assert.equal(machine.engine.state, 'stopped');
    await assert.rejects(machine.engine.resume(), ColoError);
    await machine.engine.stop();
  });

  it('holds only what changed, undoes what the other machine did, swap after swap', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    for (let round = 0; round < 4; round++) {
      await a.engine.resume();
      await b.engine.resume();
      assert.equal(await b.console.ask('dX', /D/), 'D'); // 64 KiB that only this side has
      assert.equal(await a.console.ask('w', /[WE]/), 'W');
      await a.console.ask(`d${round}`, /D/);
      const counter = await a.console.counter();
      await a.engine.pause();
      await b.engine.pause();
      const delta = await a.engine.capture({ full: false });
      assert.ok(delta.pages > 0 && delta.pages < 60, `${delta.pages} pages`);
      const before = b.engine.pid;
      await b.engine.load([delta]);
      assert.notEqual(b.engine.pid, before, 'another process has taken over');
      const [ofA, ofB] = [await a.engine.capture({ full: true }), await b.engine.capture({ full: true })];
      assert.deepEqual(withoutIds(ofB.ram), withoutIds(ofA.ram));
      await b.engine.load([ofA]);
      await b.engine.resume();
      assert.ok((await b.console.counter()) >= counter);
      assert.equal(await b.console.ask('r', /[@E]/), '@');
      await b.engine.pause();
      await b.engine.load([await a.engine.capture({ full: true })]);
    }
  });
});
