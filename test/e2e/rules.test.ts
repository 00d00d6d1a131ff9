/**
 * The rules that keep a pair safe, watched from outside of the processes: relays on the primary's netdev, on the
 * secondary's packet stream and on the checkpoint channel see what leaves, what the secondary has said, and which
 * checkpoints it holds.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { DIFFERENT_BODY, httpKeepAlive, httpNew } from '../../bench/loads.ts';
import { BURST_MS, DEFAULT_RUN_SHARE } from '../../src/checkpoint/mismatch-floor.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { HOSTS } from '../../src/demo/pair.ts';
import type { PairLinks } from '../../src/ha/pair-links.ts';
import { ETHERTYPE, PacketView } from '../../src/net/packet.ts';
import type { QmpClient } from '../../src/qmp/client.ts';
import { until } from '../helpers/colo.ts';
import { FrameRelay } from '../helpers/frame-relay.ts';
import { ChannelLog } from './channel-log.ts';
import { PairRig, STEP_MS, skipWithoutGuest } from './pair-rig.ts';
import type { PairView } from './pair-rig.ts';
import { Said } from './said.ts';

/** Resolves when no merge of overlays is running any more. */
async function mergedBy(qmp: QmpClient): Promise<void> {
  await until('the overlays are merged', STEP_MS, async () => {
    const jobs = (await qmp.execute('query-block-jobs')) as { type: string }[];
    return jobs.every(({ type }) => type !== 'commit');
  });
}

interface Checkpoints {
  readonly count: number;
  readonly 'by-cause': { readonly mismatch: number };
  readonly records: readonly { sequence: number; cause: string; heldMs: number }[];
}

interface Watched {
  /** What the secondary has said. */
  readonly said: Said;
  readonly channel: ChannelLog;
  /** Bytes of the primary's that still pass on the channel; then it is cut. */
  leftOnChannel: number;
}

describe('the rules', { skip: skipWithoutGuest, timeout: 600_000 }, () => {
  let rig: PairRig;
  let close = (): Promise<void> => Promise.resolve();
  let watched: Watched;

  /** Relays between the two sides; each sees the other behind one. */
  const watch = async (at: PairLinks): Promise<PairView> => {
    const [packets, migration] = (await freePorts(2, HOSTS)) as [number, number];
    const nic = at.nics[0]!;
    const now: Watched = { said: new Said(), channel: new ChannelLog(), leftOnChannel: Infinity };
    watched = now;
    const onPackets = await FrameRelay.start({
      listen: { host: at.primaryHost, port: packets },
      target: { host: at.primaryHost, port: nic.comparePort },
      onFrame: ({ direction, frame }) => {
        if (direction === 'out') now.said.add(frame);
      },
    });
    const onChannel = await FrameRelay.start({
      listen: { host: at.secondaryHost, port: migration },
      target: { host: at.secondaryHost, port: at.migrationPort },
      onBytes: (chunk) => {
        const passed = chunk.subarray(0, Math.min(chunk.byteLength, now.leftOnChannel));
        now.leftOnChannel -= passed.byteLength;
        now.channel.fromPrimary(passed);
        return passed.byteLength > 0 ? passed : null;
      },
      onBytesBack: (chunk) => now.channel.fromSecondary(chunk),
    });
    rig.onClose(() => onPackets.close());
    rig.onClose(() => onChannel.close());
    return {
      primary: { ...at, migrationPort: migration },
      secondary: { ...at, nics: [{ ...nic, comparePort: packets }] },
    };
  };

  before(async () => {
    if (skipWithoutGuest !== false) return;
    rig = await PairRig.boot();
    close = () => rig.close();
  });

  after(() => close());

  it('a disk of the secondary that fails ends protection, and the guest goes on (failures 2, 3 and 6)', async (t) => {
    // A blkdebug node in front of the active and of the hidden disk.
    rig.edit = (word) =>
      word
        .replace(
          'file.file.filename=',
          'file.file.driver=blkdebug,file.file.node-name=act,file.file.image.filename=',
        )
        .replace(
          'file.backing.file.filename=',
          'file.backing.file.driver=blkdebug,file.backing.file.node-name=hid,file.backing.file.image.filename=',
        );
    for (const layer of ['hid', 'act']) {
      await rig.protect();
      const { qmp } = rig.primary.vm;
      const failing = rig.secondary!.vm;
      await rig.answered(5);
      const exits = [rig.primary.vm, failing].map((vm) => vm.qmp.waitFor('COLO_EXIT', () => true, STEP_MS));
      const rule = { event: 'none', iotype: 'write' };
      await failing.qmp.execute('x-blkdebug', { 'node-name': layer, 'inject-error': [rule] });
      // The client's ledger is written all the time: copies before its writes fail, which the primary is told, and the
      // pair ends at that moment. An active disk that fails comes to light at a checkpoint.
      if (layer === 'act') await qmp.execute('x-colo-checkpoint').catch(() => undefined); // it may have ended by itself
      const [exit, theirs] = await Promise.all(exits);
      assert.deepEqual([exit?.data['reason'], theirs?.data['reason']], ['error', 'error']);
      // A secondary that is asked for a checkpoint at that very moment says it first.
      const details = layer === 'hid' ? ['forward-failed', 'peer-failed'] : ['peer-failed'];
      assert.ok(details.includes(String(exit?.data['x-detail'])), JSON.stringify(exit?.data));
      t.diagnostic(`${layer}: ${JSON.stringify(exit?.data)}`);
      // Its clients ask on, and get no answer until it is told to go on alone.
      let [asked, said] = [0, 0];
      rig.primary.onFrame = ({ direction }) => (direction === 'in' ? asked++ : said++);
      await until('the clients ask on', STEP_MS, () => asked >= 3);
      assert.equal(said, 0, 'the output is closed');
      rig.primary.onFrame = null;
      // Emptying a disk comes after the load: that secondary is nothing whole any more.
      if (layer === 'act')
        await assert.rejects(failing.qmp.execute('x-colo-lost-heartbeat'), /no whole state/);
      const { vm: old } = await rig.goOnAlone();
      await old.kill();
      await rig.answered(5);
    }
    rig.edit = (word) => word;
  });

  it('no payload leaves the primary before its twin or its checkpoint (rule 1)', async (t) => {
    // Judged as each frame passes: what the client asked last, and when.
    const view = new PacketView();
    const asked = new Map<string, { end: number; atMs: number }[]>();
    let twins = 0;
    let covered = 0;
    const violations: string[] = [];
    let isJudging = false;
    rig.primary.onFrame = ({ direction, frame, atMs }) => {
      view.parse(frame);
      if (!view.isTcp || view.payloadBytes === 0) return;
      if (direction === 'in') {
        const flow = `${view.destinationAddress}:${view.destinationPort} ${view.sourceAddress}:${view.sourcePort}`;
        const list = asked.get(flow) ?? [];
        asked.set(flow, list);
        list.push({ end: (view.sequence + view.payloadBytes) >>> 0, atMs });
        return;
      }
      if (!isJudging) return;
      if (watched.said.has(frame)) {
        twins++;
        return;
      }
      // Not said by the secondary: all that it answers must have come before the state that the secondary holds.
      const flow = `${view.sourceAddress}:${view.sourcePort} ${view.destinationAddress}:${view.destinationPort}`;
      const cause = (asked.get(flow) ?? []).findLast(({ end }) => ((view.acknowledgment - end) | 0) >= 0);
      const heldSince = watched.channel.capturedBeforeLastReceived;
      if (heldSince !== null && (cause === undefined || cause.atMs < heldSince)) covered++;
      else {
        violations.push(
          `${flow} ${view.sequence}+${view.payloadBytes}: asked at ${cause?.atMs}, state of ${heldSince}, left at ${atMs}`,
        );
      }
    };
    await rig.protect(watch);
    isJudging = true;
    await rig.answered(60);
    // Checkpoints without a pause: every other packet leaves by one.
    await rig.primary.vm.qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': 0 });
    await rig.answered(60);
    isJudging = false;
    rig.primary.onFrame = null;
    t.diagnostic(
      `${twins} frames left after their twin, ${covered} by ${watched.channel.received} checkpoints`,
    );
    assert.deepEqual(violations, []);
    assert.ok(twins > 20, `${twins} twins`);
    assert.ok(watched.channel.received > 5, `${watched.channel.received} checkpoints`);
  });

  it('takes few checkpoints for equal answers, and leaves time between those for different ones', async (t) => {
    const { qmp } = rig.primary.vm;
    const http = { host: '127.0.0.1', port: rig.httpPort };
    const taken = async (): Promise<Checkpoints> =>
      (await qmp.execute('query-colo-checkpoints')) as Checkpoints;
    await qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': 3_600_000 });
    const mismatches: number[] = [];
    for (const load of [() => httpKeepAlive(http, 100, 2), () => httpNew(http, 50)]) {
      const before = (await taken())['by-cause'].mismatch;
      await load();
      mismatches.push((await taken())['by-cause'].mismatch - before);
    }
    t.diagnostic(`${mismatches.join(' and ')} checkpoints for 100 requests and 50 connections`);
    for (const count of mismatches) assert.ok(count <= 20, `${count} checkpoints for equal answers`);

    await qmp.execute('migrate-set-parameters', { 'x-mismatch-run-share': 90 });
    const { count: before } = await taken();
    const began = performance.now();
    const asked = qmp.waitFor('COLO_COMPARE_REQUEST', ({ data }) => data['cause'] === 'payload', STEP_MS);
    await httpKeepAlive(http, 6, 1, DIFFERENT_BODY);
    const { records } = await taken();
    const elapsed = performance.now() - began;
    const forDifferences = records.filter(({ sequence, cause }) => sequence > before && cause === 'mismatch');
    assert.ok(forDifferences.length >= 2, `${forDifferences.length} checkpoints for 6 different answers`);
    // All but the last have been paid for before the next one, up to the burst.
    const paid = forDifferences.slice(0, -1).reduce((sum, { heldMs }) => sum + 9 * heldMs, 0);
    assert.ok(paid <= elapsed + BURST_MS, `${paid} ms of running are due in ${elapsed} ms`);
    await qmp.execute('migrate-set-parameters', { 'x-mismatch-run-share': DEFAULT_RUN_SHARE });

    // The comparer tells which byte it was: behind the headers, and not the same.
    const told = JSON.stringify((await asked).data);
    const { flow, difference } = JSON.parse(told) as {
      flow: { protocol: string };
      difference: Record<string, number>;
    };
    assert.equal(flow.protocol, 'tcp', told);
    assert.ok(difference['packet-offset']! >= 54, told);
    assert.notEqual(difference['primary-byte'], difference['secondary-byte'], told);
    const [compared] = (await qmp.execute('query-colo-compare')) as [
      { mode: string; requests: Record<string, number>; frames: Record<string, number> },
    ];
    assert.equal(compared.mode, 'comparing');
    assert.ok(compared.requests['payload']! >= forDifferences.length, JSON.stringify(compared));
    assert.ok(
      compared.frames['released']! > compared.frames['released-by-checkpoint']!,
      JSON.stringify(compared),
    );
  });

  it('a checkpoint cut in its middle is discarded, and the secondary takes over from what it had (rules 2, 3)', async () => {
    const { qmp } = rig.primary.vm;
    await qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': 3_600_000 });
    await rig.answered(5);
    const survivor = rig.secondary!;
    const exits = [rig.primary.vm, survivor.vm].map((vm) => vm.qmp.waitFor('COLO_EXIT', () => true, STEP_MS));
    const { received } = watched.channel;
    // The next checkpoint's request, and some of its pages.
    watched.leftOnChannel = 64 * 1024;
    await qmp.execute('x-colo-checkpoint');
    for (const exit of await Promise.all(exits)) assert.equal(exit.data['reason'], 'error');
    assert.ok(watched.channel.pendingBytes > 0, 'the cut fell into a checkpoint');
    assert.equal(watched.channel.received, received, 'nobody confirmed it');

    // The old primary still runs and writes; whatever it does from here on is nobody's.
    const killed = rig.primary.vm.kill();
    await killed;
    await rig.takeOver();
    await rig.answered(20);
    const said = survivor.frames.filter(({ direction }) => direction === 'out');
    const view = new PacketView();
    view.parse(said[0]!.frame);
    assert.equal(view.etherType, ETHERTYPE.RARP, 'the first frame of the survivor announces its address');
    assert.deepEqual([...said[0]!.frame.subarray(6, 12)], [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert.equal(said.length > 1, true);
  });

  it('a dead side’s disk comes back by what changed, and is the other’s again (rule 2)', async (t) => {
    // The whole disk for once: the old primary's has gone its own way while it was cut off.
    await rig.protect();
    await rig.answered(10);
    const dead = rig.primary;
    await dead.vm.kill();
    await rig.takeOver();
    await rig.answered(10);
    await mergedBy(rig.primary.vm.qmp);
    const copied = await rig.protectWithOldDisk(dead.disk);
    await rig.answered(10);
    const lost = await rig.loseSecondary();
    await rig.answered(10);
    const again = await rig.protectWithOldDisk(lost.disk);
    await rig.answered(10);
    const { lengthBytes } = rig;
    t.diagnostic(
      `of ${lengthBytes} bytes ${copied} were copied to the old primary, ${again} to the old secondary`,
    );
    assert.ok(copied > 0 && copied < lengthBytes / 4, `${copied} of ${lengthBytes} bytes`);
    assert.ok(again > 0 && again < lengthBytes / 4, `${again} of ${lengthBytes} bytes`);
  });

  it('lost nothing in all that', async () => {
    await rig.assertNothingLost();
  });
});
