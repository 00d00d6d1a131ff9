/** A disk's error on a VM whose guest QEMU executes, as a monitor sees it. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { VirtualMachine } from '../../../src/vm/machine.ts';
import { testFolder } from '../../helpers/bare-process.ts';
import { countingSector, lineOf, offsetOf } from '../../helpers/counting-guest.ts';
import { qemuVm, skipQemu as skip } from '../../helpers/qemu-vm.ts';

test(
  'a VM: the event has the names of our graph, the run state is io-error, cont tries again',
  { skip },
  async (t) => {
    const home = await testFolder(t);
    const image = path.join(home, 'disk.raw');
    const console = path.join(home, 'console');
    writeFileSync(image, Buffer.concat([countingSector(), Buffer.alloc((1 << 20) - 512)]));
    const sector = offsetOf(3) / 512;
    const drive =
      `driver=raw,node-name=top,file.driver=blkdebug,file.image.driver=file,file.image.filename=${image},` +
      `file.inject-error.0.event=write_aio,file.inject-error.0.errno=5,file.inject-error.0.sector=${sector},` +
      `file.inject-error.0.once=on,werror=stop`;
    const plain = ['-nodefaults', '-vga', 'none', '-serial', `file:${console}`];
    const { vm, events, execute } = await qemuVm(t, [...plain, '-drive', drive]);
    const seen = async (name: string): Promise<Record<string, unknown>> => {
      const event = events.find((one) => one.event === name) ?? (await nextEvent(vm, name));
      return event.data ?? {};
    };
    const query = async (name: string): Promise<unknown> => execute(name);
    await execute('cont');
    await seen('STOP');
    assert.deepEqual(
      events
        .filter(({ event }) => event === 'BLOCK_IO_ERROR')
        // Which newer versions have.
        .map((one) => ({ ...one.data, 'qom-path': 'any' })),
      [
        {
          ...{ device: 'ide0-hd0', 'node-name': 'top', operation: 'write', action: 'stop' },
          ...{ nospace: false, reason: 'Input/output error', 'qom-path': 'any' },
        },
      ],
    );
    assert.equal(((await query('query-status')) as { status: string }).status, 'io-error');
    const [device] = (await query('query-block')) as Record<string, unknown>[];
    assert.equal(device?.['io-status'], 'failed');
    await execute('cont');
    while (!readFileSync(console, 'latin1').includes(lineOf(5))) await delay(10);
    await execute('stop');
    assert.match(readFileSync(console, 'latin1'), /^00000001\r?\n00000002\r?\n00000003\r?\n00000004/);
    const [after] = (await query('query-block')) as Record<string, unknown>[];
    assert.equal(after?.['io-status'], 'ok');
    const [stats] = (await query('query-blockstats')) as { stats: Record<string, number> }[];
    assert.equal(stats?.stats['failed_wr_operations'], 1);
  },
);

function nextEvent(vm: VirtualMachine, name: string): Promise<{ data?: Record<string, unknown> }> {
  return new Promise((resolve) => {
    const unsubscribe = vm.events.subscribe((event) => {
      if (event.event !== name) return;
      unsubscribe();
      resolve(event);
    });
  });
}
