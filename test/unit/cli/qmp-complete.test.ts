/** What Tab offers: by a schema in QEMU's form, and by our own table of commands. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { typesOfSchema } from '../../../src/cli/qmp/argument-types.ts';
import { describeArguments, loadCatalog, namesOf } from '../../../src/cli/qmp/catalog.ts';
import { complete, type Catalog } from '../../../src/cli/qmp/complete.ts';
import type { QmpPeer } from '../../../src/cli/qmp/peer.ts';

const SCHEMA = [
  { name: 'add', 'meta-type': 'command', 'arg-type': '1', 'ret-type': '0' },
  { name: 'adieu', 'meta-type': 'command', 'arg-type': '0', 'ret-type': '0' },
  { name: '0', 'meta-type': 'object', members: [] },
  {
    name: '1',
    'meta-type': 'object',
    members: [
      { name: 'driver', type: '2' },
      { name: 'ro', type: 'bool', default: null },
      { name: 'id', type: 'str' },
    ],
    tag: 'driver',
    variants: [
      { case: 'file', type: '3' },
      { case: 'raw', type: '4' },
    ],
  },
  { name: '2', 'meta-type': 'enum', values: ['raw', 'file'] },
  { name: '3', 'meta-type': 'object', members: [{ name: 'filename', type: 'str' }] },
  { name: '4', 'meta-type': 'object', members: [{ name: 'below', type: '5' }] },
  { name: '5', 'meta-type': 'alternate', members: [{ type: '1' }, { type: 'str' }] },
  { name: 'bool', 'meta-type': 'builtin', 'json-type': 'boolean' },
  { name: 'str', 'meta-type': 'builtin', 'json-type': 'string' },
];
const types = typesOfSchema(SCHEMA);
const CATALOG: Catalog = { commands: ['add', 'adieu'], argumentsOf: (name) => types.get(name) ?? null };

async function offers(line: string, catalog = CATALOG): Promise<readonly string[]> {
  const names = (_command: string, key: string): Promise<string[]> =>
    Promise.resolve(key === 'id' ? ['disk0', 'disk1', 'two words'] : []);
  const { words, word } = await complete(line, catalog, names);
  assert.ok(words.length === 0 || line.endsWith(word), line);
  return words;
}

test('commands, keys, values, and what a union has once its branch is known', async () => {
  assert.deepEqual(await offers(''), ['add', 'adieu']);
  assert.deepEqual(await offers('adi'), ['adieu ']);
  assert.deepEqual(await offers('help adi'), ['adieu ']);
  assert.deepEqual(await offers('add '), ['driver=', 'id=', 'ro=']);
  assert.deepEqual(await offers('add driver='), ['driver=file', 'driver=raw']);
  assert.deepEqual(await offers('add driver=f'), ['driver=file ']);
  assert.deepEqual(await offers('add driver=file '), ['filename=', 'id=', 'ro=']);
  assert.deepEqual(await offers('add ro=t'), ['ro=true ']);
  assert.deepEqual(await offers('add driver=raw be'), ['below.']);
  assert.deepEqual(await offers('add driver=raw below.d'), ['below.driver=']);
  assert.deepEqual(await offers('add driver=raw below.driver=file below.'), [
    'below.filename=',
    'below.id=',
    'below.ro=',
  ]);
  assert.deepEqual(await offers('add id='), ['id=disk0', 'id=disk1']);
  for (const none of ['nosuch ', 'add "x', 'add x={', '{"exec', 'add nosuch.', 'add filename=x', 'adieu ']) {
    assert.deepEqual(await offers(none), [], none);
  }
});

test('a schema that is none offers nothing and breaks nothing', () => {
  for (const odd of [null, 5, [null, 1, {}], [{ name: 'a', 'meta-type': 'command', 'arg-type': 'gone' }]]) {
    assert.deepEqual(typesOfSchema(odd).get('a')?.members({}) ?? [], []);
  }
});

function peerThat(answers: Readonly<Record<string, unknown>>): QmpPeer {
  return {
    greeting: 'QEMU',
    hasEvents: true,
    execute: (command) =>
      Object.hasOwn(answers, command)
        ? Promise.resolve(answers[command])
        : Promise.reject(new Error('not found')),
    onEvent: () => undefined,
    closed: new Promise(() => undefined),
    close: () => undefined,
  };
}

test('without a schema our own table serves; names are asked of the peer', async () => {
  const commands = ['blockdev-add', 'stop', 'chardev-remove', 'job-cancel', 'later'].map((name) => ({
    name,
  }));
  const peer = peerThat({
    'query-commands': commands,
    'query-chardev': [{ label: 'serial0' }, { label: 5 }, null],
    'query-jobs': 'odd',
  });
  const catalog = await loadCatalog(peer);
  const names = namesOf(peer);
  const words = async (line: string): Promise<readonly string[]> =>
    (await complete(line, catalog, names)).words;
  assert.deepEqual(await words('blockdev-add node'), ['node-name=']);
  assert.ok((await words('blockdev-add driver=')).includes('driver=qcow2'));
  assert.ok((await words('blockdev-add driver=qcow2 ')).includes('file.'));
  assert.deepEqual(await words('blockdev-add driver=qcow2 file.driver=nb'), ['file.driver=nbd ']);
  assert.deepEqual(await words('chardev-remove id='), ['id=serial0 ']);
  assert.deepEqual(await words('job-cancel id='), []);
  assert.deepEqual(await words('later '), []);
  assert.match(describeArguments('chardev-remove', catalog), /^chardev-remove\n {2}id: str$/);
  assert.match(describeArguments('later', catalog), /not known here/);
  assert.match(describeArguments('none', catalog), /no command is called none/);
});
