/** `--json`: every command has it, docs/cli.md tells what each prints, and that is what it prints. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ApiServer } from '../../../src/api/http-server.ts';
import { createProgram } from '../../../src/cli/program.ts';
import { everyCommand, treeOf, type CommandNode } from '../../../src/cli/tree.ts';
import { ColoProcess } from '../../helpers/colo.ts';
import { coloHere } from '../../helpers/colo-here.ts';
import { falseNode } from '../../helpers/false-node.ts';

const WITHOUT: Readonly<Record<string, string>> = {
  vm: "takes QEMU's options; its JSON is QMP",
  completion: 'its output is a shell script',
};
/** Told in the table, and tried elsewhere. */
const NOT_HERE: Readonly<Record<string, string>> = {
  console: "its output is the guest's",
  guest: 'builds for a minute: test/e2e',
  demo: 'runs for minutes: test/e2e',
};

/** Command → the members that docs/cli.md names. */
function documented(): Map<string, string[]> {
  const text = readFileSync(fileURLToPath(new URL('../../../docs/cli.md', import.meta.url)), 'utf8');
  const section = (text.split('\n## JSON\n')[1] ?? '').split('\n## ')[0] ?? '';
  const words = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '');
  const rows = new Map<string, string[]>();
  for (const [, commands = '', , members = ''] of section.matchAll(/^\| (`.*?) +\| (.*?) +\| (.*?) *\|$/gm)) {
    const [like] = /^as /.test(members) ? words(members) : [];
    const named = like === undefined ? words(members) : (rows.get(like) ?? []);
    for (const command of words(commands)) rows.set(command, named);
  }
  return rows;
}

let leaves: CommandNode[] = [];
let folder = '';
let node: ApiServer;
before(async () => {
  leaves = everyCommand(treeOf(await createProgram())).filter(({ commands }) => commands.length === 0);
  folder = await mkdtemp(path.join(tmpdir(), 'json-'));
  const health = await falseNode().health();
  node = await ApiServer.listen(
    { path: path.join(folder, 'node.sock') },
    {
      node: falseNode({
        health: () =>
          Promise.resolve({
            ...health,
            dashboard: { url: 'http://127.0.0.1:7780/', reason: null, tokenFile: null },
          }),
      }),
    },
  );
  await mkdir(path.join(folder, 'arbiter'));
  await writeFile(path.join(folder, 'web1.yaml'), 'name: web1\nimage: web.qcow2\n');
});
after(async () => {
  await node.close();
  await rm(folder, { recursive: true, force: true });
});

test('every command has --json, or is known to have none, and stands in docs/cli.md', () => {
  const without = leaves.filter(({ options }) => !options.some(({ long }) => long === '--json'));
  assert.deepEqual(without.map(({ path: name }) => name).sort(), Object.keys(WITHOUT).sort());
  const there = leaves.map(({ path: name }) => name).filter((name) => !Object.hasOwn(WITHOUT, name));
  assert.deepEqual([...documented().keys()].sort(), there.sort());
});

/** Command → its arguments; each ends by itself. */
const RUNS: Readonly<Record<string, (file: (name: string) => string) => string[]>> = {
  status: () => [],
  hosts: () => [],
  top: () => ['-n', '1'],
  up: (file) => [file('web1.yaml')],
  check: (file) => [file('web1.yaml')],
  down: () => ['web1'],
  checkpoint: () => ['web1'],
  failover: () => ['web1'],
  migrate: () => ['web1', 'beta'],
  pause: () => ['web1'],
  resume: () => ['web1'],
  drain: () => ['beta'],
  undrain: () => ['beta'],
  events: () => [],
  logs: () => ['web1'],
  dashboard: () => [],
  qmp: () => ['web1', 'query-status'],
  man: () => [],
  'arbiter prepare': (file) => [file('arbiter')],
  'img create': (file) => ['-f', 'qcow2', file('a.qcow2'), '1M'],
  'img info': (file) => [file('a.qcow2')],
  'img check': (file) => [file('a.qcow2')],
  'img map': (file) => [file('a.qcow2')],
  'img convert': (file) => ['-p', file('a.qcow2'), file('b.raw')],
  'img compare': (file) => ['-p', file('a.qcow2'), file('b.raw')],
  'img resize': (file) => ['-f', 'raw', file('b.raw'), '+1M'],
};
/** They run until they are told to end; what they print first is JSON. */
const SERVERS: Readonly<Record<string, (file: (name: string) => string) => string[]>> = {
  'nbd serve': (file) => ['--listen', `unix:${file('nbd.sock')}`, file('served.raw')],
  switch: (file) => ['--listen', `unix:${file('switch.sock')}`],
  node: (file) => ['--config', file('node.yaml')],
};

/** The first value: a whole output, the first line of several, the first of an array. */
function firstOf(out: string): object {
  const read = (text: string): unknown => JSON.parse(text) as unknown;
  let value: unknown;
  try {
    value = read(out);
  } catch {
    value = read(out.split('\n')[0] ?? '');
  }
  const first: unknown = Array.isArray(value) ? value[0] : value;
  assert.ok(typeof first === 'object' && first !== null, out);
  return first;
}

function checkMembers(command: string, out: string): void {
  const value = firstOf(out);
  const told = documented().get(command) ?? [];
  assert.ok(told.length > 0, command);
  for (const member of told) assert.ok(member in value, `colo ${command}: no ${member} in ${out}`);
}

test('what a command prints has the members that docs/cli.md tells', async () => {
  const file = (name: string): string => path.join(folder, name);
  for (const [command, args] of Object.entries(RUNS)) {
    const options = leaves.find(({ path: name }) => name === command)?.options ?? [];
    const asking = options.some(({ long }) => long === '--node') ? ['--node', node.address] : [];
    const ran = await coloHere(...command.split(' '), ...args(file), '--json', ...asking);
    assert.equal(ran.status, 0, `colo ${command}: ${ran.err}`);
    assert.equal(ran.err, '', command);
    checkMembers(command, ran.out);
  }
  const differs = await coloHere('img', 'compare', file('a.qcow2'), file('web1.yaml'), '--json', '-s');
  assert.deepEqual(JSON.parse(differs.out), {
    identical: false,
    offset: null,
    'virtual-sizes': [2 ** 20, 512],
    messages: ['Strict mode: Image size mismatch!'],
  });
  assert.equal(differs.status, 1);
  const covered = [...Object.keys(RUNS), ...Object.keys(SERVERS), ...Object.keys(NOT_HERE)].sort();
  assert.deepEqual(covered, [...documented().keys()].sort());
});

test('servers print their ready line as JSON', async (t) => {
  const file = (name: string): string => path.join(folder, name);
  await writeFile(file('served.raw'), Buffer.alloc(4096));
  await writeFile(
    file('node.yaml'),
    [
      'name: alpha',
      'port: 0',
      'heartbeat: { port: 0 }',
      'metrics: false',
      'dashboard: false',
      `run-folder: ${file('run')}`,
      `state-folder: ${file('state')}`,
      `arbiter: { file: ${file('arbiter')} }`,
    ].join('\n'),
  );
  await Promise.all(
    Object.entries(SERVERS).map(async ([command, args]) => {
      const server = new ColoProcess(...command.split(' '), ...args(file), '--json');
      t.after(() => server.kill());
      checkMembers(command, await server.untilOutput(/\n/));
      await server.kill('SIGTERM');
    }),
  );
});

test('with --watch a look is a line', async () => {
  const server = new ColoProcess('status', '--watch', '0.1', '--json', '--node', node.address);
  try {
    const text = await server.untilOutput(/\n.*\n/);
    const [first = '', second = ''] = text.split('\n');
    assert.deepEqual(JSON.parse(first), JSON.parse(second));
    checkMembers('status', first);
  } finally {
    await server.kill();
  }
});
