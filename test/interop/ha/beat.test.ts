/** Heartbeats between processes on loopback, with signals: what is noticed, and what is made of it. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { withDeadline } from '../../../src/base/async.ts';
import { diagnose, type DiagnosisKind, type Evidence } from '../../../src/ha/beat/diagnose.ts';
import { peerEvidence } from '../../../src/ha/beat/evidence.ts';
import { Heartbeats, type HeartbeatHooks } from '../../../src/ha/beat/heartbeats.ts';
import { probe } from '../../../src/ha/beat/prober.ts';
import type { TlsFiles } from '../../../src/ha/spec/node-config.ts';
import { makeCertificates } from '../../helpers/certificates.ts';
import type { Setup } from './beat-daemon.ts';
import { STEP_MS, ToldLog, type Told } from './told.ts';

const DAEMON = fileURLToPath(new URL('beat-daemon.ts', import.meta.url));
function hooksOf(log: ToldLog): HeartbeatHooks {
  return {
    onVmDied: (host, vm) => log.add({ event: 'vm-died', host, vm }),
    onVmChanged: (host, vm) => log.add({ event: `vm-${vm.condition}`, host, vm }),
    onSilent: (host) => log.add({ event: 'silent', host }),
    onBack: (host) => log.add({ event: 'back', host }),
    onClosed: (host, isOrderly) => log.add({ event: 'closed', host, isOrderly }),
  };
}

async function here(t: TestContext, host: string, log: ToldLog, tls?: TlsFiles): Promise<Heartbeats> {
  const heartbeats = new Heartbeats({
    host,
    address: '127.0.0.1',
    port: 0,
    intervalMs: 100,
    patienceMs: 400,
    ...(tls && { tls }),
    report: () => [],
    hooks: hooksOf(log),
  });
  await heartbeats.start();
  t.after(() => heartbeats.stop());
  return heartbeats;
}

async function daemon(
  t: TestContext,
  host: string,
  other: string,
  otherPort: number,
  port = 0,
): Promise<{ child: ChildProcess; log: ToldLog; port: number; vm: number }> {
  const address = '127.0.0.1';
  const setup: Setup = { host, address, port, peers: [{ host: other, address, port: otherPort }] };
  const words = ['--import', 'tsx', DAEMON, JSON.stringify(setup)];
  const child = spawn(process.execPath, words, { stdio: ['pipe', 'pipe', 'inherit'] });
  const log = new ToldLog();
  createInterface({ input: child.stdout }).on('line', (line) => log.add(JSON.parse(line) as Told));
  const told = await log.next('listening');
  const vm = Number(told['vm']);
  t.after(() => {
    child.kill('SIGKILL');
    try {
      process.kill(vm, 'SIGKILL');
    } catch {
      // It is dead already.
    }
  });
  return { child, log, port: Number(told['port']), vm };
}

test('death, freeze and revival of a VM and of a daemon are noticed and told apart', async (t) => {
  const log = new ToldLog();
  const a = await here(t, 'a', log);
  const b = await daemon(t, 'b', 'a', a.port);
  a.watch('b', { address: '127.0.0.1', port: b.port });
  await log.next('back');
  await log.next('vm-alive');
  const judge = async (checkpoint: Evidence['checkpoint'], silentMs: number): Promise<DiagnosisKind> => {
    const probed = await probe('127.0.0.1', b.port, STEP_MS);
    const evidence: Evidence = {
      stoodStill: false,
      checkpoint,
      ...peerEvidence(a.peer('b'), 'shop', silentMs),
      probe: probed,
      othersSeePeer: 'unknown',
      anybodyElse: 'unknown',
    };
    return diagnose(evidence, { peer: 'b', vm: 'shop' }).kind;
  };
  assert.equal(a.peer('b').vms.get('shop')?.epoch, 5);
  assert.equal(await judge('silent', 10_000), 'link-cut');

  process.kill(b.vm, 'SIGSTOP');
  await log.next('vm-stopped');
  assert.equal(await judge('ok', 0), 'process-frozen');
  process.kill(b.vm, 'SIGCONT');
  await log.next('vm-alive');

  b.child.kill('SIGSTOP');
  await log.next('silent');
  assert.equal(await judge('silent', 400), 'host-frozen');
  b.child.kill('SIGCONT');
  await log.next('back');
  await b.log.next('stood-still');

  process.kill(b.vm, 'SIGKILL');
  await log.next('vm-died');
  assert.equal(await judge('closed', 0), 'process-dead');
  // Whoever stood still has not called anybody silent.
  assert.equal(b.log.has('silent'), false);

  const gone = once(b.child, 'exit');
  b.child.kill('SIGKILL');
  assert.equal((await log.next('closed'))['isOrderly'], false);
  assert.equal(await judge('closed', 0), 'process-dead');
  assert.equal(a.peer('b').vms.get('shop')?.condition, 'dead');
  await gone;
  assert.equal(await probe('127.0.0.1', b.port, STEP_MS), 'refused');
});

test('a daemon that is started anew on the same port is dialled until it is there', async (t) => {
  const log = new ToldLog();
  const a = await here(t, 'a', log);
  const b = await here(t, 'b', new ToldLog());
  const { port } = b;
  a.watch('b', { address: '127.0.0.1', port });
  await log.next('back');
  const { instance } = a.peer('b');
  b.stop();
  assert.equal((await log.next('closed'))['isOrderly'], true);
  const again = new Heartbeats({
    host: 'b',
    address: '127.0.0.1',
    port,
    intervalMs: 100,
    patienceMs: 400,
    report: () => [],
  });
  await again.start();
  t.after(() => again.stop());
  await log.next('back');
  assert.notEqual(a.peer('b').instance, instance);
});

test('others tell who they hear', async (t) => {
  const [logA, logB] = [new ToldLog(), new ToldLog()];
  const a = await here(t, 'a', logA);
  const b = await here(t, 'b', logB);
  const c = await here(t, 'c', new ToldLog());
  a.watch('b', { address: '127.0.0.1', port: b.port });
  b.watch('c', { address: '127.0.0.1', port: c.port });
  await logB.next('back');
  await withDeadline(
    (async () => {
      while (!a.whoHears('c').hears.includes('b')) await new Promise((resolve) => setTimeout(resolve, 20));
      c.stop();
      while (!a.whoHears('c').misses.includes('b')) await new Promise((resolve) => setTimeout(resolve, 20));
    })(),
    STEP_MS,
    'b tells a of c',
  );
});

test('strangers, garbage and impostors end their own connection and nothing else', async (t) => {
  const log = new ToldLog();
  const a = await here(t, 'a', log);
  const b = await here(t, 'b', new ToldLog());
  a.watch('b', { address: '127.0.0.1', port: b.port });
  await log.next('back');
  const hello = (host: string): string =>
    JSON.stringify({ kind: 'hello', version: 1, oldest: 1, host, instance: 'x' });
  const frame = (text: string): Buffer => {
    const header = Buffer.alloc(4);
    header.writeUInt32BE(Buffer.byteLength(text));
    return Buffer.concat([header, Buffer.from(text)]);
  };
  for (const bytes of [
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    Buffer.from([255, 255, 255, 255]),
    frame('{"kind":"bye"}'),
    frame('[]'),
    frame(hello('a')),
    Buffer.concat([frame(hello('d')), frame(hello('d'))]),
    Buffer.concat([frame(hello('d')), frame('{"kind":"beat","vms":[{}],"hears":[],"misses":[]}')]),
    frame(JSON.stringify({ kind: 'hello', version: 9, oldest: 8, host: 'd', instance: 'x' })),
  ]) {
    const socket = net.connect(a.port, '127.0.0.1');
    socket.on('error', () => undefined).resume();
    socket.write(bytes);
    await withDeadline(new Promise((resolve) => socket.once('close', resolve)), STEP_MS, bytes.toString());
  }
  assert.equal(a.peer('b').isConnected, true);
  assert.deepEqual(a.hosts(), ['b']);
  // Another one answers where b was.
  a.watch('e', { address: '127.0.0.1', port: b.port });
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(a.peer('e').status, 'none');
});

test('with TLS only those with a certificate of the CA, for their name or address', async (t) => {
  const certificates = await makeCertificates();
  t.after(() => certificates.remove());
  const files = (dir: string, end: string): TlsFiles => ({
    ca: path.join(dir, 'ca-cert.pem'),
    cert: path.join(dir, `${end}-cert.pem`),
    key: path.join(dir, `${end}-key.pem`),
  });
  const log = new ToldLog();
  const logs = { b: new ToldLog(), foreign: new ToldLog(), clear: new ToldLog() };
  const a = await here(t, 'a', log, files(certificates.dir, 'host'));
  const b = await here(t, 'b', logs.b, files(certificates.dir, 'host'));
  const foreign = await here(t, 'foreign', logs.foreign, files(certificates.foreign, 'host'));
  const clear = await here(t, 'clear', logs.clear);
  for (const each of [foreign, clear]) each.watch('a', { address: '127.0.0.1', port: a.port });
  b.watch('a', { address: '127.0.0.1', port: a.port });
  await logs.b.next('back');
  await log.next('back');
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(a.hosts(), ['b']);
  assert.equal(foreign.peer('a').status, 'none');
  assert.equal(clear.peer('a').isConnected, false);
});
