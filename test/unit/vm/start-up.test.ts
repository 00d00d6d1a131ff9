// A start that fails: the error names the option, and nothing stays open behind it.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../../helpers/colo.ts';
import { bareVm } from '../../helpers/bare-vm.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { VirtualMachine } from '../../../src/vm/machine.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-start-'));
  await writeFile(path.join(folder, 'a.raw'), Buffer.alloc(1 << 20, 7));
  await writeFile(path.join(folder, 'big.raw'), Buffer.alloc(2 << 20, 7));
});
after(() => rm(folder, { recursive: true }));

const inFolder = (line: string): string => line.replaceAll('DIR', folder);

function create(
  line: string,
  signal?: AbortSignal,
  waiting?: (text: string) => void,
): Promise<VirtualMachine> {
  const config = parseCommandLine(['-machine', 'none', ...inFolder(line).split(' ')]);
  return VirtualMachine.create(config, {
    firmware: () => Promise.reject(new Error('no guest, no firmware')),
    warn: () => undefined,
    ...(waiting ? { waiting } : {}),
    ...(signal ? { signal } : {}),
  });
}

async function digest(name: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path.join(folder, name)))
    .digest('hex');
}

// Everything that holds a socket, a lock or a timer, before the option that fails.
const OPENED =
  '-chardev socket,id=c,path=DIR/c,server=on,wait=off -netdev stream,id=n,server=on,addr.type=unix,addr.path=DIR/n ' +
  '-netdev hubport,id=h,hubid=0 -drive if=none,id=d,format=raw,file=DIR/a.raw -object filter-mirror,id=m,netdev=h,outdev=c';

const failing: [string, string][] = [
  [
    '-chardev socket,id=e,path=DIR/no/e,server=on',
    'Failed to bind socket to DIR/no/e: No such file or directory',
  ],
  [
    '-netdev stream,id=o,addr.type=unix,addr.path=DIR/o',
    "Failed to connect to 'DIR/o': No such file or directory",
  ],
  ['-netdev hubport,id=o,hubid=0,netdev=zz', "netdev 'zz' not found"],
  ['-drive if=none,id=e,format=raw,file=DIR/zz', "Could not open 'DIR/zz': No such file or directory"],
  [
    '-drive if=none,id=e,format=raw,file=DIR/a.raw',
    'Failed to get "write" lock\nIs another process using the image [DIR/a.raw]?',
  ],
  [
    '-drive if=none,id=e,driver=quorum,vote-threshold=1,children.0=d,children.1.driver=raw,children.1.file.filename=DIR/big.raw',
    `Could not refresh total sector count: Input/output error (children.0 has ${1 << 20} bytes, children.1 has ${2 << 20} bytes)`,
  ],
  ['-blockdev driver=raw,node-name=x,file=zz', "Cannot find device='zz' nor node-name='zz'"],
  ['-object filter-mirror,id=o,netdev=h,outdev=zz', "Device 'zz' not found"],
  ['-object iothread,id=m2,foo=1', "Parameter 'foo' is unexpected"],
  [
    '-serial unix:DIR/no/s,server=on,wait=off',
    'Failed to bind socket to DIR/no/s: No such file or directory',
  ],
  ['-incoming unix:DIR/no/i', 'Failed to bind socket to DIR/no/i: No such file or directory'],
  ['-incoming zig:1', 'unknown migration protocol: zig:1'],
];

for (const [option, text] of failing) {
  test(`${option}: told by name, and a right start follows`, async () => {
    const before = [await digest('a.raw'), await digest('big.raw')];
    await assert.rejects(create(`${OPENED} ${option}`), { message: inFolder(`${option}: ${text}`) });
    assert.deepEqual([await digest('a.raw'), await digest('big.raw')], before);
    // The sockets, the lock and the chardev are free again.
    const vm = await create(OPENED);
    await vm.close();
  });
}

test('a start that waits for a client ends when it is told to', async () => {
  const stop = new AbortController();
  const told: string[] = [];
  const start = create('-chardev socket,id=c,path=DIR/w,server=on', stop.signal, (text) => told.push(text));
  const outcome = assert.rejects(start, { name: 'ClosedError' });
  await until('it waits', 30_000, () => told.length > 0);
  assert.deepEqual(told, [
    inFolder(
      '-chardev socket,id=c,path=DIR/w,server=on: info: waiting for connection on: disconnected:unix:DIR/w,server=on',
    ),
  ]);
  stop.abort();
  await outcome;
  const vm = await create('-chardev socket,id=c,path=DIR/w,server=on,wait=off');
  await vm.close();
});

test('closing twice is closing once, whatever is connected', async (t) => {
  const { vm } = await bareVm(t, inFolder(OPENED));
  const client = net.connect(path.join(folder, 'c'));
  await new Promise<void>((resolve) => client.once('connect', () => resolve()));
  const gone = new Promise<void>((resolve) => client.once('close', () => resolve()));
  client.resume();
  await Promise.all([vm.close(), vm.close()]);
  await gone;
});
