/** VMs outlive the daemon that started them, are found again, and are never taken for another process. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { isAlive } from '../../../src/base/processes.ts';
import { identityOf, isRunning } from '../../../src/ha/room/process-identity.ts';
import { readRecord, writeRecord } from '../../../src/ha/room/process-record.ts';
import { COLO, until } from '../../helpers/colo.ts';
import { RoomDaemon, bareSpec, logOf, pathsAt, roomAt, roomFolder } from '../../helpers/room-rig.ts';

// The built program starts faster than the source.
process.env['COLO_PROGRAM'] = COLO;
const SPEC = bareSpec('web');

test('a VM lives on when its daemon is killed; the next one adopts it, hears it and kills it', async (t) => {
  const folder = await roomFolder(t);
  const first = new RoomDaemon(t, folder, 'start', SPEC);
  const { pid, startedAs } = (await first.told('pid')) as { pid: number; startedAs: string };
  assert.equal(startedAs, 'primary');
  assert.deepEqual((await first.told('status'))['status'], {
    running: false,
    singlestep: false,
    status: 'prelaunch',
  });
  // Frozen at that moment: nobody may take it for dead, and no signal may reach it as its parent goes.
  process.kill(pid, 'SIGSTOP');
  await first.end('SIGKILL');
  const room = roomAt(folder);
  t.after(() => room.close());
  const vm = await room.adopt('web');
  assert.equal(vm?.pid, pid);
  assert.equal(vm.startedAs, 'primary');
  assert.equal(await room.adopt('web'), vm);
  await assert.rejects(
    vm.qmp.execute('query-status', {}, { timeoutMs: 50 }),
    /query-status: no answer within 50 ms/,
  );
  process.kill(pid, 'SIGCONT');
  const console = net.connect(vm.consolePath);
  await once(console, 'connect');
  const resumed = vm.qmp.waitFor('RESUME');
  await vm.qmp.execute('cont');
  await resumed;
  await assert.rejects(
    room.startPrimary(SPEC, []),
    new RegExp(`VM 'web' runs on this host already \\(pid ${pid}\\)`),
  );
  process.kill(pid, 'SIGSTOP');
  const ended = once(console.resume(), 'end');
  await vm.kill();
  await ended;
  assert.deepEqual(await vm.exited, { code: null, signal: null, lastWords: '' });
  assert.equal(isAlive(pid) && readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') T '), false);
  await assert.rejects(vm.qmp.execute('query-status'), /VM 'web' has ended/);
  assert.equal(await room.adopt('web'), null);
  assert.deepEqual(await room.names(), [], 'nothing is left in the run folder');
});

test('three daemons in turn, each gone in another way, have one VM', async (t) => {
  const folder = await roomFolder(t);
  const first = new RoomDaemon(t, folder, 'start', SPEC);
  const { pid } = (await first.told('pid')) as { pid: number };
  await first.told('status');
  await first.end('SIGHUP');
  const second = new RoomDaemon(t, folder, 'adopt', SPEC);
  assert.equal((await second.told('pid'))['pid'], pid);
  await second.told('status');
  await second.end('SIGKILL');
  const third = new RoomDaemon(t, folder, 'adopt', SPEC);
  assert.equal((await third.told('pid'))['pid'], pid);
  await third.told('status');
  const { chardevs } = (await third.told('chardevs')) as { chardevs: string[] };
  assert.ok(chardevs.includes('of-the-first-daemon'), chardevs.join());
  // Somebody else ends it.
  process.kill(pid, 'SIGKILL');
  assert.deepEqual((await third.told('exit'))['exit'], { code: null, signal: null, lastWords: '' });
  await third.end('SIGKILL');
  assert.match(await logOf(folder, 'web'), /^\S+Z starting 'web' as primary\n$/);
});

test('a start that fails tells the last words, and a VM that ends tells how', async (t) => {
  const folder = await roomFolder(t);
  const room = roomAt(folder);
  t.after(() => room.close());
  await assert.rejects(
    room.startSecondary(bareSpec('web', ['-machine', 'none', '-no-such-option']), [], {
      primaryHost: '127.0.0.1',
      secondaryHost: '127.0.0.1',
      nics: [],
      nbdPort: 1,
      migrationPort: 2,
    }),
    /VM 'web' ended at its start with status 1: colo vm: .*no-such-option/,
  );
  assert.deepEqual(await room.names(), []);
  const vm = await room.startPrimary(SPEC, []);
  await vm.qmp.execute('quit');
  assert.deepEqual(await vm.exited, { code: 0, signal: null, lastWords: '' });
  // The folder is not the room's alone.
  await writeFile(path.join(pathsAt(folder, 'web').runFolder, 'other.json'), '');
  const again = await room.startPrimary(SPEC, []);
  assert.notEqual(again.pid, vm.pid);
  await again.kill();
  assert.deepEqual(await again.exited, { code: null, signal: 'SIGKILL', lastWords: '' });
  assert.equal(await room.adopt('web'), null);
  assert.deepEqual(await readdir(pathsAt(folder, 'web').runFolder), ['other.json']);
  await assert.rejects(
    roomAt(path.join(folder, 'x'.repeat(90))).startPrimary(SPEC, []),
    /the kernel takes 107/,
  );
});

test('a record of another boot or of another process is nobody, and what nobody can speak to is killed', async (t) => {
  const folder = await roomFolder(t);
  const { record: file, runFolder } = pathsAt(folder, 'web');
  for (const alter of ['bootId', 'startTime', 'pid', 'gone'] as const) {
    const first = roomAt(folder);
    await first.startPrimary(SPEC, []);
    first.close();
    const record = readRecord(file)!;
    const own = identityOf(process.pid)!;
    // As if the machine had been started again, or the number were another process's now: this test's.
    const altered = {
      bootId: { ...record, bootId: 'an-earlier-boot' },
      startTime: { ...record, startTime: '1' },
      pid: { ...record, pid: own.pid },
      gone: null,
    }[alter];
    if (altered) writeRecord(file, altered);
    else await rm(runFolder, { recursive: true });
    const second = roomAt(folder);
    assert.equal(await second.adopt('web'), null, alter);
    assert.equal(isRunning(record), false, `${alter}: it had the disks open`);
    assert.equal(existsSync(file), false);
    second.close();
  }
});

test('a monitor whose connection breaks is connected anew', async (t) => {
  const folder = await roomFolder(t);
  const starter = roomAt(folder);
  const vm = await starter.startPrimary(SPEC, []);
  starter.close();
  // A relay in between, whose connections can be cut.
  const paths = pathsAt(folder, 'web');
  const record = readRecord(paths.record)!;
  const relayPath = path.join(paths.runFolder, 'relay.sock');
  const cuts: (() => void)[] = [];
  const relay = net.createServer((near) => {
    const far = net.connect(paths.qmp);
    for (const socket of [near, far]) socket.on('error', () => undefined);
    near.pipe(far).pipe(near);
    cuts.push(() => [near, far].forEach((socket) => socket.destroy()));
  });
  relay.listen(relayPath);
  await once(relay, 'listening');
  t.after(() => relay.close());
  writeRecord(paths.record, { ...record, qmp: relayPath });

  const room = roomAt(folder);
  t.after(() => room.close());
  const adopted = (await room.adopt('web'))!;
  assert.equal(adopted.pid, vm.pid);
  await adopted.qmp.execute('query-status');
  const events: string[] = [];
  adopted.qmp.onEvent(({ event }) => events.push(event));
  process.kill(vm.pid, 'SIGSTOP');
  const underWay = [adopted.qmp.execute('query-status'), adopted.qmp.waitFor('STOP')];
  cuts[0]!();
  for (const one of underWay) await assert.rejects(one, /closed the QMP connection|Lost connection/);
  process.kill(vm.pid, 'SIGCONT');
  await adopted.qmp.execute('query-status');
  assert.deepEqual(events, ['RECONNECTED']);
  await adopted.kill();
});

test('a log that cannot be written stops no VM', async (t) => {
  const folder = await roomFolder(t);
  const room = roomAt(folder);
  t.after(() => room.close());
  const full = pathsAt(folder, 'full');
  await mkdir(full.stateFolder, { recursive: true });
  await symlink('/dev/full', full.log);
  for (const name of ['full', 'empty']) {
    const vm = await room.startPrimary(bareSpec(name), []);
    const addr = { type: 'unix', data: { path: '/nobody/is/here' } };
    const backend = { type: 'socket', data: { addr, server: false, reconnect: 60 } };
    await vm.qmp.execute('chardev-add', { id: 'c0', backend });
  }
  // By then the other one has tried to say the same.
  await until('a line in the log', 60_000, async () =>
    (await logOf(folder, 'empty')).includes('Unable to connect'),
  );
  const vm = (await room.adopt('full'))!;
  await vm.qmp.execute('query-status');
  await vm.qmp.execute('quit');
  assert.deepEqual(await vm.exited, { code: 0, signal: null, lastWords: '' });
});
