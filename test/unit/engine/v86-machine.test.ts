/** The machine without its worker; a file of its own, as a machine takes over its realm's Date. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { readV86Files } from '../../../src/engine/v86/build-files.ts';
import { DiskRequests } from '../../../src/engine/v86/disk-bridge.ts';
import { Machine } from '../../../src/engine/v86/machine.ts';
import { restoreMachine, saveMachine } from '../../../src/engine/v86/machine-state.ts';
import { skipReason } from './mini-machine.ts';

async function machine(): Promise<Machine> {
  const ignore = (): void => undefined;
  const events = {
    onFrame: ignore,
    onFrameDropped: ignore,
    onSerial: ignore,
    onPowerOff: ignore,
    onReset: ignore,
    onCrash: ignore,
  };
  const parts = {
    shape: { ramBytes: 2 * 1024 * 1024, vgaRamBytes: 256 * 1024, acpi: true, disks: [], nics: [] },
    bios: readFileSync('/usr/share/seabios/bios.bin'),
    vgaBios: readFileSync('/usr/share/seabios/vgabios-stdvga.bin'),
    wasm: readV86Files().wasm,
    rtcBaseMs: 0,
    requests: new DiskRequests(ignore),
  };
  return await Machine.build(parts, events);
}

/** The time stamp counter at guest time `ms`. */
function tscAt({ cpu, clock }: Machine, ms: number): bigint {
  clock.at(ms, () => cpu.store_current_tsc());
  return (BigInt(cpu.current_tsc[1]!) << 32n) | BigInt(cpu.current_tsc[0]!);
}

void describe('A machine’s state', { skip: skipReason }, () => {
  it('carries the TSC, also after resets of the guest have moved it on one side', async () => {
    const [a, b] = [await machine(), await machine()];
    assert.equal(tscAt(a, 2000) - tscAt(a, 1000), 1_000_000_000n, 'a GHz');
    // A reset sets the TSC to 0 there and then.
    a.clock.set(5000);
    a.reset();
    assert.equal(tscAt(a, 7000) / 1000n, 2_000_000n);
    for (let round = 0; round < 3; round++) {
      const { tree, extra, buffers } = saveMachine(a);
      restoreMachine(b, tree, extra, buffers);
      assert.equal(b.clock.now(), a.clock.now());
      assert.equal(tscAt(b, 9000 + round), tscAt(a, 9000 + round));
    }
  });

  it('carries the registers that set_state loses', async () => {
    const [a, b] = [await machine(), await machine()];
    a.cpu.last_result[0] = 77;
    a.cpu.mxcsr[0] = 0x1f00;
    a.cpu.fpu_status_word[0] = 0x3800;
    for (let round = 0; round < 2; round++) {
      const { tree, extra, buffers } = saveMachine(a);
      restoreMachine(b, tree, extra, buffers);
      assert.equal(b.cpu.last_result[0], 77);
      assert.equal(b.cpu.mxcsr[0], 0x1f00);
      assert.equal(b.cpu.fpu_status_word[0], 0x3800);
      b.cpu.last_result[0] = 1;
      assert.equal(b.cpu.last_result[0], 1, 'still the register itself, not a copy');
    }
  });

  it('survives an interrupt of the second controller’s that goes away untaken', async () => {
    const { cpu, pic } = await machine();
    const { master, slave } = pic.registers;
    const [mask, inService, requested, levels] = [0, 2, 3, 10];
    master[mask] = slave[mask] = 0xff; // all are enabled
    slave[levels] = 1 << 2;
    cpu.device_raise_irq(10);
    assert.equal(master[requested], 1 << 2);
    cpu.device_lower_irq(10);
    assert.equal(master[requested], 0, 'nobody asks any more');

    // One that is still there stays, and so does one of another device.
    cpu.device_raise_irq(14);
    cpu.device_raise_irq(10);
    cpu.device_lower_irq(10);
    assert.equal(master[requested], 1 << 2);

    // Taken all the same, and nobody to end it: seen twice, it is ended. One that is being served is not.
    master[inService] = 1 << 2;
    slave[inService] = 1 << 6;
    for (let at = 0; at < 3; at++) pic.look();
    assert.equal(master[inService], 1 << 2);
    slave[inService] = 0;
    pic.look();
    assert.equal(master[inService], 1 << 2, 'the guest may be between its two ends of interrupt');
    pic.look();
    assert.equal(master[inService], 0);
  });

  it('carries the UART’s input and the ACPI timer', async () => {
    const [a, b] = [await machine(), await machine()];
    a.cpu.devices.uart0.input = [1, 2, 3];
    a.cpu.devices.acpi!.timer_last_value = 1234;
    const { tree, extra, buffers } = saveMachine(a);
    restoreMachine(b, tree, extra, buffers);
    assert.deepEqual(b.cpu.devices.uart0.input, [1, 2, 3]);
    assert.equal(b.cpu.devices.acpi!.timer_last_value, 1234);
  });
});
