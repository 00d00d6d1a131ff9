import assert from 'node:assert/strict';
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { test, type TestContext } from 'node:test';
import { Client } from './frames.ts';

type Child = ChildProcessByStdio<null, Readable, Readable>;

function start(t: TestContext, args: string[]): Child {
  const program = join(import.meta.dirname, 'run-switch.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', program, 'switch', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

async function readAll(stream: Readable): Promise<string> {
  let out = '';
  for await (const chunk of stream as AsyncIterable<Buffer>) out += chunk.toString();
  return out;
}

async function readLine(stream: Readable): Promise<string> {
  let out = '';
  while (!out.includes('\n')) {
    const [chunk] = (await once(stream, 'data')) as [Buffer];
    out += chunk.toString();
  }
  return out.trimEnd();
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  void test(`prints one line when ready and ends cleanly on ${signal}`, { timeout: 60_000 }, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'colo-switch-'));
    t.after(() => rm(dir, { recursive: true }));
    const child = start(t, ['--listen', `unix:${dir}/s`, '--listen', 'tcp:0', '--json']);
    const ready = JSON.parse(await readLine(child.stdout)) as { addresses: string[]; forwards: unknown[] };
    assert.equal(ready.addresses[0], `unix:${dir}/s`);
    assert.deepEqual(ready.forwards, []);
    // A connected port does not keep the process.
    const client = await Client.connect(ready.addresses[1]!);
    const ended = once(child, 'exit');
    child.kill(signal);
    assert.deepEqual(await ended, [0, null]);
    await assert.rejects(stat(`${dir}/s`), { code: 'ENOENT' });
    await client.close();
  });
}

void test('an error is one line and a status: 2 for a wrong command line', { timeout: 60_000 }, async (t) => {
  const cases: [string[], RegExp, number][] = [
    [[], /at least one address/, 2],
    [['--listen', 'udp:1'], /use unix:PATH/, 2],
    [['--listen', 'tcp:0', '--hostfwd', 'tcp::1-:1'], /add --nat/, 2],
    [['--listen', 'tcp:0', '--nat', '--libslirp', '/nonexistent.so'], /apt install libslirp0/, 1],
  ];
  for (const [args, message, status] of cases) {
    const child = start(t, args);
    const ended = once(child, 'exit');
    const stderr = await readAll(child.stderr);
    assert.deepEqual(await ended, [status, null]);
    assert.match(stderr, message);
    assert.match(stderr, /^colo switch: .*\n$/);
  }
});
