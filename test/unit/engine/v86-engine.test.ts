import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { ColoError, ParameterError, ProtocolError } from '../../../src/base/errors.ts';
import { V86Engine } from '../../../src/engine/v86/index.ts';
import { ioError, memoryDisk } from './mini-guest.ts';
import { bootedMachine, MAC, miniMachine, skipReason } from './mini-machine.ts';

const MIB = 1024 * 1024;

void describe('V86Engine', { skip: skipReason }, () => {
  it('runs, pauses and resumes a guest; a paused one stands still', async () => {
    await using machine = await bootedMachine();
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

  it('answers a pause quickly and keeps the main thread free while the guest burns CPU', async () => {
    await using machine = await bootedMachine();
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    for (let at = 0; at < 5; at++) {
      await machine.engine.pause();
      await machine.engine.resume();
    }
    await machine.console.counter();
    clearInterval(timer);
    assert.ok(turns > 0);
  });

  it('refuses commands in the wrong state', async () => {
    await using machine = await bootedMachine();
    await assert.rejects(machine.engine.capture({ full: true }), ColoError);
    await assert.rejects(machine.engine.load([]), ColoError);
    await machine.engine.stop();
    assert.equal(machine.engine.state, 'stopped');
    await assert.rejects(machine.engine.resume(), ColoError);
    await machine.engine.stop();
  });

  it('has a build id that depends on the RAM, the disks and the NICs, not on the MAC', async () => {
    await using one = await miniMachine();
    await using same = await miniMachine({
      nics: [{ id: 'x', model: 'ne2k', mac: Uint8Array.of(2, 0, 0, 0, 0, 9) }],
    });
    await using more = await miniMachine({ ramBytes: 5 * MIB });
    await using virtio = await miniMachine({ nics: [{ id: 'x', model: 'virtio', mac: MAC }] });
    await using larger = await miniMachine({ disks: [memoryDisk(2 * MIB)] });
    assert.match(one.engine.buildId, /^[0-9a-f]{64}$/);
    assert.equal(one.engine.buildId, same.engine.buildId);
    const ids = [one, more, virtio, larger].map(({ engine }) => engine.buildId);
    assert.equal(new Set(ids).size, 4);
  });

  it('refuses machines that v86 cannot build, naming the part', () => {
    const base = {
      name: 'x',
      ramBytes: 4 * MIB,
      bios: new Uint8Array(65536),
      vgaBios: new Uint8Array(1),
      disks: [],
      nics: [],
    };
    const nic = { id: 'n', model: 'ne2k', mac: MAC } as const;
    assert.throws(() => new V86Engine({ ...base, ramBytes: 4 * MIB + 1 }), ParameterError);
    assert.throws(
      () => new V86Engine({ ...base, disks: [memoryDisk(), memoryDisk(), memoryDisk()] }),
      /disks/,
    );
    assert.throws(() => new V86Engine({ ...base, nics: [nic, nic, nic, nic] }), /NICs/);
    assert.throws(() => new V86Engine({ ...base, nics: [nic, { ...nic, model: 'virtio' }] }), /virtio/);
    assert.throws(() => new V86Engine({ ...base, nics: [{ ...nic, mac: Uint8Array.of(1) }] }), /six bytes/);
  });

  it('starts with a disk that cannot be read yet, and takes over another’s state', async () => {
    const disk = memoryDisk();
    disk.beforeRequest = () => {
      throw ioError();
    };
    await using a = await bootedMachine();
    await using b = await miniMachine({ disks: [disk] });
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    disk.beforeRequest = null;
    await b.engine.resume();
    assert.equal(await b.console.ask('r', /[@E]/), '@');
  });

  it('announces a halt for good as guest-shutdown and stands still', async () => {
    await using machine = await bootedMachine();
    const reason = new Deferred<string>();
    machine.engine.onShutdown = (why) => reason.resolve(why);
    machine.console.send('h');
    assert.equal(await reason.promise, 'guest-shutdown');
    assert.equal(machine.engine.state, 'paused');
    await machine.engine.reset();
    await machine.engine.resume();
    await machine.console.waitFor(/R/);
  });

  it('announces a reset by the guest, which then boots again', async () => {
    await using machine = await bootedMachine();
    const reason = new Deferred<string>();
    machine.engine.onShutdown = (why) => reason.resolve(why);
    machine.console.send('b');
    assert.equal(await reason.promise, 'guest-reset');
    await machine.console.waitFor(/R/);
  });

  it('stands still after a reset by the guest when asked to', async () => {
    await using machine = await bootedMachine({ onGuestReset: 'pause' });
    const reason = new Deferred<string>();
    machine.engine.onShutdown = (why) => reason.resolve(why);
    machine.console.send('b');
    assert.equal(await reason.promise, 'guest-reset');
    assert.equal(machine.engine.state, 'paused');
  });

  it('rejects what is under way when it is stopped', async () => {
    const machine = await bootedMachine();
    const held = new Deferred<void>();
    const asked = new Deferred<void>();
    machine.disk.beforeRequest = () => {
      asked.resolve();
      return held.promise;
    };
    machine.console.send('r');
    await asked.promise;
    const rejected = assert.rejects(machine.engine.pause(), /stopped/);
    await machine.engine.stop();
    await rejected;
    held.resolve();
  });
});

void describe('V86Engine disks', { skip: skipReason }, () => {
  it('reads and writes through the bridge', async () => {
    await using machine = await bootedMachine();
    assert.equal(await machine.console.ask('r', /[@E]/), '@');
    assert.equal(await machine.console.ask('w', /[WE]/), 'W');
    assert.ok(machine.disk.bytes.subarray(1024, 1536).every((byte) => byte === 0x5a));
    assert.equal(machine.disk.bytes[1536], 0);
  });

  it('passes a failed read or write to the guest as an I/O error', async () => {
    await using machine = await bootedMachine();
    machine.disk.beforeRequest = () => {
      throw ioError();
    };
    assert.equal(await machine.console.ask('r', /[@E]/), 'E');
    assert.equal(await machine.console.ask('w', /[WE]/), 'E');
    assert.equal(machine.disk.bytes[1024], 0);
    machine.disk.beforeRequest = null;
    assert.equal(await machine.console.ask('r', /[@E]/), '@', 'the drive works again');
  });

  it('completes FLUSH CACHE only after the disk has flushed, and fails it with the disk', async () => {
    await using machine = await bootedMachine();
    const asked = new Deferred<void>();
    const held = new Deferred<void>();
    machine.disk.beforeRequest = (op) => {
      assert.equal(op, 'flush');
      asked.resolve();
      return held.promise;
    };
    const answer = machine.console.ask('f', /[FE]/);
    await asked.promise;
    assert.equal(machine.disk.flushes, 0);
    held.resolve();
    assert.equal(await answer, 'F');
    assert.equal(machine.disk.flushes, 1);
    machine.disk.beforeRequest = () => {
      throw ioError();
    };
    assert.equal(await machine.console.ask('f', /[FE]/), 'E');
  });

  it('acknowledges a PIO write only after it is written', async () => {
    await using machine = await bootedMachine();
    const asked = new Deferred<void>();
    const held = new Deferred<void>();
    machine.disk.beforeRequest = () => {
      asked.resolve();
      return held.promise;
    };
    machine.console.send('w');
    await asked.promise;
    // The guest runs on meanwhile, and would have printed by now.
    await machine.engine.capture({ full: true, ramOnly: true });
    for (let at = 0; at < 20; at++) await machine.engine.capture({ full: false, ramOnly: true });
    assert.equal(machine.console.text, '');
    held.resolve();
    assert.equal((await machine.console.waitFor(/[WE]/))[0], 'W');
  });

  it('a pause waits for the request in flight', async () => {
    await using machine = await bootedMachine();
    const asked = new Deferred<void>();
    const held = new Deferred<void>();
    machine.disk.beforeRequest = () => {
      asked.resolve();
      return held.promise;
    };
    machine.console.send('r');
    await asked.promise;
    let isPaused = false;
    const pausing = machine.engine.pause().then(() => (isPaused = true));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(isPaused, false);
    held.resolve();
    await pausing;
    await machine.engine.resume();
    assert.equal((await machine.console.waitFor(/[@E]/))[0], '@');
  });
});

void describe('V86Engine snapshots', { skip: skipReason }, () => {
  it('go on from the captured value on another machine, made before or after', async () => {
    await using first = await bootedMachine();
    await using early = await miniMachine();
    await first.engine.pause();
    const one = await first.engine.capture({ full: true });
    const two = await first.engine.capture({ full: true });
    await using late = await miniMachine();
    await early.engine.load([one]);
    await late.engine.load([two]);
    await first.engine.resume();
    const atFirst = await first.console.counter();
    for (const { engine, console } of [early, late]) {
      await engine.resume();
      const counter = await console.counter();
      assert.ok(counter > 0 && counter < atFirst + 0x10000000);
      assert.equal(await console.ask('r', /[@E]/), '@');
      assert.equal(await console.ask('w', /[WE]/), 'W');
    }
    await late.engine.stop();
  });

  it('hold only what changed, and undo what the other machine did itself', async () => {
    await using a = await bootedMachine();
    await using b = await miniMachine();
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    await a.engine.resume();
    await b.engine.resume();
    assert.equal(await b.console.ask('dX', /D/), 'D'); // 64 KiB that only this side has
    assert.equal(await a.console.ask('w', /[WE]/), 'W');
    await a.engine.pause();
    await b.engine.pause();
    const delta = await a.engine.capture({ full: false });
    assert.ok(delta.pages > 0 && delta.pages < 32, `${delta.pages} pages`);
    assert.ok(delta.device.length < 100_000, `${delta.device.length} bytes of devices`);
    await b.engine.load([delta]);
    // Both hold the same state now: captured in full, page for page.
    const [ofA, ofB] = [await a.engine.capture({ full: true }), await b.engine.capture({ full: true })];
    assert.deepEqual(withoutIds(ofB.ram), withoutIds(ofA.ram));
    assert.equal(Buffer.from(ofA.ram).includes(Buffer.alloc(4096, 'X')), false);
  });

  it('in rounds of RAM alone while the guest runs, then the rest', async () => {
    await using a = await bootedMachine();
    await using b = await miniMachine();
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

  it('are refused without a change when they are malformed', async () => {
    await using a = await bootedMachine();
    await using b = await miniMachine();
    await a.engine.pause();
    const good = await a.engine.capture({ full: true });
    await a.engine.resume();
    await a.console.counter();
    await a.engine.pause();
    const delta = await a.engine.capture({ full: false });
    await b.engine.load([copyOf(good)]);
    const bad: [string, (ram: Uint8Array, device: Uint8Array) => [Uint8Array, Uint8Array]][] = [
      ['empty', () => [new Uint8Array(0), new Uint8Array(0)]],
      ['magic', (ram, device) => [patched(ram, 0), device]],
      ['flags', (ram, device) => [patched(ram, 5), device]],
      ['count', (ram, device) => [patched(ram, 8), device]],
      ['RAM size', (ram, device) => [patched(ram, 13), device]],
      ['parent', (ram, device) => [patched(ram, 24), device]],
      ['index', (ram, device) => [patched(ram, 35), device]],
      ['cut off', (ram, device) => [ram.slice(0, -1), device]],
      ['device magic', (ram, device) => [ram, patched(device, 1)]],
      ['device length', (ram, device) => [ram, patched(device, 7)]],
      ['device JSON', (ram, device) => [ram, patched(device, 9)]],
      ['device cut off', (ram, device) => [ram, device.slice(0, -1)]],
      ['device of another state', (ram) => [ram, good.device.slice()]],
    ];
    const before = await b.engine.capture({ full: true });
    await b.engine.load([copyOf(before)]);
    await b.engine.load([copyOf(good)]);
    for (const [name, spoil] of bad) {
      const [ram, device] = spoil(delta.ram.slice(), delta.device.slice());
      await assert.rejects(b.engine.load([{ ram, device, pages: delta.pages }]), ProtocolError, name);
    }
    // The first of two is right, the second is not: neither is applied.
    const second = { ...copyOf(delta), ram: patched(delta.ram.slice(), 24) };
    await assert.rejects(b.engine.load([copyOf(delta), second]), ProtocolError);
    const untouched = await b.engine.capture({ full: true });
    assert.deepEqual(withoutIds(untouched.ram), withoutIds(before.ram));
    await b.engine.load([copyOf(good), copyOf(delta)]);
    await b.engine.resume();
    assert.ok((await b.console.counter()) > 0);
  });

  it('of a machine with other devices are refused', async () => {
    await using a = await bootedMachine();
    await using b = await miniMachine({ nics: [{ id: 'v', model: 'virtio', mac: MAC }] });
    await a.engine.pause();
    await assert.rejects(b.engine.load([await a.engine.capture({ full: true })]), ProtocolError);
    await assert.rejects(b.engine.capture({ full: false }), ProtocolError);
    await b.engine.resume();
    await b.console.waitFor(/R/);
  });

  it('carry the address of the NIC, and of each of several', async () => {
    const nics = [MAC, Uint8Array.of(2, 0, 0, 0, 0, 1)].map(
      (mac, at) => ({ id: `n${at}`, model: 'ne2k', mac }) as const,
    );
    const others = nics.map((nic, at) => ({ ...nic, mac: Uint8Array.of(2, 9, 9, 9, 9, at) }));
    await using a = await bootedMachine({ nics });
    await using b = await miniMachine({ nics: others });
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);
    assert.deepEqual(
      [...b.engine.nics.map((nic) => [...nic.mac])],
      nics.map(({ mac }) => [...mac]),
    );
  });

  it('carry the clock, which stands still in a pause and goes on elsewhere', async () => {
    await using a = await bootedMachine({ rtcBaseMs: 0 });
    await using b = await miniMachine({ rtcBaseMs: 1e12 });
    await a.engine.pause();
    const clockOf = (device: Uint8Array): { clockMs: number; epochBaseMs: number } => {
      const length = new DataView(device.buffer).getUint32(4, true);
      const head = JSON.parse(Buffer.from(device.slice(8, 8 + length)).toString()) as { extra: never };
      return head.extra;
    };
    const one = await a.engine.capture({ full: true });
    const first = clockOf(one.device);
    await a.console.waitFor(/^/);
    const again = clockOf((await a.engine.capture({ full: true })).device);
    assert.equal(again.clockMs, first.clockMs);
    await b.engine.load([one]);
    const there = clockOf((await b.engine.capture({ full: true })).device);
    assert.equal(there.clockMs, first.clockMs);
    assert.equal(there.epochBaseMs, first.epochBaseMs);
    const hour = 3_600_000;
    await b.engine.resume(hour);
    await b.console.counter();
    await b.engine.pause();
    const { clockMs } = clockOf((await b.engine.capture({ full: true })).device);
    assert.ok(clockMs > first.clockMs + hour, 'a late machine goes on later');
    assert.ok(clockMs < first.clockMs + 2 * hour);
  });
});

/** The state ids differ from capture to capture. */
function withoutIds(ram: Uint8Array): Buffer {
  return Buffer.from(ram.slice().fill(0, 16, 32));
}

function patched(bytes: Uint8Array, at: number): Uint8Array {
  bytes[at]! ^= 0xff;
  return bytes;
}

function copyOf(snapshot: { ram: Uint8Array; device: Uint8Array; pages: number }): typeof snapshot {
  return { ram: snapshot.ram.slice(), device: snapshot.device.slice(), pages: snapshot.pages };
}
