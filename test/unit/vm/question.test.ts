// Questions that a QEMU answers, told from command lines that start a VM.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { questionIn } from '../../../src/vm/command-line/question.ts';

const cases: [string, string | null][] = [
  ['-accel tcg -machine help', 'qemu-system-x86_64 -machine help'],
  ['-enable-kvm -m 8 -cpu ?', 'qemu-system-x86_64 -cpu ?'],
  ['--qemu /opt/q -accel tcg --device e1000,help', '/opt/q --device e1000,help'],
  ['-M pc,accel=tcg -d help', 'qemu-system-x86_64 -d help'],
  ['-machine help', null],
  ['-accel v86 -device help', null],
  ['-accel tcg -device e1000,id=help0', null],
  ['-accel tcg -name help', null],
];
for (const [line, asked] of cases) {
  it(line, () => {
    const question = questionIn(line.split(' '));
    assert.equal(question && [question.binary, ...question.args].join(' '), asked);
  });
}
