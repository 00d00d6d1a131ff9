/**
 * One script of requests to quorums with broken children, in QEMU 7.2 and in ours: what the requester is told, the
 * events and their members, what is on the children afterwards, and blkdebug itself on the way.
 */
import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { runTool, tool, inFolder } from '../qcow2/helpers.ts';
import { Program, STEP_MS, missingQemu } from './program.ts';
import type { Whose } from './program.ts';

/** A child: its image, and the rule that breaks it. */
function child(index: number, image: string, rule = ''): string {
  const at = `children.${index}`;
  const rules = rule
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => `,${at}.file.inject-error.${word}`)
    .join('');
  return (
    `${at}.driver=raw,${at}.node-name=${image},${at}.file.driver=blkdebug,` +
    `${at}.file.image.driver=file,${at}.file.image.filename=${image}.raw${rules}`
  );
}

function quorum(id: string, options: string, ...children: string[]): string {
  return `-drive if=none,id=${id},driver=quorum,${options},${children.join(',')}`;
}

const all = (errno: number, iotype: string): string => `0.event=none 0.errno=${errno} 0.iotype=${iotype}`;

/** Images a1, a2…: pattern 1 in their first 64 KiB; those of `odd` have a 9 at 1 KiB. */
const IMAGES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'].flatMap((name) => [
  `${name}1`,
  `${name}2`,
  `${name}3`,
]);
const ODD = ['d2', 'e2', 'f2'];

const LINE = [
  quorum('write', 'vote-threshold=1', child(0, 'a1'), child(1, 'a2', all(28, 'write'))),
  quorum(
    'below',
    'vote-threshold=2',
    child(0, 'b1'),
    child(1, 'b2', all(28, 'write')),
    child(2, 'b3', all(28, 'write')),
  ),
  quorum(
    'fifo',
    'vote-threshold=1,read-pattern=fifo',
    child(0, 'c1', all(5, 'read')),
    child(1, 'c2', `${all(12, 'read')} 0.sector=8`),
  ),
  quorum('vote', 'vote-threshold=2', child(0, 'd1'), child(1, 'd2'), child(2, 'd3')),
  quorum('rewrite', 'vote-threshold=2,rewrite-corrupted=on', child(0, 'e1'), child(1, 'e2'), child(2, 'e3')),
  quorum('tie', 'vote-threshold=2', child(0, 'f1'), child(1, 'f2')),
  quorum(
    'errors',
    'vote-threshold=1',
    child(0, 'g1', all(5, 'write')),
    child(1, 'g2', all(28, 'write')),
    child(2, 'g3', `${all(28, 'write-zeroes')} 1.event=write_aio 1.once=on`),
  ),
  quorum('flush', 'vote-threshold=1', child(0, 'h1', all(28, 'flush')), child(1, 'h2'), child(2, 'h3')),
].join(' ');

/** A request, and how many events it makes: the limit of one a second may hold them back. */
const SCRIPT: readonly (readonly [device: string, command: string, events: number])[] = [
  ['write', 'write -P 5 1024 2560', 1],
  ['write', 'read -P 5 1024 2560', 1],
  ['write', 'write -z 70k 8k', 0],
  ['write', 'write -P 6 100 10', 1],
  ['below', 'write -P 5 64k 4k', 3],
  ['below', 'write -z 0 512', 0],
  ['fifo', 'read -P 1 0 512', 1],
  ['fifo', 'read 4096 512', 2],
  ['vote', 'read -P 1 0 512', 0],
  ['vote', 'read -P 1 512 1024', 1],
  ['rewrite', 'read -P 1 0 4096', 1],
  ['rewrite', 'read -P 1 0 4096', 0],
  ['tie', 'read 1024 512', 1],
  ['tie', 'read -P 1 0 1024', 0],
  ['errors', 'write 0 512', 4],
  ['errors', 'write -z 0 64k', 0],
  ['flush', 'write -P 8 0 512', 0],
  ['flush', 'flush', 1],
];

async function run(t: Pick<TestContext, 'after'>, whose: Whose, top: string): Promise<unknown[]> {
  const folder = path.join(top, whose);
  await mkdir(folder);
  for (const image of IMAGES) {
    const file = path.join(folder, `${image}.raw`);
    await tool('qemu-img', 'create', '-q', '-f', 'raw', file, '1M');
    const odd = ODD.includes(image) ? ['-c', 'write -P 9 1k 512'] : [];
    await tool('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 64k', ...odd, file);
  }
  const program = await Program.start(t, whose, folder, LINE);
  const told: unknown[] = [];
  let seen = 0;
  for (const [device, command, count] of SCRIPT) {
    const outcome = await program.io(device, command);
    const names = ['QUORUM_REPORT_BAD', 'QUORUM_FAILURE'];
    const deadline = performance.now() + STEP_MS;
    while (program.events(...names).length < seen + count) {
      assert.ok(
        performance.now() < deadline,
        `${whose}: ${device} ${command}: ${JSON.stringify(program.events(...names).slice(seen))}`,
      );
      await program.execute('query-status');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    // Of one request the failures of several children may come in any order.
    const events = program
      .events(...names)
      .slice(seen)
      .map((event) => JSON.stringify(sorted(event)))
      .sort();
    seen += events.length;
    told.push([device, command, outcome, events]);
  }
  await program.quit();
  for (const image of IMAGES) {
    const bytes = await readFile(path.join(folder, `${image}.raw`));
    told.push([image, ...[0, 100, 512, 1024, 1536, 65536, 70 * 1024].map((at) => bytes[at])]);
  }
  return told;
}

function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, member]) => [key, sorted(member)]),
  );
}

/** Changes of children (`parent child=X` or `parent node=X`), and requests. */
const CHURN: readonly string[] = [
  ...['write -P 1 0 4k', 'change q node=x1', 'change q node=x1', 'change q node=x2', 'write -P 2 4k 4k'],
  ...['aio_write -P 3 8k 64k', 'aio_write -P 4 128k 64k', 'change q child=children.1', 'write -P 5 256k 4k'],
  ...['change q node=x1', 'aio_write -P 6 300k 64k', 'change q child=children.3', 'aio_write -P 7 400k 64k'],
  ...['change q child=children.2', 'change q child=children.9', 'change q child=children.0', 'aio_flush'],
  ...[
    'change q node=nope',
    'change nope node=x1',
    'change x1 node=x2',
    'change x1 child=file',
    'change q node=q0',
  ],
  ...['change q node=longer', 'write -P 8 512k 4k', 'read -P 8 512k 4k', 'flush'],
];
/** QEMU takes a longer child and aborts at a write behind the others' end. */
const ON_PURPOSE = 'change q node=longer';

async function churn(t: Pick<TestContext, 'after'>, whose: Whose, top: string): Promise<string[]> {
  const folder = path.join(top, whose);
  await mkdir(folder);
  const names = ['q0', 'x1', 'x2', 'longer'];
  const nodes = names
    .slice(1)
    .map((name) => `-blockdev raw,node-name=${name},file.driver=file,file.filename=${name}.raw`);
  for (const name of names) {
    const size = name === 'longer' ? '2M' : '1M';
    await tool('qemu-img', 'create', '-q', '-f', 'raw', path.join(folder, `${name}.raw`), size);
  }
  const drive =
    '-drive if=none,id=q,driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.node-name=q0,' +
    'children.0.file.driver=file,children.0.file.filename=q0.raw';
  const program = await Program.start(t, whose, folder, [...nodes, drive].join(' '));
  const told: string[] = [];
  for (const step of CHURN) {
    const [, parent, key = '', name] = /^change (\w+) (\w+)=(.*)$/.exec(step) ?? [];
    if (parent === undefined) {
      // What the requests in the background say comes when it comes.
      const said = step.startsWith('aio')
        ? await program.hmp(`qemu-io q "${step}"`)
        : await program.io('q', step);
      told.push(`${step}: ${/failed/.test(said) ? said : 'done'}`);
    }
    if (parent === undefined || step === ON_PURPOSE) continue;
    told.push(`${step}: ${await program.outcome('x-blockdev-change', { parent, [key]: name })}`);
  }
  if (whose === 'colo') {
    assert.match(
      await program.outcome('x-blockdev-change', { parent: 'q', node: 'longer' }),
      /has 2097152 bytes, but quorum/,
    );
  }
  await program.quit();
  for (const name of names) {
    const bytes = await readFile(path.join(folder, `${name}.raw`));
    const places = [0, 4, 8, 71, 128, 191, 256, 300, 363, 400, 463, 512];
    told.push(`${name}: ${places.map((kib) => bytes[kib * 1024]).join(' ')}`);
  }
  return told;
}

describe('as QEMU does', { skip: missingQemu }, () => {
  it('quorum: reads, votes, writes and flushes over broken children', async (t) => {
    await inFolder(async (folder) => {
      const [ours, theirs] = await Promise.all([run(t, 'colo', folder), run(t, 'qemu', folder)]);
      for (const [at, line] of theirs.entries()) assert.deepEqual(ours[at], line);
      assert.equal(ours.length, theirs.length);
    });
  });

  it('quorum: children that are added and taken away between and during requests', async (t) => {
    await inFolder(async (folder) => {
      const [ours, theirs] = await Promise.all([churn(t, 'colo', folder), churn(t, 'qemu', folder)]);
      for (const [at, line] of theirs.entries()) assert.equal(ours[at], line);
      assert.equal(ours.length, theirs.length);
    });
  });

  it('blkdebug: options and their refusals', async (t) => {
    await inFolder(async (folder) => {
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path.join(folder, 'd'), '1M');
      const program = await Program.start(t, 'colo', folder, '');
      const base = `driver=blkdebug,image.driver=file,image.filename=${folder}/d`;
      const rules = [
        '',
        'inject-error.0.event=foo',
        'inject-error.0.errno=5',
        'inject-error.0.event=none,inject-error.0.errno=abc',
        'inject-error.0.event=none,inject-error.0.iotype=x',
        'inject-error.0.event=none,inject-error.0.once=maybe',
        'inject-error.0.event=none,inject-error.0.sector=x',
        'inject-error.0.event=none,inject-error.0.sector=-5',
        'inject-error.0.event=none,inject-error.0.foo=1',
        'inject-error.0.event=none,inject-error.0.state=x',
        'inject-error.1.event=none',
        'inject-error.0.event=none,inject-error.2.event=none',
        'set-state.0.event=none',
        'set-state.0.event=none,set-state.0.new_state=0',
        'inject-error.0.event=none,inject-error.0.immediately=on,inject-error.0.iotype=read',
      ];
      for (const options of [
        ...rules.map((rule) => (rule === '' ? base : `${base},${rule}`)),
        'driver=blkdebug',
      ]) {
        const theirs = await runTool('qemu-img', 'info', '-U', '--image-opts', options);
        const ours = await program.hmp(`drive_add -n buddy ${options},node-name=x,read-only=on`);
        const text = theirs.stderr.replace(`qemu-img: Could not open '${options}': `, '').trim();
        assert.equal(ours, text, options);
        if (ours === '') await program.execute('blockdev-del', { 'node-name': 'x' });
      }
    });
  });

  it('blkdebug: blockdev-add', async (t) => {
    await inFolder(async (folder) => {
      await tool('qemu-img', 'create', '-q', '-f', 'raw', path.join(folder, 'd'), '1M');
      const [ours, theirs] = await Promise.all([
        Program.start(t, 'colo', folder, ''),
        Program.start(t, 'qemu', folder, ''),
      ]);
      const image = { driver: 'file', filename: 'd', 'read-only': true };
      const rules: unknown[] = [
        undefined,
        {},
        [{}],
        [{ event: 'foo' }],
        [{ event: 'none', iotype: 'foo' }],
        [{ event: 'none', errno: 'a' }],
        [{ event: 'none', sector: 'a' }],
        [{ event: 'none', once: 'a' }],
        [{ event: 'none', foo: 1 }],
        [{ event: 'none', iotype: 'flush', state: 1, errno: 28, sector: 0, once: true, immediately: true }],
      ];
      const nodes = rules.flatMap((rule) => [
        { image, 'inject-error': rule },
        { image, 'set-state': rule },
      ]);
      for (const node of [...nodes, {}, { image: 'nope' }]) {
        const args = { driver: 'blkdebug', 'node-name': 'x', 'read-only': true, ...node };
        const said = await theirs.outcome('blockdev-add', args);
        assert.equal(await ours.outcome('blockdev-add', args), said, JSON.stringify(node));
        if (said !== '{}') continue;
        for (const program of [ours, theirs]) await program.execute('blockdev-del', { 'node-name': 'x' });
      }
    });
  });
});
