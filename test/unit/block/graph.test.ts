import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockGraph } from '../../../src/block/graph.ts';
import { nestOptions } from '../../../src/block/options.ts';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';

const memory = (nodeName?: string): Record<string, string> => ({
  driver: 'memory',
  size: '65536',
  ...(nodeName === undefined ? {} : { 'node-name': nodeName }),
});

async function inFolder(act: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'colo-graph-'));
  try {
    await act(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

describe('BlockGraph', () => {
  it('finds devices before nodes, and forgets what was removed', async () => {
    const graph = new BlockGraph();
    const drive = await graph.addDrive('d0', memory());
    const node = await graph.addNode(memory('n0'));
    assert.equal(graph.find('d0'), drive.root);
    assert.equal(graph.find('n0'), node);
    assert.equal(graph.findNode('d0'), null);
    assert.deepEqual(graph.backendsOf(drive.root), ['d0']);
    await graph.removeDrive('d0');
    await graph.removeNode('n0');
    assert.equal(graph.find('d0'), null);
    assert.deepEqual(graph.list(), { backends: [], nodes: [] });
  });

  it('refuses with the words of QEMU', async () => {
    const graph = new BlockGraph();
    await graph.addNode(memory('n0'));
    await graph.addDrive('d0', memory());
    const refusals: [() => Promise<unknown>, string, string?][] = [
      [() => graph.addNode(memory('n0')), "Duplicate nodes with node-name='n0'"],
      [() => graph.addNode(memory('d0')), 'node-name=d0 is conflicting with a device id'],
      [() => graph.addNode({ driver: 'raw' }), "'node-name' needs to be specified"],
      [() => graph.addNode({ driver: 'nosuch', 'node-name': 'x' }), "Unknown driver 'nosuch'"],
      [() => graph.addNode(memory('#x')), "Invalid node-name: '#x'"],
      [
        () => graph.addNode({ driver: 'raw', 'node-name': 'x', file: 'y' }),
        "Cannot find device='y' nor node-name='y'",
      ],
      [
        () => graph.addNode({ ...memory('x'), nonsense: '1' }),
        "Block driver 'memory' does not support the option 'nonsense'",
      ],
      [() => graph.addDrive('d0', memory()), "Device with id 'd0' already exists"],
      [() => graph.removeNode('x'), "Device 'x' not found", 'DeviceNotFound'],
      [() => graph.removeDrive('x'), "Device 'x' not found", 'DeviceNotFound'],
    ];
    for (const [attempt, message, qmpClass = 'GenericError'] of refusals) {
      await assert.rejects(attempt, { message, qmpClass });
    }
    assert.equal(graph.list().nodes.length, 2);
    await graph.closeAll();
  });

  it('counts references: a node in use stays, children go with their parent', async () => {
    const graph = new BlockGraph();
    await graph.addNode(memory('base'));
    const parent = await graph.addNode({
      driver: 'memory',
      size: '65536',
      'node-name': 'top',
      backing: 'base',
    });
    await graph.addNode({ driver: 'raw', 'node-name': 'owner', file: { ...memory('inner') } });
    assert.deepEqual([...(graph.findNode('base')?.users ?? [])], ['top/backing']);
    assert.equal(parent.backing, graph.findNode('base'));
    await assert.rejects(graph.removeNode('base'), { message: 'Block device base is in use' });
    await assert.rejects(graph.removeNode('inner'), { message: 'Node inner is not owned by the monitor' });
    await graph.removeNode('owner');
    assert.equal(graph.findNode('inner'), null);
    await graph.removeNode('top');
    await graph.removeNode('base');
    assert.equal(graph.list().nodes.length, 0);
  });

  it('closes what it opened when a later part fails', async () => {
    const graph = new BlockGraph();
    await assert.rejects(
      graph.addNode({ driver: 'raw', 'node-name': 'x', size: '99999999', file: memory('below') }),
      /sum of offset/,
    );
    assert.deepEqual(graph.list().nodes, []);
    await graph.addNode(memory('below'));
    await graph.closeAll();
  });

  it('keeps a drive whose operations are blocked', async () => {
    const graph = new BlockGraph();
    const { root } = await graph.addDrive('d0', memory());
    root.blockers.set('*', 'Block device is in use by internal backup job');
    await assert.rejects(graph.removeDrive('d0'), /is busy: Block device is in use by internal backup job/);
    await graph.closeAll();
  });

  it('replaces the root of a drive', async () => {
    const graph = new BlockGraph();
    await graph.addDrive('d0', memory());
    const other = await graph.addNode(memory('other'));
    await graph.replaceRoot('d0', other);
    assert.equal(graph.find('d0'), other);
    assert.equal(graph.list().nodes.length, 1);
    await graph.removeDrive('d0');
    assert.equal(graph.find('other'), other, 'the monitor still owns it');
    await graph.closeAll();
  });

  it('opens the trees of -drive, probing what is not said', () =>
    inFolder(async (folder) => {
      const [active, hidden, base] = ['active', 'hidden', 'base'].map((name) => join(folder, name));
      await writeFile(base!, Buffer.alloc(2 ** 20, 5));
      await createQcow2(hidden!, { sizeBytes: 2 ** 20 });
      await createQcow2(active!, { sizeBytes: 2 ** 20 });
      const graph = new BlockGraph();
      await graph.addDrive(
        'parent0',
        nestOptions({ if: 'none', file: base!, format: 'raw', cache: 'writeback' }),
      );
      const { root } = await graph.addDrive(
        'top',
        nestOptions({
          'file.filename': active!,
          driver: 'qcow2',
          'backing.driver': 'qcow2',
          'backing.file.filename': hidden!,
          'backing.backing': 'parent0',
          'backing.node-name': 'hid',
        }),
      );
      assert.equal(root.backing, graph.findNode('hid'));
      assert.equal(root.backing?.readOnly, true);
      assert.equal(root.backing.backing, graph.find('parent0'));
      const byte = new Uint8Array(1);
      await root.read(7, byte);
      assert.equal(byte[0], 5);
      const probed = new BlockGraph();
      await assert.rejects(probed.openImage(active!), /Failed to get "write" lock/);
      await graph.closeAll();
      assert.equal((await probed.openImage(active!, { readOnly: true })).driver.driverName, 'qcow2');
      assert.equal((await probed.openImage(base!, { readOnly: true })).driver.driverName, 'raw');
      const json = JSON.stringify({ driver: 'raw', offset: 512, file: { driver: 'file', filename: base } });
      assert.equal((await probed.openImage(`json:${json}`, { readOnly: true })).lengthBytes, 2 ** 20 - 512);
      await probed.closeAll();
    }));

  it('shares a file among readers, and gives a writer all of it', () =>
    inFolder(async (folder) => {
      const path = join(folder, 'a');
      await writeFile(path, Buffer.alloc(512));
      await symlink(path, join(folder, 'b'));
      const graph = new BlockGraph();
      const one = await graph.openImage(path, { format: 'raw', readOnly: true });
      const two = await graph.openImage(join(folder, 'b'), { format: 'raw', readOnly: true });
      await assert.rejects(graph.openImage(path, { format: 'raw' }), /Failed to get "write" lock/);
      await graph.closeImage(one);
      await graph.closeImage(two);
      await graph.openImage(path, { format: 'raw' });
      const other = join(folder, 'b');
      await assert.rejects(
        graph.openImage(other, { format: 'raw', readOnly: true }),
        /Failed to get shared "write" lock/,
      );
      await graph.openImage(other, { format: 'raw', readOnly: true, forceShare: true });
      await graph.closeAll();
    }));

  it('accepts the cache options that it honours, and refuses the rest', async () => {
    const graph = new BlockGraph();
    const good = {
      'cache.direct': 'off',
      'cache.no-flush': 'on',
      discard: 'unmap',
      'detect-zeroes': 'unmap',
    };
    await graph.addNode(nestOptions({ ...memory('ok'), ...good }));
    await graph.addNode(nestOptions({ ...memory('unsafe'), cache: 'unsafe' }));
    for (const bad of [{ 'cache.direct': 'on' }, { cache: 'none' }, { 'copy-on-read': 'on' }]) {
      await assert.rejects(graph.addNode(nestOptions({ ...memory('bad'), ...bad })), /not supported/);
    }
    await graph.closeAll();
  });
});
