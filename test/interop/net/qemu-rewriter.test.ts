/**
 * The same conversations through QEMU 7.2's filter-rewriter and through ours: where QEMU is right, the same bytes come
 * out. Where it is at fault, the table in docs/compare-rewriter.md says what either gives, and is compared with what was
 * seen.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { carriedToGuest } from '../../unit/net/carriers.ts';
import { udp } from '../../unit/net/frames.ts';
import { CAPABILITIES, execute, qemuVersion, startBare, testFolder } from '../../helpers/bare-process.ts';
import { FrameSocket } from './qemu.ts';
import { CONVERSATIONS, frameOf, words } from './rewriter-cases.ts';

const TABLE = new URL('../../../docs/compare-rewriter.md', import.meta.url);
/** More than a table of connections holds. */
const FLOOD = 16_500;

interface Seen {
  readonly bytes: string;
  readonly words: string;
}

/** What comes out of each conversation, frame by frame. */
async function runAll(t: TestContext, program: 'colo' | 'qemu'): Promise<Map<string, Seen[]>> {
  const line =
    '-netdev stream,id=wire,server=on,addr.type=unix,addr.path=DIR/wire ' +
    '-netdev stream,id=guest,server=on,addr.type=unix,addr.path=DIR/guest ' +
    '-netdev hubport,id=h0,hubid=0,netdev=wire -netdev hubport,id=h1,hubid=0,netdev=guest ' +
    '-object filter-rewriter,id=rew0,netdev=wire,queue=all';
  const { type, home } = await startBare(t, program, path.join(await testFolder(t), 'vm'), line);
  await type(CAPABILITIES);
  const wire = await FrameSocket.connect(path.join(home, 'wire'));
  const guest = await FrameSocket.connect(path.join(home, 'guest'));
  let probes = 0;
  /** What comes out for what goes in. */
  const through = async (
    from: FrameSocket,
    to: FrameSocket,
    frame: Uint8Array | null,
  ): Promise<Uint8Array[]> => {
    if (frame !== null) from.send(frame);
    const probe = udp(`probe ${++probes}`);
    from.send(probe);
    const before = to.frames.length;
    const isProbe = (bytes: Uint8Array): boolean => Buffer.from(bytes).equals(probe);
    await to.until(() => to.frames.slice(before).some(isProbe), `probe ${probes} of ${program}`);
    return to.frames.slice(before).filter((bytes) => !isProbe(bytes));
  };
  // Connected is not yet accepted: until then a netdev drops what it is to send.
  await settle(wire, guest);
  await settle(guest, wire);
  const results = new Map<string, Seen[]>();
  for (const [index, [name, { carrier = 'ipv4', steps }]] of Object.entries(CONVERSATIONS).entries()) {
    const port = 41_000 + index;
    const seen: Seen[] = [];
    for (const step of steps) {
      if (step === 'checkpoint') {
        await type(execute('xen-colo-do-checkpoint'));
        continue;
      }
      if (step === 'flood') {
        for (let at = 0; at < FLOOD; at++) {
          wire.send(carriedToGuest('ipv4', { seq: at, flags: 'S', sourcePort: at, destinationPort: 81 }));
          if (at % 500 === 499) await through(wire, guest, null);
        }
        continue;
      }
      const frame = frameOf(step, carrier, port);
      const [from, to] = 'out' in step ? [guest, wire] : [wire, guest];
      const [out] = await through(from, to, frame);
      seen.push({ bytes: Buffer.from(out ?? []).toString('hex'), words: words(out, frame) });
    }
    results.set(name, seen);
  }
  for (const socket of [wire, guest]) socket.close();
  return results;
}

async function settle(from: FrameSocket, to: FrameSocket): Promise<void> {
  const timer = setInterval(() => from.send(udp('hello')), 20);
  try {
    await to.until((frames) => frames.length > 0, 'the first frame');
  } finally {
    clearInterval(timer);
  }
}

/** The rows of the table: what QEMU gives and what comes out here, by conversation. */
async function documented(): Promise<Map<string, readonly [qemu: string, here: string]>> {
  const rows = new Map<string, readonly [string, string]>();
  for (const row of (await readFile(TABLE, 'utf8')).split('\n')) {
    const cells = row.split('|').map((cell) => cell.trim().replaceAll('`', ''));
    if (cells.length !== 6 || cells[1] === 'conversation' || /^-+$/.test(cells[1]!)) continue;
    assert.ok(cells[4] !== '', `no reason: ${row}`);
    rows.set(cells[1]!, [cells[2]!, cells[3]!]);
  }
  return rows;
}

test('the same conversations through QEMU and here', async (t) => {
  const table = await documented();
  const ours = await runAll(t, 'colo');
  assert.deepEqual([...table.keys()].sort(), [...ours.keys()].sort());
  if (qemuVersion?.startsWith('7.2') !== true) {
    t.skip(`QEMU 7.2 is not installed (found: ${qemuVersion ?? 'none'})`);
    return;
  }
  const theirs = await runAll(t, 'qemu');
  const found = new Map<string, readonly [string, string]>();
  for (const [name, seen] of ours) {
    const other = theirs.get(name) ?? [];
    const differing = seen.flatMap((frame, at) => (frame.bytes === other[at]?.bytes ? [] : [at]));
    const tell = (side: readonly Seen[]): string => differing.map((at) => side[at]?.words).join('; ');
    found.set(name, differing.length === 0 ? ['same', 'same'] : [tell(other), tell(seen)]);
  }
  for (const [name, row] of found) assert.deepEqual(table.get(name), row, name);
});
