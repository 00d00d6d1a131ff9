/** Every option that `qemu-img --help` names for our commands is known, and every option of ours is one of qemu-img's. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Command } from 'commander';
import { registerImg } from '../../../src/cli/img.ts';
import { missingTools, tool } from './helpers.ts';

/** As on every command of colo. */
const OURS = ['--json'];
/** Long forms that qemu-img takes without naming them in its help (qemu-img.c, long_options; tried with QEMU 7.2). */
const UNNAMED = ['--help', '--format', '--force-share', '--repair', '--skip-broken-bitmaps', '-s', '-l'];

describe('options of colo img', { skip: missingTools }, () => {
  it('are those of qemu-img', async () => {
    const help = await tool('qemu-img', '--help');
    const program = new Command();
    registerImg(program);
    const commands = program.commands[0]?.commands ?? [];
    assert.equal(commands.length, 7);
    for (const command of commands) {
      const line = new RegExp(`^  ${command.name()} (\\[.*)$`, 'm').exec(help)?.[1];
      assert.ok(line, command.name());
      const theirs = new Set([...line.matchAll(/\[?(--?[A-Za-z][a-z-]*)/g)].map((match) => match[1] ?? ''));
      const ours = new Set(
        command.options.flatMap(({ short, long }) => [short, long].filter((name) => name !== undefined)),
      );
      for (const name of theirs) assert.ok(ours.has(name), `${command.name()} lacks ${name}`);
      for (const name of ours)
        assert.ok(
          theirs.has(name) || [...UNNAMED, ...OURS].includes(name),
          `${command.name()}: qemu-img has no ${name}`,
        );
    }
  });
});
