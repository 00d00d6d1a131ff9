/** What is shown to whoever sits at a terminal, and to nobody else: colours, bars, and a VM's QMP shell through its node. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { ApiServer } from '../../../src/api/http-server.ts';
import type { NodeService } from '../../../src/api/service.ts';
import { CommandNotFoundError } from '../../../src/base/errors.ts';
import type { VmView } from '../../../src/ha/views.ts';
import { COLO } from '../../helpers/colo.ts';
import { falseNode, VM, type FalseNode } from '../../helpers/false-node.ts';
import { Pty } from '../../helpers/pty.ts';

const run = promisify(execFile);
const noPython = spawnSync('python3', ['--version']).status !== 0;
const options = { skip: noPython && 'no python3' };

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'terminal-'));
});
after(() => rm(folder, { recursive: true, force: true }));

async function nodeAt(
  t: TestContext,
  name: string,
  own: Partial<NodeService> = {},
): Promise<[string, FalseNode]> {
  const node = falseNode(own);
  const server = await ApiServer.listen({ path: path.join(folder, `${name}.sock`) }, { node });
  t.after(() => server.close());
  return [server.address, node];
}

function at(t: TestContext, args: readonly string[], env: Readonly<Record<string, string>> = {}): Pty {
  const pty = new Pty(args, env);
  t.after(() => pty.kill());
  return pty;
}

const COLOUR = /\x1b\[\d+m/;

test('colours are for a terminal that wants them', options, async (t) => {
  const [node] = await nodeAt(t, 'colours');
  const status = ['status', '--node', node];
  const onTerminal = async (args: string[], env: Readonly<Record<string, string>>): Promise<string> => {
    const pty = at(t, [...status, ...args], env);
    assert.equal(await pty.ended(), 0);
    return pty.text;
  };
  const piped = async (args: string[], env: Readonly<Record<string, string>>): Promise<string> =>
    (
      await run(process.execPath, [COLO, ...status, ...args], {
        env: { ...process.env, NO_COLOR: '', FORCE_COLOR: '', ...env },
      })
    ).stdout;
  const [seen, refused, dumb, option, pipe, forced, both, json] = await Promise.all([
    onTerminal([], {}),
    onTerminal([], { NO_COLOR: '1' }),
    onTerminal([], { TERM: 'dumb' }),
    onTerminal(['--no-color'], { FORCE_COLOR: '1' }),
    piped([], {}),
    piped([], { FORCE_COLOR: '1' }),
    piped([], { FORCE_COLOR: '1', NO_COLOR: '1' }),
    piped(['--json'], { FORCE_COLOR: '1' }),
  ]);
  assert.match(seen, /\x1b\[33msyncing +\x1b\[39m/);
  assert.match(forced, COLOUR);
  for (const [name, text] of Object.entries({ refused, dumb, option, pipe, both, json })) {
    assert.doesNotMatch(text, COLOUR, name);
    assert.match(text, /syncing/, name);
  }
});

test('a resync is a bar: in up --wait, in migrate, and in status --watch', options, async (t) => {
  const file = path.join(folder, 'web1.yaml');
  await writeFile(file, 'name: web1\nimage: web.qcow2\n');
  let now: VmView = VM;
  let arrived: ((vm: VmView) => void) | undefined;
  const [node] = await nodeAt(t, 'bars', {
    vm: () => Promise.resolve(now),
    migrate: () => new Promise((resolve) => (arrived = resolve)),
  });
  const whole: VmView = { ...VM, state: 'protected', reason: 'whole', copies: [] };
  const up = at(t, ['up', file, '--wait', '--node', node]);
  const migrate = at(t, ['migrate', 'web1', 'beta', '--node', node]);
  const watch = at(t, ['status', '-w', '0.2', '--node', node]);
  for (const pty of [up, migrate]) await pty.see(/25% web1: disks to beta, 512 B of 2\.0 KiB/);
  await watch.see(/\[======-{18}\] 25% web1: disks to beta, 512 B of 2\.0 KiB/);
  now = whole;
  arrived?.(whole);
  // The bar goes, a line comes.
  await up.see(/\x1b\[2K\rweb1: protected on alpha, secondary on beta: whole/);
  assert.equal(await up.ended(), 0);
  await migrate.see(/\x1b\[2K\rweb1: protected on alpha/);
  assert.equal(await migrate.ended(), 0);
  watch.kill();
  const plain = await run(process.execPath, [COLO, 'up', file, '--wait', '--node', node]);
  assert.deepEqual([plain.stderr, plain.stdout.includes('%')], ['', false]);
});

test('a conversion is a bar on a terminal, with -p alone', options, async (t) => {
  const source = path.join(folder, 'source.raw');
  await writeFile(source, Buffer.alloc(1 << 20, 7));
  const shown = at(t, ['img', 'convert', '-p', '-O', 'qcow2', source, path.join(folder, 'a.qcow2')]);
  const silent = at(t, ['img', 'convert', '-O', 'qcow2', source, path.join(folder, 'b.qcow2')]);
  assert.equal(await shown.ended(), 0);
  assert.match(shown.text, /[█=]{10,}[^\n]* 100%/);
  assert.equal(await silent.ended(), 0);
  assert.match(silent.text, /^PID \d+\n$/);
});

/** What a VM's monitor answers, as far as the shell asks. */
function monitor(command: string, args: Readonly<Record<string, unknown>> = {}): unknown {
  switch (command) {
    case 'query-commands':
      return ['query-status', 'query-version', 'blockdev-del', 'stop'].map((name) => ({ name }));
    case 'query-qmp-schema':
      return [
        { name: 'blockdev-del', 'meta-type': 'command', 'arg-type': '1', 'ret-type': '2' },
        { name: '1', 'meta-type': 'object', members: [{ name: 'node-name', type: 'str' }] },
        { name: 'str', 'meta-type': 'builtin', 'json-type': 'string' },
        { name: '2', 'meta-type': 'object', members: [] },
      ];
    case 'query-named-block-nodes':
      return [{ 'node-name': 'disk7' }];
    case 'blockdev-del':
      return args;
    case 'query-status':
      return { status: 'running' };
    default:
      throw new CommandNotFoundError(`The command ${command} has not been found`);
  }
}

test(
  "a VM's QMP shell through its node: Tab for commands, arguments and names, history",
  options,
  async (t) => {
    const asked: string[] = [];
    const [node] = await nodeAt(t, 'qmp', {
      qmp: (vm, command, args) => {
        asked.push(`${vm} ${command}`);
        return Promise.resolve().then(() => monitor(command, args));
      },
    });
    const state = path.join(folder, 'state');
    const shell = at(t, ['qmp', 'web1', '--node', node], { XDG_STATE_HOME: state });
    await shell.see(/Connected to web1, through [^\n]*events are not passed on[^]*\(QMP\) /);
    shell.type('query-st\t');
    await shell.see(/query-status /);
    shell.type('\r');
    await shell.see(/running[^]*\(QMP\) /);
    shell.type('blockdev-del no\t');
    await shell.see(/node-name=/);
    shell.type('d\t');
    await shell.see(/disk7 /);
    shell.type('\r');
    await shell.see(/node-name[^]*disk7[^]*\(QMP\) /);
    shell.type('help blockdev-del\r');
    await shell.see(/node-name: str/);
    shell.type('nosuch\r');
    await shell.see(/The command nosuch has not been found[^]*\(QMP\) /);
    shell.type('\x04');
    assert.equal(await shell.ended(), 0);
    assert.ok(asked.includes('web1 query-named-block-nodes'));
    const kept = (await readFile(path.join(state, 'colo/qmp_history'), 'utf8')).split('\n');
    assert.deepEqual(kept.slice(0, 2), ['query-status', 'blockdev-del node-name=disk7']);
    const next = at(t, ['qmp', 'web1', '--node', node], { XDG_STATE_HOME: state });
    await next.see(/\(QMP\) /);
    next.type('\x1b[A');
    await next.see(/nosuch/);
    next.type('\x03\x04');
    assert.equal(await next.ended(), 0);
  },
);
