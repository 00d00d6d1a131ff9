import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { preloadLibraries } from '../../../src/switch/libslirp.ts';

test('libraries that cannot be loaded are named, absent directories are none', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'colo-preload-'));
  try {
    writeFileSync(path.join(folder, 'libnothing.so.1'), 'not a library');
    writeFileSync(path.join(folder, 'README'), 'not even called one');
    assert.deepEqual(preloadLibraries([folder, path.join(folder, 'absent')]), [
      path.join(folder, 'libnothing.so.1'),
    ]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
