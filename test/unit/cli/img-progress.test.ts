/** `-p` and SIGUSR1: the lines of qemu-img. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Progress } from '../../../src/cli/img/progress.ts';

function io(): { said: { out: string; err: string }; io: ConstructorParameters<typeof Progress>[0] } {
  const said = { out: '', err: '' };
  return {
    said,
    io: {
      out: (text) => (said.out += text),
      err: (text) => (said.err += text),
      isTerminal: false,
      exit: () => undefined,
    },
  };
}

describe('progress', () => {
  it('is told in steps, and at both ends', () => {
    const { said, io: target } = io();
    const progress = new Progress(target, true, 2);
    for (const percent of [1, 2.5, 3, 4.4, 4.6, 100]) progress.update(percent);
    progress.end();
    assert.equal(said.out, [0, 2.5, 4.6, 100].map((at) => `    (${at.toFixed(2)}/100%)\r`).join('') + '\n');
    assert.equal(said.err, '');
  });

  it('is silent without -p until SIGUSR1 asks, and then no longer', () => {
    const { said, io: target } = io();
    const before = process.listenerCount('SIGUSR1');
    const progress = new Progress(target, false, 2);
    progress.update(12.345);
    process.emit('SIGUSR1');
    progress.end();
    assert.deepEqual(said, { out: '', err: '    (12.35/100%)\n' });
    assert.equal(process.listenerCount('SIGUSR1'), before);
  });
});
