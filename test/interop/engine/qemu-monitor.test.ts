/** The monitor of a VM on stock QEMU: what is ours, what is passed on, what is refused; events and run states. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import { commands } from '../../../src/monitor/commands/index.ts';
import { refusedCommands, whyNotForwarded } from '../../../src/monitor/forwarding.ts';
import { refusedLines } from '../../../src/monitor/hmp-forwarding.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { writeKeyGuest } from '../../helpers/key-guest.ts';
import { Console, noQemu, qemuVm } from '../../helpers/live-vm.ts';

/** What is passed on of QEMU 7.2's, beside what begins with `query-` or `x-query-`. */
const FORWARDED = `balloon calc-dirty-rate cancel-vcpu-dirty-limit change-vnc-password device-list-properties
  display-reload dump-guest-memory dumpdtb expire_password inject-nmi input-send-event memsave pmemsave
  qom-list-properties qom-list-types replay-break replay-delete-break replay-seek ringbuf-read
  ringbuf-write rtc-reset-reinjection screendump send-key set-numa-node set-vcpu-dirty-limit set_password
  sev-inject-launch-secret system_wakeup trace-event-get-state trace-event-set-state watchdog-set-action
  x-exit-preconfig`.split(/\s+/);

test('every command of QEMU is ours, passed on or refused', { skip: noQemu }, async (t) => {
  const q = await qemuVm(t);
  const { vm } = q;
  const known = [...(vm.engine?.monitor?.commands ?? [])];
  assert.ok(known.length > 150);
  const others = known.filter((name) => !commands.has(name) && name !== 'qmp_capabilities');
  const passed = others.filter((name) => whyNotForwarded(name) === null && !/^(x-)?query-/.test(name));
  if (vm.engine?.monitor?.version.qemu.major === 7) {
    assert.deepEqual(passed.sort(), FORWARDED);
    assert.deepEqual(
      refusedCommands().filter((name) => !known.includes(name)),
      [],
    );
  }
  for (const name of refusedCommands()) assert.notEqual(whyNotForwarded(name), null, name);
  const offered = (await q.execute('query-commands')) as { name: string }[];
  const names = offered.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  for (const name of [...passed, 'query-qmp-schema', 'query-colo-compare', 'set-action', 'query-machines'])
    assert.ok(names.includes(name), name);
  for (const name of ['device_add', 'yank', 'snapshot-save']) assert.ok(!names.includes(name), name);
});

test('commands are passed on with their replies and errors', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const q = await qemuVm(t, '-name boxed -uuid 11111111-2222-3333-4444-555555555555 -vga std -S');
  const version = q.vm.engine?.monitor?.version;
  assert.deepEqual(await q.execute('query-version'), { qemu: version?.qemu, package: 'colo-ft' });
  assert.deepEqual(await q.execute('query-kvm'), { enabled: false, present: true });
  assert.deepEqual(await q.execute('query-name'), { name: 'boxed' });
  const cpus = (await q.execute('query-cpus-fast')) as object[];
  assert.equal(cpus.length, 1);
  const machines = (await q.execute('query-machines')) as { alias?: string }[];
  assert.ok(machines.some(({ alias }) => alias === 'q35'));

  // A class of QEMU's that is not GenericError, and its texts as they are.
  assert.equal(await q.failure('query-balloon'), 'DeviceNotActive: No balloon device has been activated');
  assert.equal(await q.failure('send-key'), "GenericError: Parameter 'keys' is missing");
  assert.equal(await q.failure('no-such'), 'CommandNotFound: The command no-such has not been found');
  assert.match(
    await q.failure('device_add', { driver: 'usb-kbd' }),
    /^GenericError: The command device_add is not supported: a device cannot/,
  );
  assert.match(await q.failure('migrate-pause'), /migration is done by this program/);
  assert.match(
    await q.failure('yank', { instances: [] }),
    /^GenericError: The command yank is not supported/,
  );

  const picture = path.join(folder, 'screen.ppm');
  assert.deepEqual(await q.execute('screendump', { filename: picture }), {});
  assert.equal((await readFile(picture)).subarray(0, 2).toString(), 'P6');

  // Integers beyond 2^53 go through both parsers unharmed.
  const [ram] = (await q.execute('query-memory-devices')) as object[];
  assert.equal(ram, undefined);
  const type = (await q.execute('qom-get', { path: '/machine', property: 'type' })) as string;
  assert.match(type, /^pc-i440fx-\d+\.\d+-machine$/);
  const objects = (await q.execute('qom-list', { path: '/objects' })) as { name: string }[];
  assert.ok(!objects.some(({ name }) => name === 'colo-ram'));

  const schema = (await q.execute('query-qmp-schema')) as { name: string; 'meta-type': string }[];
  const has = (type: string, name: string): boolean =>
    schema.some((entry) => entry.name === name && entry['meta-type'] === type);
  assert.ok(
    has('command', 'screendump') && has('command', 'query-colo-compare') && has('event', 'RTC_CHANGE'),
  );
  assert.ok(has('event', 'COLO_COMPARE_REQUEST') && !has('command', 'device_add'));
  const names = new Set(
    schema
      .filter((entry) => entry['meta-type'] !== 'command' && entry['meta-type'] !== 'event')
      .map(({ name }) => name),
  );
  for (const entry of schema as unknown as Record<string, string | undefined>[]) {
    for (const type of [entry['arg-type'], entry['ret-type']])
      if (type !== undefined) assert.ok(names.has(type), type);
  }
});

test('lines of the human monitor', { skip: noQemu }, async (t) => {
  const q = await qemuVm(t, '-S');
  assert.match(await q.hmp('info registers'), /EAX=/);
  assert.match(await q.hmp('info qtree'), /i440FX-pcihost/);
  assert.match(await q.hmp('xp /1xb 0'), /^0*: 0x/);
  assert.equal(await q.hmp('info status'), 'VM status: paused (prelaunch)\r\n');
  assert.match(await q.hmp('info version'), /colo-ft/);
  assert.equal(await q.hmp('nonsense'), "unknown command: 'nonsense'\r\n");
  const known = await q.hmp('help');
  for (const line of refusedLines()) {
    assert.match(await q.hmp(line), /^Error: .* is not supported: /, line);
    if (line.startsWith('info ')) continue;
    assert.match(known, new RegExp(`^${line} `, 'm'));
  }
  assert.match(await q.hmp('info blockstats'), /query-block/);
  assert.match(await q.hmp('help sendkey'), /^sendkey keys/);
});

test('a guest that stands, sleeps, resets and ends by itself', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const image = path.join(folder, 'guest.raw');
  await writeKeyGuest(image);
  const q = await qemuVm(
    t,
    `-device ib700 -device pvpanic -no-shutdown -drive if=ide,file=${image},format=raw,werror=stop`,
  );
  const guest = new Console(q);
  const press = async (key: string): Promise<unknown> =>
    q.execute('send-key', { keys: [{ type: 'qcode', data: key }] });
  await q.execute('watchdog-set-action', { action: 'pause' });
  await q.vm.start();
  await guest.until('>');

  await press('w');
  await q.event('STOP');
  assert.equal(await q.status(), 'watchdog');
  assert.equal((await q.event('WATCHDOG')).data?.['action'], 'pause');
  q.events.length = 0;
  await q.execute('cont');
  assert.equal(await q.status(), 'running');

  await press('s');
  await q.event('SUSPEND');
  assert.equal(await q.status(), 'suspended');
  await q.execute('cont');
  assert.equal(await q.status(), 'suspended', 'as in QEMU only system_wakeup wakes it');
  await q.execute('system_wakeup');
  await q.event('WAKEUP');
  assert.equal(await q.status(), 'running');
  assert.deepEqual(
    q.events.map(({ event }) => event).filter((event) => event !== 'RTC_CHANGE'),
    ['RESUME', 'SUSPEND', 'WAKEUP'],
  );

  // A wake-up is a reset whose firmware finds no way back: it boots again.
  guest.text = '';
  await q.execute('system_reset');
  assert.deepEqual((await q.event('RESET')).data, { guest: false, reason: 'host-qmp-system-reset' });
  await guest.until('>');
  q.events.length = 0;
  guest.text = '';
  await press('r');
  assert.deepEqual((await q.event('RESET')).data, { guest: true, reason: 'guest-reset' });
  await guest.until('>');

  await press('p');
  await q.event('STOP');
  assert.equal((await q.event('GUEST_PANICKED')).data?.['action'], 'pause');
  assert.equal(await q.status(), 'guest-panicked');
  await q.execute('cont');

  const [disk] = q.vm.disks.guestDisks;
  assert.ok(disk);
  const write = disk.write.bind(disk);
  disk.write = () => Promise.reject(new IoError('ENOSPC', 'full'));
  q.events.length = 0;
  await press('d');
  await q.event('STOP');
  assert.equal(await q.status(), 'io-error');
  const { data } = await q.event('BLOCK_IO_ERROR', (event) => event.data?.['action'] === 'stop');
  assert.deepEqual([data?.['operation'], data?.['nospace']], ['write', true]);
  disk.write = write;
  await q.execute('cont');
  await guest.until('k');

  q.events.length = 0;
  await press('o');
  await q.event('STOP');
  assert.deepEqual((await q.event('SHUTDOWN')).data, { guest: true, reason: 'guest-shutdown' });
  assert.equal(await q.status(), 'shutdown');
  assert.match(await q.failure('cont'), /Resetting the Virtual Machine is required/);
  await q.execute('system_reset');
  await q.event('RESET');
  assert.equal(await q.status(), 'prelaunch');
  guest.text = '';
  await q.execute('cont');
  await guest.until('>');
  await q.execute('system_powerdown');
  await q.event('POWERDOWN');
});

test('what ends a VM: -no-reboot, a panic', { skip: noQemu }, async (t) => {
  const folder = await testFolder(t);
  const image = path.join(folder, 'guest.raw');
  await writeKeyGuest(image);
  const disk = `-device pvpanic -drive if=ide,file=${image},format=raw`;
  const ends: [string, string, string, object, number][] = [
    ['-no-reboot', 'r', 'SHUTDOWN', { guest: true, reason: 'guest-reset' }, 0],
    ['', 'p', 'GUEST_PANICKED', { action: 'poweroff' }, 0],
    ['-action panic=exit-failure', 'p', 'SHUTDOWN', { guest: true, reason: 'guest-panic' }, 1],
  ];
  for (const [options, key, event, data, status] of ends) {
    const q = await qemuVm(t, `${disk} ${options}`);
    const guest = new Console(q);
    await q.vm.start();
    await guest.until('>');
    await q.execute('send-key', { keys: [{ type: 'qcode', data: key }] });
    assert.deepEqual((await q.event(event)).data, data);
    assert.equal(await q.vm.ended, status);
    await q.vm.close();
  }
});
