/** A process that writes an image is killed at a random moment: QEMU finds leaks at worst, and what was acknowledged. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, it } from 'node:test';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { BlockGraph } from '../../../src/block/graph.ts';
import { inFolder, missingTools, runTool, tool } from './helpers.ts';

const SIZE = 24 * 2 ** 20;
const SCRIBBLER = fileURLToPath(new URL('scribbler.ts', import.meta.url));

/** Runs the scribbler until it has said `lines` lines, kills it, and gives all that it said. */
function killAfter(image: string, lines: number): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', SCRIBBLER, image], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
      if (said.split('\n').length > lines) child.kill('SIGKILL');
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (signal !== 'SIGKILL') reject(new Error(`the scribbler ended by itself (${code})`));
      else resolve(said.split('\n').slice(0, -1));
    });
  });
}

describe('qcow2 after SIGKILL', { skip: missingTools }, () => {
  for (const [layout, lines] of [
    [{ clusterBits: 16 }, 40],
    [{ clusterBits: 16 }, 333],
    [{ clusterBits: 9 }, 77],
    [{ clusterBits: 12, version: 2 as const }, 150],
  ] as const) {
    it(`${JSON.stringify(layout)}, after ${lines} messages`, () =>
      inFolder(async (folder) => {
        const image = join(folder, 'a.qcow2');
        await writeFile(join(folder, 'base.raw'), Buffer.alloc(SIZE, 255));
        await createQcow2(image, {
          sizeBytes: SIZE,
          ...layout,
          backingFile: 'base.raw',
          backingFormat: 'raw',
        });
        const said = await killAfter(image, lines);
        const check = await runTool('qemu-img', 'check', image);
        assert.ok(
          check.code === 0 || check.code === 3,
          `qemu-img check: ${check.code}\n${check.stdout}${check.stderr}`,
        );

        const model = Buffer.alloc(SIZE, 255);
        const open = new Set<string>();
        for (const line of said) {
          const [verb, request = ''] = line.split(/ (.*)/s);
          const [offset = 0, length = 0, value = 0] = request.split(' ').map(Number);
          if (verb === 'begin') open.add(request);
          else {
            open.delete(request);
            model.fill(value, offset, offset + length);
          }
        }
        await tool('qemu-img', 'convert', '-O', 'raw', image, join(folder, 'a.raw'));
        const found = await readFile(join(folder, 'a.raw'));
        for (const request of open) {
          const [offset = 0, length = 0, value = 0] = request.split(' ').map(Number);
          for (let at = offset; at < offset + length; at++) {
            assert.ok(found[at] === value || found[at] === model[at], `byte ${at} is neither old nor new`);
          }
          found.copy(model, offset, offset, offset + length);
        }
        assert.equal(Buffer.compare(found, model), 0, 'acknowledged writes');

        // And it goes on being a sound image.
        const graph = new BlockGraph();
        const node = await graph.openImage(image);
        await node.makeEmpty();
        await node.write(5, Buffer.alloc(100_000, 1));
        await graph.closeAll();
        await tool('qemu-img', 'check', image);
      }));
  }
});
