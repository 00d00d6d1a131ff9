/** systemd's side: it takes the units, and hears what a daemon tells it. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ServiceManager } from '../../../src/api/service-manager.ts';
import { createProgram } from '../../../src/cli/program.ts';
import { notOnThisMachine } from '../../helpers/not-here.ts';

const UNITS = fileURLToPath(new URL('../../../packaging/systemd/', import.meta.url));
const noAnalyze = notOnThisMachine(
  existsSync('/usr/bin/systemd-analyze') ? null : 'it is not run by systemd',
);
const noSocat = spawnSync('socat', ['-V']).error ? 'socat is not installed' : false;

for (const unit of ['colo-node.service', 'colo-switch@.service']) {
  test(
    `systemd finds nothing wrong with ${unit}, and the program has its command line`,
    { skip: noAnalyze },
    async () => {
      const folder = await mkdtemp(path.join(tmpdir(), 'unit-'));
      const text = await readFile(path.join(UNITS, unit), 'utf8');
      // The program need not be installed here, nor its manual page.
      const file = path.join(folder, unit.replace('@', '@lan'));
      await writeFile(
        file,
        text.replace('/usr/bin/colo', process.execPath).replace(/^Documentation=.*\n/m, ''),
      );
      const verified = spawnSync('systemd-analyze', ['verify', '--man=no', file], { encoding: 'utf8' });
      await rm(folder, { recursive: true });
      // Other units of the machine may be spoken of.
      const about = verified.stderr.split('\n').filter((line) => line.includes('colo-'));
      assert.deepEqual(about, [], verified.stderr);
      const [, command = '', options = ''] = /^ExecStart=\/usr\/bin\/colo (\S+) (.*)$/m.exec(text) ?? [];
      const program = await createProgram();
      const known = program.commands.find((candidate) => candidate.name() === command);
      // The daemon's own command comes with it.
      if (command !== 'node') assert.ok(known, command);
      for (const [option] of options.matchAll(/--[\w-]+/g)) {
        if (known)
          assert.ok(
            known.options.some(({ long }) => long === option),
            option,
          );
      }
    },
  );
}

test('VMs outlive a restart of the daemon, and one of them without memory does not end it', async () => {
  const text = await readFile(path.join(UNITS, 'colo-node.service'), 'utf8');
  const lines = [
    'KillMode=process',
    'OOMPolicy=continue',
    'RuntimeDirectoryPreserve=yes',
    'Restart=always',
    'Type=notify',
  ];
  for (const line of lines) assert.match(text, new RegExp(`^${line}$`, 'm'));
});

test('a daemon tells that it is ready, alive, and ends', { skip: noSocat }, async () => {
  for (const isAbstract of [false, true]) {
    const folder = await mkdtemp(path.join(tmpdir(), 'notify-'));
    const name = path.join(folder, 'notify');
    const listen = isAbstract ? `ABSTRACT-RECV:${name}` : `UNIX-RECV:${name}`;
    const socat = spawn('socat', ['-u', '-d', '-d', listen, 'STDOUT'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let heard = '';
    let log = '';
    socat.stdout.setEncoding('utf8').on('data', (text: string) => (heard += `${text}|`));
    socat.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
    const until = async (isThere: () => boolean): Promise<void> => {
      while (!isThere()) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    await until(() => log.includes('starting data transfer loop'));
    const env: NodeJS.ProcessEnv = {
      NOTIFY_SOCKET: isAbstract ? `@${name}` : name,
      WATCHDOG_USEC: '20000',
      WATCHDOG_PID: String(process.pid),
    };
    const manager = new ServiceManager(env);
    // Not for the VMs that it starts.
    assert.deepEqual(env, {});
    manager.ready('looks after\n2 VMs');
    await until(() => (heard.match(/WATCHDOG=1/g) ?? []).length >= 3);
    manager.status('one is dissolving');
    await until(() => heard.includes('STATUS=one is dissolving'));
    manager.stopping();
    await until(() => heard.includes('STOPPING=1'));
    assert.match(heard, /^READY=1\nSTATUS=looks after 2 VMs/);
    socat.kill();
    await rm(folder, { recursive: true });
  }
});

test('nobody to tell is no trouble', () => {
  for (const name of [undefined, '', 'relative', `/${'x'.repeat(200)}`, '/nowhere/notify']) {
    const manager = new ServiceManager({ NOTIFY_SOCKET: name, WATCHDOG_USEC: 'often' });
    manager.ready('well');
    manager.stopping();
  }
});
