/**
 * A pair of which everything that passes between the hosts is in TLS: the checkpoint channel, the packet sockets, the
 * forwarded disk. Two processes of the built program; the guest (helpers/speaking-guest.ts) speaks and writes all the
 * time. Who listens on the wire of the checkpoint channel and of the disk reads nothing of it; who speaks in clear at any
 * of the listeners is turned away and disturbs nobody; and the secondary takes over.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { createQcow2 } from '../../src/block/drivers/qcow2/create.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { VmProcess } from '../../src/demo/vm-process.ts';
import { FrameDecoder, encodeHeader } from '../../src/net/framing.ts';
import { makeCertificates } from '../helpers/certificates.ts';
import { COLO, until } from '../helpers/colo.ts';
import { FrameRelay } from '../helpers/frame-relay.ts';
import {
  NUMBER_IN_SECTOR,
  NUMBER_SECTOR,
  SECRET,
  numberOf,
  speakingGuestDisk,
} from '../helpers/speaking-guest.ts';

process.env['COLO_PROGRAM'] ??= COLO;
const STEP_MS = 90_000;
const HOST = '127.0.0.1';
const DISK_BYTES = 1 << 20;

/** What a VM's netdev is connected to: hears the guest, and may speak to it. */
class World {
  readonly numbers: number[] = [];
  readonly #server = net.createServer((socket) => this.#connect(socket));
  #socket: net.Socket | null = null;

  static async open(t: TestContext, file: string): Promise<World> {
    const world = new World();
    world.#server.listen(file);
    await once(world.#server, 'listening');
    t.after(() => {
      world.#socket?.destroy();
      world.#server.close();
    });
    return world;
  }

  say(text: string): void {
    const frame = Buffer.alloc(60);
    frame.write('525400123456525400999999', 'hex');
    frame.writeUInt16BE(0x88b6, 12);
    frame.write(text, 14);
    this.#socket?.write(Buffer.concat([encodeHeader(Buffer.alloc(4), frame.byteLength, null), frame]));
  }

  /** Resolves when it has heard `count` more numbers. */
  async hears(count: number): Promise<void> {
    const from = this.numbers.length;
    await until(`${count} frames`, STEP_MS, () => this.numbers.length >= from + count);
  }

  #connect(socket: net.Socket): void {
    this.#socket = socket;
    socket.on('error', () => undefined);
    const decoder = new FrameDecoder({
      onFrame: (bytes, from, to) => {
        const number = numberOf(bytes.subarray(from, to));
        if (number !== null) this.numbers.push(number);
      },
      onError: (error) => assert.fail(error),
    });
    socket.on('data', (chunk: Buffer) => decoder.push(chunk));
  }
}

/** A wire that is listened to: `heard` once the secret has passed in clear. */
async function tapped(
  t: TestContext,
  listen: number,
  target: number,
): Promise<{ bytes: number; heard: boolean }> {
  const seen = { bytes: 0, heard: false };
  let tail = '';
  const look = (chunk: Buffer): void => {
    seen.bytes += chunk.byteLength;
    const text = tail + chunk.toString('latin1');
    if (text.includes(SECRET)) seen.heard = true;
    tail = text.slice(-SECRET.length);
  };
  const relay = await FrameRelay.start({
    listen: { host: HOST, port: listen },
    target: { host: HOST, port: target },
    onBytes: (chunk) => {
      look(chunk);
      return chunk;
    },
    onBytesBack: look,
  });
  t.after(() => relay.close());
  return seen;
}

test('a pair that is all in TLS', { timeout: 300_000 }, async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-tls-pair-'));
  const certificates = await makeCertificates();
  t.after(async () => {
    await certificates.remove();
    await rm(folder, { recursive: true, force: true });
  });
  const at = (name: string): string => path.join(folder, name);
  const ports = (await freePorts(8, [HOST])) as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const [mirror, compare, compare0, compareOut, nbd, nbdWire, migration, migrationWire] = ports;
  for (const name of ['p.raw', 's.raw']) await writeFile(at(name), speakingGuestDisk(DISK_BYTES));
  for (const name of ['active.qcow2', 'hidden.qcow2']) await createQcow2(at(name), { sizeBytes: DISK_BYTES });
  const [world, otherWorld] = [await World.open(t, at('p.net')), await World.open(t, at('s.net'))];
  const wires = [await tapped(t, nbdWire, nbd), await tapped(t, migrationWire, migration)];

  const common = (name: string): string =>
    `-accel v86 -m 16 -display none -netdev stream,id=hn0,server=off,addr.type=unix,addr.path=${at(name)}.net ` +
    '-device ne2k_pci,netdev=hn0,mac=52:54:00:12:34:56 ' +
    `-object tls-creds-x509,id=srv,endpoint=server,dir=${certificates.dir} ` +
    `-object tls-creds-x509,id=cli,endpoint=client,dir=${certificates.dir} `;
  const server = (id: string, port: number): string =>
    `-chardev socket,id=${id},host=${HOST},port=${port},server=on,wait=off`;
  const quorum = '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1';
  const start = async (name: string, line: string): Promise<VmProcess> => {
    const vm = await VmProcess.start(name, HOST, folder, (common(name) + line).split(' '));
    t.after(() => vm.kill());
    return vm;
  };
  const p = await start(
    'p',
    `${server('mirror0', mirror)},tls-creds=srv ${server('compare1', compare)},tls-creds=srv ` +
      `${server('compare0', compare0)} -chardev socket,id=compare0-0,host=${HOST},port=${compare0} ` +
      `${server('compare_out', compareOut)} -chardev socket,id=compare_out0,host=${HOST},port=${compareOut} ` +
      '-object filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0 ' +
      '-object filter-redirector,netdev=hn0,id=redire0,queue=rx,indev=compare_out ' +
      '-object filter-redirector,netdev=hn0,id=redire1,queue=rx,outdev=compare0 -object iothread,id=iothread1 ' +
      '-object colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,outdev=compare_out0,iothread=iothread1 ' +
      `${quorum},children.0.file.filename=${at('p.raw')},children.0.driver=raw -S`,
  );
  const s = await start(
    's',
    `-chardev socket,id=red0,host=${HOST},port=${mirror},reconnect=1,tls-creds=cli ` +
      `-chardev socket,id=red1,host=${HOST},port=${compare},reconnect=1,tls-creds=cli ` +
      '-object filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0 ' +
      '-object filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1 ' +
      '-object filter-rewriter,id=rew0,netdev=hn0,queue=all ' +
      `-object filter-dump,id=dump0,netdev=hn0,queue=tx,file=${at('mirrored.pcap')} ` +
      `-drive if=none,id=parent0,file.filename=${at('s.raw')},driver=raw ` +
      '-drive if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=colo-disk0,' +
      `file.file.filename=${at('active.qcow2')},file.backing.driver=qcow2,` +
      `file.backing.file.filename=${at('hidden.qcow2')},file.backing.backing=parent0 ` +
      `${quorum},children.0=childs0 -incoming defer`,
  );

  // Each end by its own credentials.
  await s.qmp.execute('migrate-set-parameters', { 'tls-creds': 'srv' });
  await s.qmp.execute('migrate-incoming', { uri: `tcp:${HOST}:${migration}` });
  const addr = { type: 'inet', data: { host: HOST, port: String(nbd) } };
  await s.qmp.execute('nbd-server-start', { addr, 'tls-creds': 'srv' });
  await s.qmp.execute('nbd-server-add', { device: 'parent0', writable: true });
  const add =
    `drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=${HOST},file.port=${nbdWire},` +
    'file.export=parent0,file.tls-creds=cli,node-name=replication0';
  assert.equal(await p.qmp.execute('human-monitor-command', { 'command-line': add }), '');
  await p.qmp.execute('x-blockdev-change', { parent: 'colo-disk0', node: 'replication0' });
  await p.qmp.execute('migrate-set-parameters', { 'tls-creds': 'cli', 'x-checkpoint-delay': 500 });
  const capabilities = [{ capability: 'x-colo', state: true }];
  await p.qmp.execute('migrate-set-capabilities', { capabilities });
  const runs = [p, s].map((vm) => vm.qmp.waitFor('RESUME', () => true, STEP_MS));
  await p.qmp.execute('migrate', { uri: `tcp:${HOST}:${migrationWire}` });
  await Promise.all(runs);

  await world.hears(20);
  // In clear, at every door.
  for (const port of [mirror, compare, nbd]) {
    const intruder = net.connect(port, HOST);
    intruder.on('error', () => undefined);
    intruder.resume().write(Buffer.alloc(64, 'in clear'));
    await once(intruder, 'close');
  }
  // One that comes while a checkpoint is taken is in its state, and needs no copy.
  await until('a copy has arrived', STEP_MS, async () => {
    world.say('mirrored to the other side');
    return (await readFile(at('mirrored.pcap'))).includes('mirrored to the other side');
  });
  await world.hears(20);
  const { count } = (await p.qmp.execute('query-colo-checkpoints')) as { count: number };
  assert.ok(count > 0);
  const [compared] = (await p.qmp.execute('query-colo-compare')) as [{ frames: Record<string, number> }];
  t.diagnostic(`${count} checkpoints, ${JSON.stringify(compared.frames)}`);
  assert.ok(compared.frames['released']! > 0, 'frames that the secondary has said too');
  for (const { bytes, heard } of wires) {
    assert.ok(bytes > 1000, `${bytes} bytes passed`);
    assert.equal(heard, false);
  }
  await until('the secondary is heard', STEP_MS, async () => {
    const status = (await p.qmp.execute('query-colo-status')) as {
      'x-heartbeat'?: { 'is-silent': boolean };
    };
    return status['x-heartbeat']?.['is-silent'] === false;
  });

  const exit = s.qmp.waitFor('COLO_EXIT', () => true, STEP_MS);
  await p.kill();
  assert.match(String((await exit).data['x-detail']), /^(closed|reset)$/);
  const last = world.numbers.at(-1)!;
  await s.qmp.execute('nbd-server-stop');
  await s.qmp.execute('x-colo-lost-heartbeat');
  await otherWorld.hears(10);
  // None that the world has heard is forgotten: the guest goes on at most from what it had said.
  assert.ok(
    otherWorld.numbers.some((number) => number === last + 1),
    `${last}, then ${otherWorld.numbers.join()}`,
  );
  for (const { numbers } of [world, otherWorld]) {
    assert.ok(numbers.every((number, index) => index === 0 || number >= numbers[index - 1]!));
  }
  await s.qmp.execute('quit');
  await until('it has ended', STEP_MS, () => !s.isAlive);
  const file = await open(at('s.raw'));
  const sector = Buffer.alloc(512);
  await file.read(sector, 0, 512, NUMBER_SECTOR * 512);
  await file.close();
  assert.ok(sector.readUInt32LE(NUMBER_IN_SECTOR) >= last, 'what was said had been written');
});
