/**
 * A peer that is frozen (SIGSTOP: its sockets stay open and nothing answers) or killed at a bad moment blocks neither
 * the survivor's guest nor its monitor, and the guest's clients lose nothing. One guest is booted for all of it.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it, test } from 'node:test';
import { ETHERTYPE, PacketView } from '../../src/net/packet.ts';
import { VmProcess } from '../../src/demo/vm-process.ts';
import type { Noted } from '../helpers/frame-relay.ts';
import { killInCheckpoint, random } from './kill-in-checkpoint.ts';
import { PairRig, STEP_MS, freeze, skipWithoutGuest, unfreeze } from './pair-rig.ts';

const KILLS = 3;
const SEED = 20261123;

/** Milliseconds that the monitor took for each answer until `until` resolved. */
async function probe(vm: VmProcess, until: Promise<unknown>): Promise<number[]> {
  const took: number[] = [];
  let isOver = false;
  const over = until.finally(() => (isOver = true));
  while (!isOver) {
    const asked = performance.now();
    await vm.qmp.execute('query-status');
    took.push(performance.now() - asked);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await over;
  return took;
}

const worst = (took: readonly number[]): string =>
  `${took.length} answers, slowest ${Math.max(...took).toFixed(1)} ms`;

function etherTypes(frames: readonly Noted[]): number[] {
  const view = new PacketView();
  return frames.map(({ frame }) => {
    view.parse(frame);
    return view.etherType;
  });
}

test('the monitor answers while the guest burns its CPU', { timeout: 120_000 }, async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-spin-'));
  // A boot sector that never ends: cli; jmp to itself.
  const sector = Buffer.alloc(512 * 2048);
  sector.set([0xfa, 0xeb, 0xfd]);
  sector.set([0x55, 0xaa], 510);
  const disk = path.join(folder, 'spin.raw');
  await writeFile(disk, sector);
  const vm = await VmProcess.start('spin', '127.0.0.1', folder, [
    ...['-accel', 'v86', '-m', '32', '-display', 'none'],
    ...['-drive', `if=ide,id=d0,file=${disk},format=raw`],
  ]);
  try {
    const ticks = async (): Promise<number> => {
      const fields = (await readFile(`/proc/${vm.pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
      return Number(fields[11]) + Number(fields[12]);
    };
    const began = await ticks();
    let count = 0;
    const busy = (async () => {
      // Hundredths of a second of CPU time: the guest runs, whatever the machine does besides.
      while ((await ticks()) < began + 200 || count <= 20) {
        count++;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    })();
    const took = await probe(vm, busy);
    assert.ok(took.length > 10 && count > 0);
    t.diagnostic(worst(took));
    assert.deepEqual(await vm.qmp.execute('query-status'), {
      status: 'running',
      singlestep: false,
      running: true,
    });
    await vm.qmp.execute('stop');
    await vm.qmp.execute('cont');
  } finally {
    await vm.kill();
    await rm(folder, { recursive: true, force: true });
  }
});

describe('a protected guest', { skip: skipWithoutGuest, timeout: 600_000 }, () => {
  let rig: PairRig;
  let close = (): Promise<void> => Promise.resolve();

  before(async () => {
    if (skipWithoutGuest !== false) return;
    rig = await PairRig.boot();
    close = () => rig.close();
  });

  after(() => close());

  it('goes on when its secondary freezes', async (t) => {
    await rig.protect();
    await rig.answered(20);
    const { vm } = rig.primary;
    const exit = vm.qmp.waitFor('COLO_EXIT', () => true, STEP_MS);
    freeze(rig.secondary!.vm);
    t.diagnostic(`until COLO_EXIT: ${worst(await probe(vm, exit))}`);
    const { mode, reason, 'x-detail': detail } = (await exit).data;
    assert.deepEqual([mode, reason, detail], ['primary', 'error', 'timeout']);
    const lines = rig.goOnAlone();
    t.diagnostic(`during the failover lines: ${worst(await probe(vm, lines))}`);
    const old = await lines;
    await rig.answered(20);
    await old.vm.kill();
  });

  it('lets its disk go when the frozen peer holds a write', async (t) => {
    await rig.protect();
    await rig.answered(20);
    // The ledger writes all the time: some write is on its way to the peer or follows soon.
    freeze(rig.secondary!.vm);
    const writes = rig.primary.vm.qmp.execute('query-blockstats');
    await writes;
    await new Promise((resolve) => setTimeout(resolve, 300));
    const began = performance.now();
    const old = await rig.goOnAlone();
    t.diagnostic(
      `failover lines typed without waiting for COLO_EXIT: ${(performance.now() - began).toFixed(0)} ms`,
    );
    await rig.answered(20);
    await old.vm.kill();
  });

  it('is taken over when its primary freezes, and the old primary says nothing when it wakes', async (t) => {
    await rig.protect();
    await rig.answered(20);
    const survivor = rig.secondary!;
    freeze(rig.primary.vm);
    const old = await rig.takeOver();
    await rig.answered(20);
    assert.equal(
      etherTypes(survivor.frames.filter(({ direction }) => direction === 'out'))[0],
      ETHERTYPE.RARP,
    );

    const from = old.frames.length;
    const { moved } = rig.network.stats();
    const exit = old.vm.qmp.waitFor('COLO_EXIT', () => true, STEP_MS);
    unfreeze(old.vm);
    const { mode, reason } = (await exit).data;
    assert.deepEqual([mode, reason], ['primary', 'error']);
    // Its guest runs and retransmits what it believes unanswered, while the client talks to the survivor.
    t.diagnostic(`the old primary's monitor: ${worst(await probe(old.vm, rig.answered(100)))}`);
    assert.deepEqual(await old.vm.qmp.execute('query-status'), {
      status: 'running',
      singlestep: false,
      running: true,
    });
    const said = old.frames.slice(from).filter(({ direction }) => direction === 'out');
    assert.deepEqual(etherTypes(said), [], 'ether types that left');
    assert.equal(rig.network.stats().moved, moved, 'addresses that the switch saw moving');
    await old.vm.kill();
  });

  it(`survives ${KILLS} kills inside of checkpoints`, async (t) => {
    const next = random(SEED);
    for (let at = 0; at < KILLS; at++) t.diagnostic(await killInCheckpoint(rig, next));
  });

  it('lost nothing in all that', async () => {
    await rig.assertNothingLost();
  });
});
