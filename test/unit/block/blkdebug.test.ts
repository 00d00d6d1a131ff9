/** blkdebug: QEMU's rules and ours, its options and their refusals, torn writes, breakpoints. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Blkdebug } from '../../../src/block/filters/blkdebug.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import type { BlockNode } from '../../../src/block/node.ts';
import { nestOptions } from '../../../src/block/options.ts';
import { CLUSTER, bytesOf, filled, isPending } from './jobs-helpers.ts';

const LENGTH = 2 * CLUSTER;
const IMAGE = { driver: 'blkdebug', 'image.driver': 'memory', 'image.size': String(LENGTH) };

/** A blkdebug node over memory from rules as the command line has them, without `inject-error.`. */
async function made(
  rules: Record<string, string>,
): Promise<{ node: BlockNode; debug: Blkdebug; image: BlockNode }> {
  const graph = new BlockGraph();
  const flat: Record<string, string> = { ...IMAGE, 'node-name': 'x', discard: 'unmap' };
  for (const [key, value] of Object.entries(rules)) {
    flat[/^\d/.test(key) ? `inject-error.${key}` : key] = value;
  }
  const node = await graph.addNode(nestOptions(flat));
  const image = node.driver.children().get('image');
  assert.ok(node.driver instanceof Blkdebug && image);
  return { node, debug: node.driver, image };
}

/** How requests ended, one letter each: `.` or the errno. */
async function outcomes(...requests: (() => Promise<unknown>)[]): Promise<string> {
  const ends: string[] = [];
  for (const request of requests) {
    ends.push(
      await request().then(
        () => '.',
        (error: unknown) => String((error as { errno?: string }).errno),
      ),
    );
  }
  return ends.join(' ');
}

describe('blkdebug rules', () => {
  it('without an event that has come nothing fails; `none` has come from the start', async () => {
    const { node } = await made({ '0.event': 'flush_to_disk', '0.errno': '28' });
    const write = () => node.write(0, filled(512, 1));
    assert.equal(await outcomes(write, () => bytesOf(node)), '. .');
    // As in QEMU the rule stays active for every kind of request, until another event brings others.
    assert.equal(
      await outcomes(
        () => node.flush(),
        write,
        () => bytesOf(node),
      ),
      'ENOSPC ENOSPC ENOSPC',
    );
    const none = await made({ '0.event': 'none' });
    assert.equal(
      await outcomes(
        () => none.node.write(0, filled(1, 1)),
        () => bytesOf(none.node, 0, 1),
        () => none.node.writeZeroes(0, 1),
        () => none.node.discard(0, 1),
        () => none.node.flush(),
        () => none.node.blockStatus(0, 1),
      ),
      'EIO EIO EIO EIO EIO .',
    );
  });

  it('an event takes the place of the active rules', async () => {
    const { node } = await made({
      '0.event': 'write_aio',
      '0.errno': '28',
      '1.event': 'read_aio',
      '1.errno': '12',
    });
    const write = () => node.write(0, filled(512, 1));
    const read = () => bytesOf(node, 0, 512);
    const flush = () => node.flush();
    assert.equal(await outcomes(flush, write, flush, read, flush), '. ENOSPC ENOSPC ENOMEM ENOMEM');
  });

  it('goes by the kind, the sector, once', async () => {
    const { node } = await made({ '0.event': 'none', '0.iotype': 'write', '0.sector': '3', '0.once': 'on' });
    const at = (sector: number) => () => node.write(sector * 512, filled(512, 1));
    assert.equal(
      await outcomes(
        at(2),
        () => bytesOf(node),
        () => node.flush(),
        () => node.writeZeroes(0, 4096),
        at(3),
        at(3),
      ),
      '. . . . EIO .',
    );
  });

  it('has states', async () => {
    const { node, debug } = await made({
      '0.event': 'flush_to_disk',
      '0.state': '2',
      '0.iotype': 'flush',
      'set-state.0.event': 'flush_to_disk',
      'set-state.0.state': '1',
      'set-state.0.new_state': '2',
    });
    const flush = () => node.flush();
    assert.equal(debug.rules.state, 1);
    assert.equal(await outcomes(flush, flush, flush), '. EIO EIO');
    assert.equal(debug.rules.state, 2);
  });

  it('skips so many, then takes so many, in a range (ours)', async () => {
    const rule = { '0.event': 'none', '0.sector': '2', '0.sectors': '2', '0.skip': '1', '0.times': '2' };
    const { node, debug } = await made(rule);
    const inside = () => bytesOf(node, 3 * 512 - 1, 1);
    const outside = () => bytesOf(node, 4 * 512, 512);
    assert.equal(await outcomes(inside, outside, inside, outside, inside, inside), '. . EIO . EIO .');
    assert.equal(debug.failed, 2);
    assert.equal(debug.requests.read, 6);
  });

  it('delays without an error (ours)', async () => {
    const { node } = await made({
      '0.event': 'none',
      '0.iotype': 'write',
      '0.errno': '0',
      '0.delay-ms': '30',
    });
    const before = performance.now();
    await node.write(0, filled(512, 7));
    assert.ok(performance.now() - before >= 29);
    assert.deepEqual(await bytesOf(node, 0, 512), Buffer.alloc(512, 7));
  });

  it('does a part of a failed write (ours)', async () => {
    const { node, image } = await made({ '0.event': 'none', '0.iotype': 'write', '0.partial-bytes': '700' });
    assert.equal(await outcomes(() => node.write(512, filled(2048, 5))), 'EIO');
    assert.deepEqual(
      await bytesOf(image, 0, 4096),
      Buffer.concat([Buffer.alloc(512), filled(700, 5), Buffer.alloc(2884)]),
    );
  });

  it('tears a write at a sector, and again at the same one from the same seed (ours)', async () => {
    const lengths: number[][] = [];
    for (const seed of ['5', '5', '6']) {
      const { node, image } = await made({ '0.event': 'none', '0.iotype': 'write', '0.torn': 'on', seed });
      const kept: number[] = [];
      for (let turn = 1; turn <= 8; turn++) {
        await outcomes(() => node.write(0, filled(8192, turn)));
        kept.push((await bytesOf(image, 0, 8192)).filter((byte) => byte === turn).length);
      }
      lengths.push(kept);
    }
    assert.deepEqual(lengths[0], lengths[1]);
    assert.notDeepEqual(lengths[0], lengths[2]);
    assert.ok(lengths.flat().every((length) => length % 512 === 0 && length < 8192));
    assert.ok(new Set(lengths.flat()).size > 4);
  });
});

describe('blkdebug breakpoints', () => {
  it('hold requests until they are resumed, one at a time or all', async () => {
    const { node, debug } = await made({});
    debug.breakAt('write_aio', 'A');
    const [first, second] = [node.write(0, filled(512, 1)), node.write(512, filled(512, 2))];
    await debug.waitBreak('A');
    assert.equal(await isPending(first), true);
    assert.equal(debug.suspendedRequests, 2);
    await node.flush();
    assert.equal(debug.resume('A'), true);
    await first;
    assert.equal(await isPending(second), true);
    assert.equal(debug.removeBreak('A'), true);
    await second;
    await node.write(0, filled(512, 3));
    assert.equal(debug.resume('A'), false);
    assert.equal(debug.removeBreak('A'), false);
  });

  it('may stand behind the write, when the disk has it and the writer does not know', async () => {
    const { node, debug, image } = await made({});
    debug.breakAt('pwritev_done', 'late');
    const write = node.write(0, filled(512, 9));
    await debug.waitBreak('late');
    assert.equal((await bytesOf(image, 0, 1))[0], 9);
    debug.removeBreak('late');
    await write;
  });
});

describe('blkdebug options', () => {
  // QEMU 7.2's texts, asked with qemu-img info --image-opts; those of ours are in the second list.
  const theirs: readonly (readonly [string, Record<string, string>])[] = [
    ['invalid parameter value: foo', { '0.event': 'foo' }],
    ['Missing event name for rule', { '0.errno': '5' }],
    ["Parameter 'errno' expects a number", { '0.event': 'none', '0.errno': 'abc' }],
    ['invalid parameter value: x', { '0.event': 'none', '0.iotype': 'x' }],
    ["Parameter 'once' expects 'on' or 'off'", { '0.event': 'none', '0.once': 'maybe' }],
    ["Parameter 'sector' expects a number", { '0.event': 'none', '0.sector': 'x' }],
    ["[inject-error] section doesn't support the option 'foo'", { '0.event': 'none', '0.foo': '1' }],
    ["Unused option '1.event' for [inject-error]", { '1.event': 'none' }],
    ["Unused option '2.event' for [inject-error]", { '0.event': 'none', '2.event': 'none' }],
  ];
  const ours: typeof theirs = [
    [
      "Event 'l2_update' is never raised here; use one of: none, read_aio, write_aio, flush_to_os, flush_to_disk, " +
        'pwritev, pwritev_zero, pwritev_done',
      { '0.event': 'l2_update' },
    ],
    [
      'errno=6 cannot be injected; use one of: 0, 1, 5, 12, 22, 28, 30, 75, 95, 108, 110',
      { '0.event': 'none', '0.errno': '6' },
    ],
    ['once=on is times=1; use one of them', { '0.event': 'none', '0.once': 'on', '0.times': '2' }],
    [
      'torn=on and partial-bytes exclude each other',
      { '0.event': 'none', '0.torn': 'on', '0.partial-bytes': '1' },
    ],
    [
      'A write of which only a part is done has to fail; errno=0 does not',
      { '0.event': 'none', '0.torn': 'on', '0.errno': '0' },
    ],
    ["Parameter 'sector' is out of range", { '0.event': 'none', '0.sector': '99999999999999999' }],
    ["Block driver 'blkdebug' does not support the option 'align'", { align: '512' }],
    ["Block driver 'blkdebug' does not support the option 'config'", { config: '/etc/rules' }],
  ];
  for (const [message, rules] of [...theirs, ...ours]) {
    it(`refuses ${JSON.stringify(rules)}`, async () => {
      await assert.rejects(made(rules), { message });
    });
  }

  it('needs an image, and takes a file by its name alone as a file, not as what it holds', async () => {
    const graph = new BlockGraph();
    await assert.rejects(graph.addNode({ driver: 'blkdebug', 'node-name': 'x' }), {
      message: 'A block device must be specified for "image"',
    });
    const image = { filename: import.meta.filename };
    const node = await graph.addNode({ driver: 'blkdebug', 'node-name': 'x', 'read-only': 'on', image });
    assert.equal(node.driver.children().get('image')?.driver.driverName, 'file');
    assert.equal(node.readOnly, true);
    // Over a node that somebody else writes to it may still be read-only.
    const disk = await graph.addNode({ driver: 'memory', 'node-name': 'disk', size: '65536' });
    const view = await graph.addNode({
      driver: 'blkdebug',
      'node-name': 'y',
      'read-only': 'on',
      image: 'disk',
    });
    await assert.rejects(view.write(0, filled(1, 1)), { errno: 'EPERM' });
    assert.equal(disk.readOnly, false);
    await graph.closeAll();
  });

  it('a negative sector is none, and a negative errno is no error that can be injected', async () => {
    const { node } = await made({ '0.event': 'none', '0.sector': '-5' });
    assert.equal(await outcomes(() => node.flush()), 'EIO');
    await assert.rejects(made({ '0.event': 'none', '0.errno': '-1' }), /errno=-1 cannot be injected/);
  });
});
