import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CheckpointChannel } from '../../../src/checkpoint/channel.ts';
import { receiveMachine, sendMachine } from '../../../src/checkpoint/migration.ts';
import { socketPair, tappedPair } from '../../helpers/socket-pair.ts';
import { hello, protect, side } from './frame-pair.ts';

describe('COLO frame', () => {
  it('carries the first state and every later one, and both guests run on', async () => {
    const pair = await protect(await socketPair());
    assert.equal(pair.s.engine.ram[5000], 42);
    assert.equal(pair.s.engine.device, 1);
    pair.p.engine.ram[9000] = 7;
    pair.p.engine.device = 2;
    pair.s.engine.ram[9001] = 99; // the secondary's own doings are undone
    await pair.checkpoint();
    assert.deepEqual(Buffer.from(pair.s.engine.ram), Buffer.from(pair.p.engine.ram));
    assert.equal(pair.s.engine.device, 2);
    assert.deepEqual(
      pair.records.map(({ cause, pages }) => [cause, pages]),
      [['mismatch', 1]],
    );
    assert.deepEqual([pair.p.engine.state, pair.s.engine.state], ['running', 'running']);
    pair.close();
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
  });

  it('lets the secondary’s clock skip what its load took, as the primary’s guest ran meanwhile', async () => {
    let now = 0;
    const pair = await protect(await socketPair(), { now: () => now });
    const load = pair.s.engine.load.bind(pair.s.engine);
    pair.s.engine.load = (snapshots) => {
      now += 250;
      return load(snapshots);
    };
    await pair.checkpoint();
    await pair.checkpoint();
    assert.deepEqual(pair.s.engine.lateMs, [0, 250, 250]);
    assert.deepEqual(pair.p.engine.lateMs, [0, 0, 0]);
    pair.close();
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
  });

  it('opens forwarded writes only after the secondary has emptied its overlays', async () => {
    const pair = await protect(await socketPair());
    pair.lines.length = 0;
    await pair.checkpoint();
    const at = (line: string): number => {
      const index = pair.lines.indexOf(line);
      assert.notEqual(index, -1, `${line} in ${pair.lines.join(' / ')}`);
      return index;
    };
    assert.ok(at('secondary net stopped') < at('primary net stopped'), 'the secondary stops first');
    assert.ok(at('primary net stopped') < at('primary net commit'));
    assert.ok(at('secondary disk commit') < at('primary disk commit'));
    at('primary net marks secondary-stream,secondary-stream');
    assert.ok(at('secondary net marks primary-stream,primary-stream') < at('secondary net commit'));
    pair.close();
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
  });

  it('discards a checkpoint of which only half arrived, and the secondary goes on from its own state', async () => {
    let cutAt = Infinity;
    const pair = await protect(
      await tappedPair((chunk, total) => (total + chunk.byteLength > cutAt ? null : chunk)),
    );
    await pair.checkpoint();
    pair.p.engine.ram.fill(0xee);
    pair.p.engine.device = 77;
    pair.s.engine.ram[12345] = 5;
    const before = pair.s.engine.ram.slice();
    pair.lines.length = 0;
    cutAt = 0;
    let sent = 0;
    // The request passes, the state is cut in its middle.
    const cut = await protect(
      await tappedPair((chunk, total) => {
        sent = total + chunk.byteLength;
        return sent > cutAt && cutAt > 0 ? null : chunk;
      }),
    );
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.deepEqual(pair.s.engine.ram, before);
    assert.equal(pair.s.engine.device, 1);
    assert.equal(pair.s.engine.state, 'running');
    assert.equal(pair.p.engine.state, 'running');
    assert.ok(!pair.lines.includes('primary net commit'), 'nothing was released');
    assert.deepEqual(pair.exits.sort(), ['primary error', 'secondary error']);

    cut.p.engine.ram.fill(0xdd);
    cutAt = sent + 4 + 8192;
    const kept = cut.s.engine.ram.slice();
    cut.lines.length = 0;
    cut.primary.request('mismatch');
    await Promise.all([cut.primary.ended, cut.secondary.ended]);
    assert.ok(cut.lines.includes('secondary net stopped'), 'the checkpoint had begun');
    assert.deepEqual(cut.s.engine.ram, kept);
    assert.equal(cut.s.engine.state, 'running');
    assert.ok(!cut.lines.includes('secondary disk commit'));
    assert.ok(!cut.lines.includes('primary net commit'));
    pair.close();
    cut.close();
  });

  it('refuses a damaged checkpoint and tells the primary', async () => {
    let damage = false;
    const pair = await protect(
      await tappedPair((chunk) => {
        if (damage && chunk.byteLength > 4096) {
          const changed = Buffer.from(chunk);
          changed[3000]! ^= 0xff;
          return changed;
        }
        return chunk;
      }),
    );
    damage = true;
    pair.p.engine.ram.fill(0xaa);
    const kept = pair.s.engine.ram.slice();
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.deepEqual(pair.s.engine.ram, kept);
    pair.close();
  });

  it('loads a checkpoint that is complete even if the primary dies at that moment', async () => {
    const sockets = await socketPair();
    const pair = await protect(sockets);
    pair.p.engine.device = 33;
    const load = pair.s.engine.load.bind(pair.s.engine);
    pair.s.engine.load = (snapshots) => {
      sockets.left.destroy();
      return load(snapshots);
    };
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.equal(pair.s.engine.device, 33);
    assert.ok(pair.lines.includes('secondary disk commit'));
    await pair.secondary.failover();
    assert.ok(pair.lines.includes('secondary disk stop failover'));
    pair.close();
  });

  it('does not take over from a state that could not be loaded', async () => {
    const pair = await protect(await socketPair());
    pair.s.engine.loadError = new Error('the engine broke');
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    await assert.rejects(pair.secondary.failover(), /no whole state/);
    pair.close();
  });

  it('takes no checkpoint when a forwarded write was lost', async () => {
    const pair = await protect(await socketPair());
    pair.p.disk.failure = new Error('I/O error occurred');
    pair.lines.length = 0;
    pair.primary.request('mismatch');
    await Promise.all([pair.primary.ended, pair.secondary.ended]);
    assert.ok(!pair.lines.includes('primary net commit'));
    assert.equal(pair.p.engine.state, 'running');
    pair.close();
  });

  it('ends with an error when the peer freezes, and the guest goes on', async () => {
    let frozen = false;
    const pair = await protect(await tappedPair((chunk) => (frozen ? Buffer.alloc(0) : chunk)), {
      patienceMs: 2000,
    });
    frozen = true;
    pair.primary.request('mismatch');
    await pair.primary.ended;
    assert.deepEqual(pair.exits, ['primary error']);
    assert.equal(pair.p.engine.state, 'running');
    pair.close();
    await pair.secondary.ended;
  });

  it('tells why two machines do not fit', async () => {
    const sockets = await socketPair();
    const p = side([], 16);
    const s = side([], 32);
    const results = await Promise.allSettled([
      sendMachine(p.guest, new CheckpointChannel(sockets.left, { patienceMs: 500 }), hello(p.engine)),
      receiveMachine(s.guest, new CheckpointChannel(sockets.right, { patienceMs: 500 }), () =>
        hello(s.engine),
      ),
    ]);
    for (const result of results) {
      assert.equal(result.status, 'rejected');
      assert.match(String(result.reason), /RAM of \d+ bytes does not match/);
    }
    sockets.close();
  });
});
