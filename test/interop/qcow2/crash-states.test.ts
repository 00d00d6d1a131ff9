/** Images as a kill or a power failure has left them: qemu-img finds leaks at worst and reads what we read. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dice } from '../../helpers/dice.ts';
import {
  afterKill,
  afterPowerFailure,
  emptyImage,
  examine,
  record,
} from '../../unit/block/qcow2-recorder.ts';
import type { Layout } from '../../unit/block/qcow2-recorder.ts';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';

const LAYOUTS: Layout[] = [
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 0 },
  { guestBytes: 100_352, clusterBits: 9, refcountOrder: 6, below: 60_000 },
  { guestBytes: 200_704, clusterBits: 12, below: 140_000 },
  { guestBytes: 100_352, clusterBits: 10, version: 2 },
];

describe('qcow2 crash states judged by QEMU', { skip: missingTools }, () => {
  for (const layout of LAYOUTS) {
    it(JSON.stringify(layout), () =>
      inFolder(async (folder) => {
        const image = await emptyImage(layout);
        const dice = new Dice(7);
        for (let sample = 0; sample < 8; sample++) {
          const recording = await record(layout, 100 + sample, 20, image);
          // What makeEmpty does is not covered against a power failure before the next flush.
          const emptied =
            recording.acts.find(({ verb }) => verb === 'empty')?.begin ?? recording.disk.log.length;
          const power = sample % 2 === 0;
          const moment = dice.roll(power ? emptied : recording.disk.log.length);
          const bytes = power ? afterPowerFailure(recording, moment, dice) : afterKill(recording, moment);
          const what = `sample ${sample}, ${power ? 'power failure' : 'kill'} after ${moment}`;
          const found = await examine(bytes, recording.below, what);
          const at = (name: string): string => join(folder, name);
          await writeFile(at('a.qcow2'), bytes);
          await writeFile(at('below.raw'), recording.below ?? '');
          const check = await runTool('qemu-img', 'check', '-f', 'qcow2', at('a.qcow2'));
          assert.ok(check.code === 0 || check.code === 3, `${what}: ${check.stdout}${check.stderr}`);
          if (recording.below) {
            const over = ['-u', '-b', 'below.raw', '-F', 'raw', at('a.qcow2')];
            await tool('qemu-img', 'rebase', '-f', 'qcow2', ...over);
          }
          await tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', at('a.qcow2'), at('a.raw'));
          assert.equal(Buffer.compare(await readFile(at('a.raw')), found), 0, what);
        }
      }),
    );
  }
});
