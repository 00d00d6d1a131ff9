/** The engine contract on a stock QEMU, with a guest of one boot sector (the tests of v86-engine.test.ts, and swaps). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Deferred } from '../../../src/base/async.ts';
import { ColoError, ProtocolError } from '../../../src/base/errors.ts';
import type { Snapshot } from '../../../src/engine/engine.ts';
import { decodeDevice } from '../../../src/engine/qemu/device-codec.ts';
import { findClock } from '../../../src/engine/qemu/guest-clock.ts';
import type { GuestClock } from '../../../src/engine/qemu/guest-clock.ts';
import { memoryDisk } from '../../unit/engine/mini-guest.ts';
import { bootedQemu, skipReason, specOf, unstarted, waitingQemu } from './qemu-machines.ts';

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

  it('takes rounds of RAM alone while the guest runs, then the rest', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    const rounds = [await a.engine.capture({ full: true, ramOnly: true })];
    assert.equal(rounds[0]!.device.length, 0);
    assert.equal(await a.console.ask('dY', /D/), 'D');
    rounds.push(await a.engine.capture({ full: false, ramOnly: true }));
    await a.engine.pause();
    rounds.push(await a.engine.capture({ full: false }));
    await b.engine.load(rounds);
    const [ofA, ofB] = [await a.engine.capture({ full: true }), await b.engine.capture({ full: true })];
    assert.deepEqual(withoutIds(ofB.ram), withoutIds(ofA.ram));
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
  });

  it('refuses what is malformed before anything changes', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    const good = await a.engine.capture({ full: true });
    await assert.rejects(b.engine.resume(), /waits for a state/);
    await assert.rejects(b.engine.capture({ full: true }), /waits for a state/);
    await assert.rejects(a.engine.load([good]), /only a machine with -incoming/);
    await b.engine.load([good]);
    await a.engine.resume();
    await a.console.counter();
    await a.engine.pause();
    const delta = await a.engine.capture({ full: false });
    const before = await b.engine.capture({ full: true });
    const { pid } = b.engine;
    const bad: [string, Uint8Array, Uint8Array][] = [
      ['empty', new Uint8Array(0), new Uint8Array(0)],
      ['of another baseline', delta.ram, delta.device],
      ['RAM magic', patched(good.ram, 0), good.device],
      ['cut off', good.ram.slice(0, -1), good.device],
      ['no devices', good.ram, new Uint8Array(0)],
      ['device magic', good.ram, patched(good.device, 1)],
      ['devices of another state', good.ram, delta.device],
      ['devices cut off', good.ram, good.device.slice(0, 15)],
    ];
    for (const [what, ram, device] of bad) {
      await assert.rejects(b.engine.load([{ ram, device, pages: 0 }]), ProtocolError, what);
      assert.equal(b.engine.state, 'paused', what);
    }
    assert.equal(b.engine.pid, pid);
    const after = await b.engine.capture({ full: true });
    assert.deepEqual(withoutIds(after.ram), withoutIds(before.ram));
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
  });

  it('has failed for good when QEMU does not take the devices', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    const good = await a.engine.capture({ full: true });
    const device = good.device.slice();
    device.fill(0xee, 64, 4096);
    await assert.rejects(b.engine.load([{ ...good, device }]), /qemu did not take the state: qemu exited/);
    assert.equal(b.engine.state, 'failed');
    await assert.rejects(b.engine.resume(), /in state failed/);
    await assert.rejects(b.engine.load([good]), /in state failed/);
    await b.engine.stop();
    assert.deepEqual(b.engine.pids, []);
  });

  it('stays whole when the process that is to take over cannot be started, and tries again', async () => {
    await using a = await bootedQemu();
    const { qemu: good } = await specOf(a.disk);
    const qemu = { ...good };
    await using b = await waitingQemu({ qemu });
    await a.engine.pause();
    qemu.binary = '/bin/false';
    await b.engine.load([await a.engine.capture({ full: true })]);
    await assert.rejects(b.engine.prepareLoad(), /to take the next state cannot be started: qemu exited/);
    const next = await a.engine.capture({ full: true });
    const { pid } = b.engine;
    await assert.rejects(b.engine.load([next]), /cannot be started/);
    assert.equal(b.engine.state, 'paused');
    assert.equal(b.engine.pid, pid);
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
    qemu.binary = good.binary;
    await b.engine.prepareLoad();
    await b.engine.pause();
    await b.engine.load([next]);
    assert.notEqual(b.engine.pid, pid);
  });

  it('can be stopped while it starts, and while it loads', async () => {
    await using early = await unstarted();
    const starting = assert.rejects(early.engine.start(), /cannot be built/);
    while (early.engine.pids.length === 0) await setImmediate();
    await early.engine.stop();
    await starting;
    assert.equal(early.engine.state, 'stopped');

    await using a = await bootedQemu();
    await using b = await waitingQemu();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    const loading = assert.rejects(b.engine.load([await a.engine.capture({ full: true })]));
    await b.engine.stop();
    await loading;
    assert.equal(b.engine.state, 'stopped');
    assert.deepEqual(b.engine.pids, []);
  });

  it('moves the clock of a guest that comes late, and its time stamp counter with it', async () => {
    await using a = await bootedQemu();
    await using b = await waitingQemu();
    let frames = 0;
    b.engine.nics[0]!.onFrame = () => {
      frames++;
    };
    await a.engine.pause();
    const first = await a.engine.capture({ full: true });
    const one = clockOf(first);
    await b.engine.load([first]);
    await a.engine.resume();
    await a.console.counter();
    await a.engine.pause();
    const delta = await a.engine.capture({ full: false });
    await b.engine.load([delta], () => 5000);
    const two = clockOf(await a.engine.capture({ full: true }));
    const moved = clockOf(await b.engine.capture({ full: true }));
    const ahead = Number(moved.nanoseconds - two.nanoseconds) / 1e6;
    assert.ok(ahead >= 5000 && ahead < 5100, `${ahead} ms`);
    const rate = Number(two.ticks - one.ticks) / Number(two.nanoseconds - one.nanoseconds);
    const ticks = Number(moved.ticks - two.ticks) / 1e6;
    assert.ok(Math.abs(ticks / rate - ahead) < 1, `${ticks} million ticks, ${rate} a ns`);
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
    assert.equal(frames, 0, 'QEMU announces nothing of its own');
  });

  it('does one thing at a time', async () => {
    await using a = await bootedQemu();
    await a.engine.pause();
    const capture = a.engine.capture({ full: true });
    await assert.rejects(a.engine.resume(), /while another call is under way/);
    await capture;
    await a.engine.resume();
  });

  it('tells of a reset by the guest, and stands still after a power-off', async () => {
    await using machine = await bootedQemu({ args: [...(await specOf(memoryDisk())).args, '-no-reboot'] });
    const told = new Deferred<string>();
    machine.engine.onShutdown = (reason) => told.resolve(reason);
    machine.console.send('b');
    // The pause may come before the guest has read that, or in the middle.
    for (;;) {
      await machine.engine.pause();
      if (told.settled) break;
      await machine.engine.resume();
      await setImmediate();
    }
    assert.equal(await told.promise, 'guest-shutdown');
    assert.equal(machine.engine.state, 'paused');
    await assert.rejects(machine.engine.resume(), /[Rr]eset/);
    assert.equal(machine.engine.state, 'paused');
    await using other = await bootedQemu();
    const reset = new Deferred<string>();
    other.engine.monitor.onEvent = (name, data) => {
      if (name === 'RESET') reset.resolve(String(data['reason']));
    };
    other.console.send('b');
    assert.equal(await reset.promise, 'guest-reset');
    await other.console.waitFor(/R/);
  });
});

function clockOf({ ram, device }: Snapshot): GuestClock {
  const id = Buffer.from(ram.buffer, ram.byteOffset).readBigUInt64LE(16);
  const clock = findClock(decodeDevice(device, id, null).stream);
  assert.ok(clock);
  return clock;
}

function patched(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice();
  copy[at]! ^= 0x41;
  return copy;
}
