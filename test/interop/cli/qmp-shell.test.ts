/** `colo qmp` typed on a pseudo-terminal, against a stock QEMU and against `colo vm`: Tab, history, events, errors. */
import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { QmpClient } from '../../../src/qmp/client.ts';
import { COLO, until } from '../../helpers/colo.ts';
import { Pty } from '../../helpers/pty.ts';

const run = promisify(execFile);
const skip = ['qemu-system-x86_64', 'python3'].find((name) => spawnSync(name, ['--version']).status !== 0);
const options = { skip: skip === undefined ? false : `no ${skip}` };

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'qmp-shell-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const MONITORS: Readonly<Record<string, readonly string[]>> = {
  'a stock QEMU': ['qemu-system-x86_64', '-nodefaults', '-display', 'none'],
  'colo vm': [process.execPath, COLO, 'vm'],
};

async function monitorOf(t: TestContext, name: string): Promise<string> {
  const socket = path.join(folder, `${name.replaceAll(' ', '-')}.sock`);
  const [program = '', ...args] = MONITORS[name] ?? [];
  const child = spawn(program, [...args, '-machine', 'none', '-qmp', `unix:${socket},server=on,wait=off`], {
    stdio: 'ignore',
  });
  t.after(() => child.kill('SIGKILL'));
  await until(`the monitor of ${name}`, 60_000, async () => {
    const client = await QmpClient.connect({ path: socket }).catch(() => null);
    client?.close();
    return client !== null;
  });
  return socket;
}

async function once(...args: string[]): Promise<{ out: string; err: string; status: number }> {
  try {
    const { stdout, stderr } = await run(process.execPath, [COLO, 'qmp', ...args]);
    return { out: stdout, err: stderr, status: 0 };
  } catch (error) {
    const { stdout, stderr, code } = error as { stdout: string; stderr: string; code: number };
    return { out: stdout, err: stderr, status: code };
  }
}

for (const name of Object.keys(MONITORS)) {
  test(`a person at ${name}`, options, async (t) => {
    const socket = await monitorOf(t, name);
    const state = path.join(folder, `state-${name.replaceAll(' ', '-')}`);
    const shell = new Pty(['qmp', socket], { XDG_STATE_HOME: state });
    t.after(() => shell.kill());
    await shell.see(/Connected to QEMU \d+\.\d+\.\d+ \([^]*\(QMP\) /);
    // Tab: a command, an argument, a value; then what was typed is what is meant.
    shell.type('query-vers\t');
    await shell.see(/query-version/);
    shell.type('\r');
    await shell.see(/"qemu"[^]*"major"[^]*\n\}[^]*\(QMP\) /);
    shell.type('blockdev-add driv\t');
    await shell.see(/driver=/);
    shell.type('null-c\t');
    await shell.see(/null-co /);
    shell.type('node-name=n7 size=1048576\r');
    await shell.see(/\{\}[^]*\(QMP\) /);
    shell.type('blockdev-del node-name=\t');
    await shell.see(/node-name=n7/);
    shell.type('\r');
    await shell.see(/\{\}[^]*\(QMP\) /);
    // Events come in between, and what has been typed stays.
    shell.type('query-stat');
    await shell.see(/query-stat/);
    assert.equal((await once(socket, 'stop')).status === 0 || name === 'a stock QEMU', true);
    if (name === 'colo vm') await shell.see(/STOP[^]*query-stat/);
    shell.type('us\r');
    await shell.see(/"status"/);
    shell.type('nosuch a=1\r');
    await shell.see(/CommandNotFound: The command nosuch has not been found/);
    shell.type('stop x\r');
    await shell.see(/Expected a key=value pair, got 'x'/);
    shell.type('help blockdev-del\r');
    await shell.see(/node-name: str/);
    // Ctrl-C drops a line, Ctrl-D ends.
    shell.type('system_reset\x03');
    await shell.see(/\^C/);
    shell.type('\x04');
    assert.equal(await shell.ended(), 0);
    const file = path.join(state, 'colo/qmp_history');
    const kept = (await readFile(file, 'utf8')).split('\n');
    assert.deepEqual(
      [kept[0], kept.includes('query-status'), kept.includes('system_reset')],
      ['query-version', true, false],
    );
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    // The next shell has the lines: up, and it is there again.
    const next = new Pty(['qmp', socket], { XDG_STATE_HOME: state });
    t.after(() => next.kill());
    await next.see(/\(QMP\) /);
    next.type('\x1b[A');
    await next.see(/help blockdev-del/);
    next.type('\x03query-name\r');
    await next.see(/\{\}/);
    next.type('quit\r');
    await next.see(/closed the QMP connection|Lost connection/);
    assert.equal(await next.ended(), 6);
  });

  test(`one command to ${name}, and lines from a pipe`, options, async (t) => {
    const socket = await monitorOf(t, name);
    const status = await once(socket, 'query-status');
    assert.equal((JSON.parse(status.out) as { status: string }).status, 'running');
    assert.deepEqual(
      await once(socket, '--json', 'blockdev-add', 'driver=null-co', 'node-name=a', 'size=4096'),
      {
        out: '{"return": {}}\n',
        err: '',
        status: 0,
      },
    );
    const again = await once(socket, 'blockdev-add', '{"driver": "null-co", "node-name": "a"}');
    assert.deepEqual([again.out, again.status], ['', 1]);
    assert.match(again.err, /^colo qmp: GenericError: Duplicate nodes with node-name='a'\n$/);
    const refused = await once(socket, '--json', 'nosuch');
    assert.equal(refused.status, 1);
    assert.match(refused.out, /^\{"error": \{"class": "CommandNotFound", /);
    assert.equal((await once(socket, 'stop', 'x')).status, 2);
    const human = await once('-H', socket, 'info status');
    assert.deepEqual(human, { out: 'VM status: running\n', err: '', status: 0 });
    const piped = spawnSync(process.execPath, [COLO, 'qmp', '--json', socket], {
      input: 'stop\nnosuch\n{"execute": "cont"}\n',
      encoding: 'utf8',
    });
    assert.equal(piped.status, 1);
    const messages = piped.stdout.trim().split('\n');
    const kinds = messages.map((line) => Object.keys(JSON.parse(line) as object).at(-1));
    assert.deepEqual(
      kinds.filter((kind) => kind !== 'data'),
      ['return', 'error', 'return'],
    );
    assert.deepEqual(
      messages.flatMap((line) => (JSON.parse(line) as { event?: string }).event ?? []),
      ['STOP', 'RESUME'],
    );
  });
}

test('who is not there is told', async () => {
  const gone = await once(path.join(folder, 'nobody.sock'), 'query-status');
  assert.equal(gone.status, 5);
  assert.match(
    gone.err,
    /^colo qmp: Failed to connect to '.*': No such file or directory; is the monitor there/,
  );
  assert.equal((await once('nobody:0', 'stop')).status, 2);
});
