// human-monitor-command: the lines of the COLO guide and their failures, as QEMU answers them.
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { bareVm } from '../../helpers/bare-vm.ts';

test('lines', async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-hmp-'));
  t.after(() => rm(folder, { recursive: true }));
  const image = path.join(folder, 'a.raw');
  await writeFile(image, '');
  await truncate(image, 1 << 20);
  const bare = await bareVm(t, '-name thing -chardev null,id=c0');
  const hmp = (line: string): Promise<unknown> =>
    bare.execute('human-monitor-command', { 'command-line': line });

  const answers: [string, string][] = [
    ['', ''],
    ['   ', ''],
    ['bogus', "unknown command: 'bogus'\r\n"],
    ['info bogus', "unknown command: 'info bogus'\r\n"],
    ['info status', 'VM status: running\r\n'],
    ['info name', 'thing\r\n'],
    ['info chardev', 'c0: filename=null\r\n'],
    ['drive_add', 'drive_add: string expected\r\nTry "help drive_add" for more information\r\n'],
    ['drive_add 0', 'drive_add: string expected\r\nTry "help drive_add" for more information\r\n'],
    ['drive_add -x 0 a', 'drive_add: unsupported option -x\r\nTry "help drive_add" for more information\r\n'],
    [
      'drive_add 0 a b',
      'drive_add: extraneous characters at the end of line\r\nTry "help drive_add" for more information\r\n',
    ],
    ['drive_del', 'drive_del: block device name expected\r\nTry "help drive_del" for more information\r\n'],
    ['drive_del zz', "Error: Device 'zz' not found\r\n"],
    ['drive_add -n buddy driver=raw,file.driver=file', "Error: 'node-name' needs to be specified\r\n"],
    ['drive_add -n buddy driver=nosuch,node-name=n', "Error: Unknown driver 'nosuch'\r\n"],
    [
      `drive_add -n buddy driver=raw,file.driver=file,file.filename=${folder}/none,node-name=n`,
      `Error: Could not open '${folder}/none': No such file or directory\r\n`,
    ],
    [`drive_add -n buddy driver=raw,file.driver=file,file.filename=${image},node-name=n`, ''],
    [
      `drive_add -n buddy driver=raw,file.driver=file,file.filename=${image},node-name=n`,
      "Error: Duplicate nodes with node-name='n'\r\n",
    ],
    ['drive_del n', ''],
    ['drive_del n', "Error: Device 'n' not found\r\n"],
    ['drive_add 0 if=none,file=x', "Error: Parameter 'id' is missing\r\n"],
    ['drive_add 0 if=zig,id=d', "Error: unsupported bus type 'zig'\r\n"],
    [`drive_add 0 if=ide,id=d,file=${image}`, "Error: Can't hot-add drive to type ide; use if=none\r\n"],
    [`drive_add 0 if=none,id=d,format=raw,file=${image}`, 'OK\r\n'],
    [`drive_add 0 if=none,id=d,format=raw,file=${image}`, "Error: Duplicate ID 'd' for drive\r\n"],
    ['drive_del d', ''],
    ['stop', ''],
    ['info status', 'VM status: paused\r\n'],
    ['c', ''],
    ['help drive_del', 'drive_del device -- remove a drive or a block node\r\n'],
    ['help zig', "Error: unknown command: 'zig'\r\n"],
  ];
  for (const [line, answer] of answers) assert.equal(await hmp(line), answer, line);
  assert.match(String(await hmp('help')), /^drive_add .*\r\n.*drive_del/);
  assert.match(String(await hmp('info')), /info status\r\n/);
  assert.deepEqual(
    bare.events.map(({ event }) => event),
    ['STOP', 'RESUME'],
  );
  assert.equal(await hmp('q'), '');
  assert.equal(await bare.vm.ended, 0);
});
