// Our QMP client with a real QEMU, and the same odd input to a real QEMU and to our session: equal replies.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { CommandNotFoundError, ParameterError } from '../../../src/base/errors.ts';
import { QmpClient, QmpCommandError } from '../../../src/qmp/client.ts';
import { JsonStream } from '../../../src/qmp/json-stream.ts';
import type { JsonValue } from '../../../src/qmp/json-stream.ts';
import { QmpServer } from '../../../src/qmp/server.ts';

const QEMU = 'qemu-system-x86_64';
const version = spawnSync(QEMU, ['--version'], { encoding: 'utf8' }).stdout as string | null;
const skip = version ? false : `${QEMU} is not installed`;
// From some later version on, parse errors begin with a position.
const skipOdd = version?.includes('version 7.2') ? false : 'the expected texts are those of QEMU 7.2';

async function tempFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-qmp-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A QEMU without a guest; the path of its QMP socket. */
async function startQemu(t: TestContext): Promise<string> {
  const file = path.join(await tempFolder(t), 'qemu.sock');
  const args = [
    '-machine',
    'none',
    '-display',
    'none',
    '-nodefaults',
    '-qmp',
    `unix:${file},server=on,wait=off`,
  ];
  // It says something on standard output once the options have been read and the socket is there.
  const qemu = spawn(QEMU, [...args, '-qmp', 'stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(async () => {
    if (qemu.exitCode !== null) return;
    const ended = once(qemu, 'exit');
    qemu.kill('SIGKILL');
    await ended;
  });
  await once(qemu.stdout, 'data');
  return file;
}

test('our client commands a QEMU: replies, errors, events, out of band', { skip }, async (t) => {
  const client = await QmpClient.connect({ path: await startQemu(t) }, { oob: true });
  t.after(() => client.close());
  assert.ok(client.greeting.QMP.version.qemu.major >= 7);
  const status = (await client.execute('query-status')) as { status: string };
  assert.equal(status.status, 'running');
  const [name, kvm] = await Promise.all([client.execute('query-name'), client.execute('query-kvm')]);
  assert.deepEqual(name, {});
  assert.ok('enabled' in (kvm as object));
  await assert.rejects(client.execute('nope'), (error) => {
    assert.ok(error instanceof QmpCommandError);
    assert.deepEqual([error.class, error.desc], ['CommandNotFound', 'The command nope has not been found']);
    return true;
  });
  await assert.rejects(client.execute('migrate-pause', {}, { oob: true }), /postcopy|not running|state/);
  const stopped = client.waitFor('STOP');
  await client.execute('stop');
  assert.deepEqual((await stopped).data, {});
  const shutdown = client.waitFor('SHUTDOWN', ({ data }) => data['reason'] === 'host-qmp-quit');
  await client.execute('quit');
  await shutdown;
  assert.match((await client.closed).message, /closed the QMP connection|Lost connection/);
});

/** Sends `inputs` one by one, each followed by a command with a known id; what came back before that one's reply. */
async function replies(t: TestContext, file: string, inputs: readonly Uint8Array[]): Promise<JsonValue[][]> {
  const socket = net.connect(file);
  t.after(() => socket.destroy());
  let arrived: JsonValue[] = [];
  let wake = (): void => undefined;
  const stream = new JsonStream({
    onMessage: (value) => {
      arrived.push(value);
      wake();
    },
    onError: (text) => assert.fail(text),
  });
  socket.on('data', (chunk: Buffer) => stream.push(chunk));
  const out: JsonValue[][] = [];
  const isMark = (value: JsonValue): boolean => (value as { id?: JsonValue }).id === 'mark';
  await once(socket, 'connect');
  while (arrived.length === 0) await new Promise<void>((resolve) => (wake = resolve));
  for (const input of inputs) {
    arrived = [];
    socket.write(input);
    socket.write('\n\n{"execute":"query-name","id":"mark"}\n');
    while (!arrived.some(isMark)) await new Promise<void>((resolve) => (wake = resolve));
    out.push(arrived.filter((value) => !isMark(value)));
  }
  socket.destroy();
  return out;
}

const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1');
const utf8 = (text: string): Buffer => Buffer.from(text);

const BEFORE_NEGOTIATION = [
  '{"execute":"query-status"}',
  '{"execute":"nope","id":[{}]}',
  '{"execute":"qmp_capabilities","arguments":{"enable":["oob"],"x":1}}',
  '{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}',
  '{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
  '{"exec-oob":"qmp_capabilities"}',
  '[]',
  '{"execute":"qmp_capabilities","id":{"x":[1,"a"]}}',
  '{"execute":"qmp_capabilities"}',
].map(utf8);

const OOB = [
  '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":"c"}',
  '{"exec-oob":"query-name","id":1}',
  '{"exec-oob":"query-name"}',
  '{"exec-oob":"nope","id":2}',
  '{"exec-oob":1,"id":3}',
  '{"exec-oob":"query-name","execute":"x","id":3}',
  '{"exec-oob":"qmp_capabilities","id":3}',
  '{"exec-oob":"query-name","arguments":[],"id":3}',
  '{"execute":"query-name","control":{}}',
].map(utf8);

const ODD = [
  utf8('{"execute":"qmp_capabilities"}'),
  ...`1 | "s" | null | {} | {"id":3} | {"execute":1} | {"execute":null} | {"execute":"query-name","arguments":[]}
    {"execute":"query-name","arguments":1,"id":null} | {"execute":"query-name","foo":1,"id":"q"}
    {"execute":"query-name","exec-oob":"query-name"} | {"exec-oob":"query-name"} | {"execute":"query-name","arguments":{"x":1}}
    {"execute":"query-name" "id":2} | {"execute" "x"} | {1:2} | {"a":} | {"a":1,} | [1,] | [1 2] | {"a":1] | ] | } | }}} | [,] | {,}
    : | , | [} | {] | {"a"] | {"a":1 "b":2} | {"a":1,1:2} | {true:2} | {"a":foo,"b":bar} | foo | fooBar | 1x | -x | --1 | 1e | 1e+
    -01 | true false | true"x" | "x"true | {"execute":tru} | nul | %d | {"a":%s} | "abc | "\\q" | "\\u12" | "\\u12zz99" | "\\ud800"
    "\\ud800\\u0041" | "\\ud800\\ud800" | "\\udc00x" | "\\u0000" | "\\ufffe" | "\\ufdd0" | "\\ud83d\\udffe" | 01 | 00 | 1. | - | 1e5 | +1 | .5 | #
    {"execute":"nope","id":1e5} | {"execute":"nope","id":1.50} | {"execute":"nope","id":18446744073709551615}
    {"execute":"nope","id":18446744073709551616} | {"execute":"nope","id":-9223372036854775809} | {"execute":"nope","id":-0}
    {"execute":"nope","id":0.1} | {"execute":"nope","id":9007199254740993} | {"a":1,"a":2,"execute":"x"} | 'it\\'s "x"'
    {'execute':'a"b'} | {"execute":"a\\/b\\b\\f\\t\\r"} | /* */ {"execute":"query-name"} | {"execute":""}
    {"execute":"query-name","id":00} | {"execute":"query-name","arguments":null} | {'execute':'query-name'}{'execute':'query-name','id':1}
    {"execute":"nope","id":"\\u00e9é😀\\ud83d\\ude00\\\\\\"\\n"} | {"execute":"qmp_capabilities"} | {"__proto__":1}`
    .split(/ \| |\n\s*/)
    .map(utf8),
  ...[
    '"a\xffb"',
    '"\xed\xa0\x80"',
    '"\xc3"x',
    '"\xf4\x90\x80\x80"',
    '"\xef\xbf\xbf"',
    '"\x01"',
    '\xff',
    '\xef\xbb\xbf{}',
  ].map(latin1),
  ...['tru\xc3\xa9e', '\x00', '"\x00"', '\x04{"execute":"query-name"}', '"\x7f"', '"abc\\\x01', "'a"].map(
    latin1,
  ),
  utf8('['.repeat(1024) + ']'.repeat(1024)),
  utf8('['.repeat(1025)),
  utf8('{"a":'.repeat(1025)),
];

test('odd input: our session answers as QEMU does', { skip: skip || skipOdd }, async (t) => {
  const qemu = await startQemu(t);
  const ours = path.join(await tempFolder(t), 'ours.sock');
  const server = new QmpServer({
    version: { qemu: { major: 7, minor: 2, micro: 0 }, package: '' },
    dispatch: (command, args) => {
      if (command !== 'query-name')
        throw new CommandNotFoundError(`The command ${command} has not been found`);
      for (const key of Object.keys(args)) throw new ParameterError(`Parameter '${key}' is unexpected`);
      return Promise.resolve({});
    },
    supportsOob: (command) => (command === 'query-name' ? false : null),
  });
  t.after(() => server.close());
  await server.listen({ path: ours });
  // QEMU serves one client at a time.
  for (const inputs of [BEFORE_NEGOTIATION, OOB, ODD]) {
    const expected = await replies(t, qemu, inputs);
    const got = await replies(t, ours, inputs);
    for (const [at, input] of inputs.entries()) assert.deepEqual(got[at], expected[at], input.toString());
  }
});
