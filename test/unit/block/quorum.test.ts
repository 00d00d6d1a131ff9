/**
 * Quorum: voting, reports, children that come and go, and the texts of its refusals
 * (docs/qemu-behaviour.md 5.6, 5.7).
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IoError } from '../../../src/base/errors.ts';
import type { Errno } from '../../../src/base/errors.ts';
import { QuorumDriver, openQuorum } from '../../../src/block/drivers/quorum.ts';
import type { QuorumOptions } from '../../../src/block/drivers/quorum.ts';
import { GateFilter } from '../../../src/block/filters/delay.ts';
import { ErrorFilter } from '../../../src/block/filters/error.ts';
import type { FaultRule } from '../../../src/block/filters/error.ts';
import { BlockNode } from '../../../src/block/node.ts';
import { OptionReader, nestOptions } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';
import { CLUSTER, EventLog, bytesOf, filled, isPending, memory } from './jobs-helpers.ts';

const LENGTH = 4 * CLUSTER;

interface Faulty {
  readonly node: BlockNode;
  readonly faults: ErrorFilter;
}

function faulty(name: string, rules: readonly FaultRule[] = []): Faulty {
  const box: { faults: ErrorFilter | null } = { faults: null };
  const node = memory(name, LENGTH, { wrap: (driver) => (box.faults = new ErrorFilter(driver, rules)) });
  return { node, faults: box.faults ?? assert.fail() };
}

function quorumOf(
  children: readonly BlockNode[],
  options: Partial<QuorumOptions> = {},
): { log: EventLog; quorum: QuorumDriver; node: BlockNode } {
  const log = new EventLog();
  const quorum = new QuorumDriver({ nodeName: 'q', children, voteThreshold: 1, emit: log.emit, ...options });
  return { log, quorum, node: new BlockNode('q', quorum) };
}

function hasErrno(errno: Errno): (error: unknown) => boolean {
  return (error) => error instanceof IoError && error.errno === errno;
}

describe('quorum: writes', () => {
  it('reach all children and need the threshold', async () => {
    const [a, b, c] = [faulty('a'), faulty('b'), faulty('c')];
    const { node, log } = quorumOf([a.node, b.node, c.node], { voteThreshold: 2 });
    await node.write(1000, filled(2000, 7));
    for (const one of [a, b, c]) assert.deepEqual(await bytesOf(one.node, 1000, 2000), Buffer.alloc(2000, 7));
    b.faults.add({ op: 'write', errno: 'ENOSPC' });
    await node.write(1000, filled(2000, 8));
    const bad = {
      type: 'write',
      error: 'No space left on device',
      'node-name': 'b',
      'sector-num': 1,
      'sectors-count': 5,
    };
    assert.deepEqual(log.seen, [{ event: 'QUORUM_REPORT_BAD', data: bad }]);
    a.faults.add({ op: 'write', errno: 'ENOSPC' });
    await assert.rejects(node.writeZeroes(512, 512), hasErrno('ENOSPC'));
    assert.deepEqual(log.of('QUORUM_FAILURE'), [{ reference: 'q', 'sector-num': 1, 'sectors-count': 1 }]);
    assert.deepEqual(
      log.words,
      Array.from({ length: 3 }, () => 'QUORUM_REPORT_BAD').concat('QUORUM_FAILURE'),
    );
  });

  it('end with the most frequent error; of two as frequent with the later one', async () => {
    const [a, b, c] = [
      faulty('a', [{ op: 'write', errno: 'EIO' }]),
      faulty('b', [{ op: 'write', errno: 'ENOSPC' }]),
      faulty('c', [{ op: 'write', errno: 'EIO' }]),
    ];
    await assert.rejects(quorumOf([a.node, b.node, c.node]).node.write(0, filled(512, 1)), hasErrno('EIO'));
    await assert.rejects(quorumOf([a.node, b.node]).node.write(0, filled(512, 1)), hasErrno('ENOSPC'));
    // Later among the children, not in time.
    const box: { gate: GateFilter | null } = { gate: null };
    const late = memory('late', LENGTH, {
      wrap: (driver) =>
        (box.gate = new GateFilter(new ErrorFilter(driver, [{ op: 'write', errno: 'ENOMEM' }]))),
    });
    box.gate?.gate.close();
    const write = quorumOf([late, b.node]).node.write(0, filled(512, 1));
    assert.equal(await isPending(write), true);
    box.gate?.gate.open();
    await assert.rejects(write, hasErrno('ENOSPC'));
  });

  it('name the device in QUORUM_FAILURE when there is one', async () => {
    const a = faulty('a', [{ op: 'write' }]);
    const { node, log } = quorumOf([a.node], { deviceName: () => 'colo-disk0' });
    await assert.rejects(node.write(0, filled(512, 1)));
    assert.equal(log.of('QUORUM_FAILURE')[0]?.['reference'], 'colo-disk0');
  });
});

describe('quorum: reads', () => {
  it('fifo takes the first child that answers, reports the others, and never says FAILURE', async () => {
    const [a, b] = [faulty('a'), faulty('b')];
    const { node, log } = quorumOf([a.node, b.node], { readPattern: 'fifo' });
    await a.node.write(0, filled(512, 1));
    await b.node.write(0, filled(512, 2));
    assert.deepEqual(await bytesOf(node, 0, 512), Buffer.alloc(512, 1));
    a.faults.add({ op: 'read' });
    assert.deepEqual(await bytesOf(node, 0, 512), Buffer.alloc(512, 2));
    const bad = { type: 'read', error: 'Input/output error', 'sector-num': 0, 'sectors-count': 1 };
    assert.deepEqual(log.of('QUORUM_REPORT_BAD'), [{ ...bad, 'node-name': 'a' }]);
    b.faults.add({ op: 'read', errno: 'ENOMEM' });
    await assert.rejects(bytesOf(node, 0, 512), hasErrno('ENOMEM'));
    assert.deepEqual(log.of('QUORUM_FAILURE'), []);
  });

  it('quorum lets the majority win, names the losers, and repairs them if told to', async () => {
    for (const rewriteCorrupted of [false, true]) {
      const [a, b, c] = [faulty('a'), faulty('b'), faulty('c')];
      const { node, log } = quorumOf([a.node, b.node, c.node], { voteThreshold: 2, rewriteCorrupted });
      await node.write(0, filled(1024, 5));
      await a.node.write(512, filled(512, 6));
      assert.deepEqual(await bytesOf(node, 0, 1024), Buffer.alloc(1024, 5));
      assert.deepEqual(log.seen, [
        {
          event: 'QUORUM_REPORT_BAD',
          data: { type: 'read', 'node-name': 'a', 'sector-num': 0, 'sectors-count': 2 },
        },
      ]);
      assert.equal((await bytesOf(a.node, 512, 1))[0], rewriteCorrupted ? 5 : 6);
    }
  });

  it('reports a repair that fails (ours)', async () => {
    const [a, b, c] = [faulty('a'), faulty('b'), faulty('c')];
    const { node, log } = quorumOf([a.node, b.node, c.node], { voteThreshold: 2, rewriteCorrupted: true });
    await a.node.write(0, filled(512, 6));
    a.faults.add({ op: 'write', errno: 'ENOSPC' });
    assert.deepEqual(await bytesOf(node, 0, 512), Buffer.alloc(512));
    assert.deepEqual(
      log.seen.map(({ data }) => [data['type'], data['node-name'], data['error']]),
      [
        ['read', 'a', undefined],
        ['write', 'a', 'No space left on device'],
      ],
    );
  });

  it('quorum fails without a majority, and when too few answer', async () => {
    const [a, b] = [faulty('a'), faulty('b')];
    const { node, log } = quorumOf([a.node, b.node], { voteThreshold: 2 });
    await a.node.write(0, filled(512, 1));
    await assert.rejects(bytesOf(node, 0, 512), hasErrno('EIO'));
    assert.deepEqual(log.words, ['QUORUM_FAILURE']);
    a.faults.add({ op: 'read', errno: 'ENOMEM' });
    await assert.rejects(bytesOf(node, 0, 512), hasErrno('ENOMEM'));
    assert.deepEqual(log.words, ['QUORUM_FAILURE', 'QUORUM_REPORT_BAD', 'QUORUM_FAILURE']);
  });

  it('blkverify turns a difference into EIO and leaves the process alive', async () => {
    const [a, b] = [faulty('a'), faulty('b')];
    const { node, log } = quorumOf([a.node, b.node], { voteThreshold: 2, blkverify: true });
    await a.node.write(0, filled(512, 1));
    await assert.rejects(bytesOf(node, 0, 512), hasErrno('EIO'));
    assert.deepEqual(log.words, ['QUORUM_FAILURE']);
    assert.deepEqual(await bytesOf(node, 1024, 512), Buffer.alloc(512));
  });

  it('status: zero only where all agree; fifo asks the child it reads from', async () => {
    const [a, b] = [faulty('a'), faulty('b')];
    await b.node.write(CLUSTER, filled(10, 1));
    const both = await quorumOf([a.node, b.node]).node.blockStatus(0, LENGTH);
    assert.deepEqual(
      both.map(({ offset, length, zero }) => ({ offset, length, zero })),
      [true, false, true, true].map((zero, index) => ({ offset: index * CLUSTER, length: CLUSTER, zero })),
    );
    const fifo = await quorumOf([a.node, b.node], { readPattern: 'fifo' }).node.blockStatus(0, LENGTH);
    assert.ok(fifo.every((extent) => extent.zero && extent.allocated));
    b.faults.add({ op: 'status' });
    const { node, log } = quorumOf([a.node, b.node]);
    assert.ok((await node.blockStatus(0, LENGTH)).every((extent) => extent.data));
    assert.equal(log.of('QUORUM_REPORT_BAD')[0]?.['type'], 'read');
  });
});

describe('quorum: flush and discard', () => {
  it('flush needs the threshold, reports sector 0, and never says FAILURE', async () => {
    const [a, b] = [faulty('a', [{ op: 'flush' }]), faulty('b')];
    const { node, log } = quorumOf([a.node, b.node]);
    await node.flush();
    b.faults.add({ op: 'flush' });
    await assert.rejects(node.flush(), hasErrno('EIO'));
    const bad = { type: 'flush', error: 'Input/output error', 'sector-num': 0, 'sectors-count': 0 };
    assert.deepEqual(log.of('QUORUM_REPORT_BAD'), [
      { ...bad, 'node-name': 'a' },
      { ...bad, 'node-name': 'a' },
      { ...bad, 'node-name': 'b' },
    ]);
    assert.deepEqual(log.of('QUORUM_FAILURE'), []);
  });

  it('discard reaches an only child and nobody else', async () => {
    const [a, b] = [faulty('a'), faulty('b')];
    for (const children of [[a.node], [a.node, b.node]]) {
      const { node } = quorumOf(children);
      await node.write(0, filled(CLUSTER, 1));
      await node.discard(0, CLUSTER);
      assert.equal((await bytesOf(node, 0, 1))[0], children.length === 1 ? 0 : 1);
    }
  });
});

describe('quorum: children come and go', () => {
  it('numbers them as QEMU does', () => {
    const { quorum } = quorumOf([faulty('a').node, faulty('b').node]);
    assert.equal(quorum.addChild(faulty('c').node), 'children.2');
    quorum.removeChild('children.2');
    assert.equal(quorum.addChild(faulty('d').node), 'children.2');
    quorum.removeChild('children.1');
    assert.equal(quorum.addChild(faulty('e').node), 'children.3');
    assert.deepEqual([...quorum.children().keys()], ['children.0', 'children.2', 'children.3']);
  });

  it('notes who refers to a child', () => {
    const { quorum } = quorumOf([faulty('a').node]);
    const added = faulty('replication0').node;
    assert.equal(quorum.addChild(added), 'children.1');
    assert.deepEqual([...added.users], ['q/children.1']);
    assert.throws(() => quorum.addChild(added), { message: 'The node replication0 already has a parent' });
    assert.equal(quorum.removeChild('children.1'), added);
    assert.deepEqual([...added.users], []);
  });

  it('refuses with the texts of QEMU', () => {
    const { quorum } = quorumOf([faulty('a').node]);
    assert.throws(() => quorum.removeChild('children.0'), {
      message: 'The number of children cannot be lower than the vote threshold 1',
    });
    assert.throws(() => quorum.removeChild('children.7'), {
      message: "Node 'q' does not have child 'children.7'",
    });
    assert.throws(
      () => quorum.addChild(memory('short', CLUSTER)),
      /has 65536 bytes, but quorum 'q' has 262144/,
    );
    const verify = quorumOf([faulty('a').node, faulty('b').node], { voteThreshold: 2, blkverify: true });
    assert.throws(() => verify.quorum.addChild(faulty('c').node), {
      message: 'Cannot add a child to a quorum in blkverify mode',
    });
  });

  it('a write or flush that waits for a dead child ends when that is removed', async () => {
    const box: { gate: GateFilter | null } = { gate: null };
    const dead = memory('dead', LENGTH, { wrap: (driver) => (box.gate = new GateFilter(driver)) });
    const { quorum, node, log } = quorumOf([faulty('a').node, dead], { readPattern: 'fifo' });
    box.gate?.gate.close();
    const stuck = [node.write(0, filled(512, 1)), node.flush(), node.writeZeroes(512, 512)];
    for (const one of stuck) assert.equal(await isPending(one), true);
    quorum.removeChild('children.1');
    await Promise.all(stuck);
    await node.write(512, filled(512, 3));
    box.gate?.gate.open();
    await dead.drain();
    assert.equal((await bytesOf(dead, 512, 1))[0], 0, 'new requests do not go there');
    assert.deepEqual(log.seen, []);
  });

  it('a late failure of a removed child is not reported', async () => {
    const box: { gate: GateFilter | null } = { gate: null };
    const dead = memory('dead', LENGTH, {
      wrap: (driver) => (box.gate = new GateFilter(new ErrorFilter(driver, [{ op: 'write' }]))),
    });
    const { quorum, node, log } = quorumOf([faulty('a').node, dead]);
    box.gate?.gate.close();
    const write = node.write(0, filled(512, 1));
    quorum.removeChild('children.1');
    await write;
    box.gate?.gate.open();
    await dead.drain();
    assert.deepEqual(log.seen, []);
  });

  it('a fifo read that fell back to a child which is then removed goes on to the next', async () => {
    const box: { gate: GateFilter | null } = { gate: null };
    const a = faulty('a', [{ op: 'read' }]);
    const dead = memory('dead', LENGTH, { wrap: (driver) => (box.gate = new GateFilter(driver)) });
    const c = faulty('c');
    await dead.write(0, filled(512, 8));
    await c.node.write(0, filled(512, 9));
    const { quorum, node } = quorumOf([a.node, dead, c.node], { readPattern: 'fifo' });
    box.gate?.gate.close();
    const read = bytesOf(node, 0, 512);
    assert.equal(await isPending(read), true);
    quorum.removeChild('children.1');
    const got = await read;
    box.gate?.gate.open();
    await dead.drain();
    assert.deepEqual(got, Buffer.alloc(512, 9), 'also after the late answer');
  });
});

describe('quorum: options', () => {
  const context: OpenContext = {
    nodeName: 'q',
    openChild: (_role, value) =>
      Promise.resolve(
        typeof value === 'string' ? memory(value, value === 'short' ? CLUSTER : LENGTH) : faulty('x').node,
      ),
    find: () => null,
    findLater: () => () => null,
    emit: () => undefined,
  };
  const open = (flat: Record<string, string>): Promise<QuorumDriver> =>
    openQuorum(new OptionReader(nestOptions(flat)), context);
  const two = { 'children.0': 'a', 'children.1.driver': 'memory' };

  it('opens references and subtrees', async () => {
    const quorum = await open({ ...two, 'vote-threshold': '1', 'read-pattern': 'fifo' });
    assert.deepEqual(
      [...quorum.children()].map(([name, node]) => `${name}=${node.nodeName}`),
      ['children.0=a', 'children.1=x'],
    );
    assert.equal(quorum.readPattern, 'fifo');
    assert.equal(quorum.lengthBytes, LENGTH);
  });

  const refusals: readonly (readonly [string, Record<string, string>])[] = [
    ['Number of provided children must be 1 or more', { 'vote-threshold': '1' }],
    ['Option children is not a valid array', { 'children.1': 'a', 'vote-threshold': '1' }],
    ["Parameter 'vote-threshold' expects a value >= 1", { 'children.0': 'a' }],
    ["Parameter 'vote-threshold' expects a value >= 1", { 'children.0': 'a', 'vote-threshold': '0' }],
    ['threshold may not exceed children count', { 'children.0': 'a', 'vote-threshold': '2' }],
    ['Please set read-pattern as fifo or quorum', { ...two, 'vote-threshold': '1', 'read-pattern': 'zz' }],
    [
      'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
      { ...two, 'vote-threshold': '1', blkverify: 'on' },
    ],
    [
      'rewrite-corrupted=on cannot be used with blkverify=on',
      { ...two, 'vote-threshold': '2', blkverify: 'on', 'rewrite-corrupted': 'on' },
    ],
    [
      'Could not refresh total sector count: Input/output error ' +
        `(children.0 has ${LENGTH} bytes, children.1 has ${CLUSTER} bytes)`,
      { 'children.0': 'a', 'children.1': 'short', 'vote-threshold': '1' },
    ],
    ["Block driver 'quorum' does not support the option 'nix'", { ...two, 'vote-threshold': '1', nix: '1' }],
  ];
  for (const [message, flat] of refusals) {
    it(`refuses ${JSON.stringify(flat)}`, async () => {
      await assert.rejects(open(flat), { message });
    });
  }

  it('reads blkverify and rewrite-corrupted for read-pattern=quorum alone', async () => {
    const quorum = await open({
      ...two,
      'vote-threshold': '1',
      'read-pattern': 'fifo',
      blkverify: 'on',
      'rewrite-corrupted': 'on',
    });
    assert.equal(quorum.blkverify, false);
  });
});
