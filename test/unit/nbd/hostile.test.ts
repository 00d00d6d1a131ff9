/**
 * What hostile clients cost a server, measured from outside: N of them in each of several ways hold at most 64 MiB
 * each, whatever they send, and a friendly client is served all the while.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it, type TestContext } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import { encodeInfoRequest, encodeMetaRequest, encodeOption } from '../../../src/nbd/handshake-wire.ts';
import { NbdClient } from '../../../src/nbd/index.ts';
import { encodeRequest } from '../../../src/nbd/wire.ts';

const MIB = 2 ** 20;
const CLIENTS = 4;
/** What one connection may cost (docs/nbd-qcow2.md). */
const BOUND = 64 * MIB;
/** What comes between two looks, the pool's idle memory, buffers of OpenSSL: for the process, not for each client. */
const SLACK = 96 * MIB;

interface Memory {
  readonly rss: number;
  readonly external: number;
  readonly heapUsed: number;
  readonly clients: number;
}

interface Victim {
  readonly port: number;
  memory(collect?: boolean): Promise<Memory>;
}

async function startVictim(t: TestContext, ...args: string[]): Promise<Victim> {
  const program = join(import.meta.dirname, 'hostile-server.ts');
  const child = spawn(process.execPath, ['--expose-gc', '--import', 'tsx', program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, COLO_LOG: 'error' },
  });
  const exited = once(child, 'exit');
  t.after(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async (): Promise<string> => {
    const next = await lines.next();
    assert.ok(next.done !== true, 'the server died');
    return next.value;
  };
  const port = Number(await line());
  return {
    port,
    memory: async (collect = false) => {
      child.stdin.write(collect ? 'collect\n' : 'count\n');
      return JSON.parse(await line()) as Memory;
    },
  };
}

const NONE = Buffer.alloc(0);
const SIMPLE = Buffer.concat([Buffer.from('00000003', 'hex'), encodeOption(7, encodeInfoRequest('', []))]);
const STRUCTURED = Buffer.concat([
  Buffer.from('00000003', 'hex'),
  encodeOption(8, NONE),
  encodeOption(10, encodeMetaRequest('', ['base:allocation'])),
  encodeOption(7, encodeInfoRequest('', [])),
]);

function request(type: number, offset: number, length: number): Buffer {
  const out = Buffer.alloc(28);
  encodeRequest(out, 0, 0, type, 0, 1, offset, length);
  return out;
}

/** Sends all that the server takes, reads nothing. Resolves when it takes no more, or `enough` has gone. */
async function pour(socket: Socket, hello: Buffer, piece: Buffer, enough: number): Promise<void> {
  socket.on('error', () => undefined);
  socket.pause();
  socket.write(hello);
  let sent = 0;
  const isGone = (): boolean => socket.destroyed;
  while (sent < enough && !isGone()) {
    sent += piece.length;
    if (socket.write(piece)) continue;
    const drained = once(socket, 'drain').then(() => true);
    drained.catch(() => undefined);
    // Stuck for this long means that the server has stopped reading.
    const goesOn = await Promise.race([
      drained,
      new Promise<false>((resolve) => setTimeout(() => resolve(false), 150)),
    ]);
    if (!goesOn) return;
  }
}

const BIG = Buffer.alloc(32 * MIB);
const CLEAR_FLAGS = Buffer.from('00000003', 'hex');
const many = (piece: Buffer): Buffer => Buffer.concat(Array.from({ length: 2000 }, () => piece));

/** What it is, the handshake in front, what is sent over and over, how many bytes of it. */
const ATTACKS: [string, Buffer, Buffer, number][] = [
  ['32 MiB writes that end', SIMPLE, Buffer.concat([request(1, 0, BIG.length), BIG]), 128 * MIB],
  ['32 MiB writes that never end', SIMPLE, Buffer.concat([request(1, 2 ** 31, BIG.length), BIG]), 192 * MIB],
  ['32 MiB reads, replies unread', SIMPLE, many(request(0, 0, BIG.length)), 2 * MIB],
  ['1 MiB structured reads, replies unread', STRUCTURED, many(request(0, 0, MIB)), 2 * MIB],
  ['block status of everything, replies unread', STRUCTURED, many(request(7, 0, 2 ** 30)), 2 * MIB],
  [
    'tiny writes that never end',
    SIMPLE,
    many(Buffer.concat([request(1, 2 ** 31, 1), Buffer.alloc(1)])),
    8 * MIB,
  ],
  ['refused requests, replies unread', STRUCTURED, many(request(0, 0, 2 ** 31)), 8 * MIB],
  ['handshake options, replies unread', CLEAR_FLAGS, many(encodeOption(3, NONE)), 8 * MIB],
  ['options of 32 MiB', CLEAR_FLAGS, encodeOption(99, BIG), 128 * MIB],
];

describe('hostile NBD clients', () => {
  for (const way of ['in clear', 'in TLS'] as const) {
    it(`hold at most 64 MiB each and hurt nobody else, ${way}`, async (t) => {
      const dir = await mkdtemp(join(tmpdir(), 'hostile-'));
      t.after(() => rm(dir, { recursive: true }));
      await writeFile(join(dir, 'keys.psk'), `qemu:${'3d'.repeat(32)}\n`);
      const credentials = createTlsCredentials('tls-creds-psk', { dir, endpoint: 'client' });
      const tls = way === 'in TLS' ? { credentials, hostname: null } : null;
      const victim = await startVictim(t, ...(tls ? [dir] : []));
      const friend = await NbdClient.connect(
        { host: '127.0.0.1', port: victim.port },
        { tls, requestTimeoutMs: Infinity },
      );
      t.after(() => friend.abort());
      const open = async (): Promise<Socket> => {
        const socket = connect(victim.port, '127.0.0.1');
        t.after(() => void socket.destroy());
        await once(socket, 'connect');
        if (!tls) return socket;
        socket.write(Buffer.concat([Buffer.from('00000003', 'hex'), encodeOption(5, NONE)]));
        for (let left = 38; left > 0; left -= ((await once(socket, 'data')) as [Buffer])[0].length);
        socket.removeAllListeners('data');
        const secure = connectTls({ ...credentials.clientOptions(null), socket });
        await once(secure, 'secureConnect');
        return secure;
      };
      await friend.read(0, Buffer.alloc(32 * MIB));
      const calm = await victim.memory(true);
      for (const [name, hello, piece, enough] of ATTACKS) {
        const sockets = await Promise.all(Array.from({ length: CLIENTS }, open));
        // In TLS the client's flags have been sent already.
        const rest = tls ? hello.subarray(4) : hello;
        let isOver = false;
        const attacks = Promise.all(sockets.map((socket) => pour(socket, rest, piece, enough))).then(
          () => (isOver = true),
        );
        // Without what only waits for the collector, which takes its time where processors are busy.
        let peak = await victim.memory(true);
        while (!isOver) {
          await friend.write(4096, Buffer.alloc(4096, 1));
          const now = await victim.memory(true);
          if (now.rss > peak.rss) peak = now;
        }
        await attacks;
        // All of them are stuck now, or through.
        const settled = await victim.memory(true);
        if (settled.rss > peak.rss) peak = settled;
        t.diagnostic(
          `${name}: ${((peak.rss - calm.rss) / MIB).toFixed(0)} MiB at most, ${((settled.rss - calm.rss) / MIB).toFixed(0)} MiB in the end`,
        );
        assert.equal(
          peak.rss - calm.rss < CLIENTS * BOUND + SLACK,
          true,
          `${name}: ${peak.rss - calm.rss} bytes`,
        );
        for (const socket of sockets) socket.destroy();
        await friend.read(0, Buffer.alloc(4096));
      }
    });
  }
});
