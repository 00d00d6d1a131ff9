// The probe against programs that are not a QEMU that can serve: each is refused with one line that says why and what to
// do. The programs are shell scripts that speak QMP as far as the case needs it.
import assert from 'node:assert/strict';
import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { QemuUnusableError, chooseAccelerator, probeQemu } from '../../../src/engine/qemu/index.ts';
import type { QemuProbe } from '../../../src/engine/qemu/index.ts';
import { refusalOf } from '../../../src/engine/qemu/refusal.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-probe-'));
});
after(() => rm(folder, { recursive: true }));

const greeting = (major: number, minor: number): string =>
  JSON.stringify({
    QMP: { version: { qemu: { major, minor, micro: 1 }, package: 'fake' }, capabilities: [] },
  });

/** A whole answer to each command that the probe sends. */
const ANSWERS: Readonly<Record<string, unknown>> = {
  qmp_capabilities: {},
  'query-target': { arch: 'x86_64' },
  'query-migrate-capabilities': [{ capability: 'events' }, { capability: 'x-ignore-shared' }],
  'query-qmp-schema': [{ 'meta-type': 'enum', values: ['hubport', 'stream'] }],
  'memory-backend': [{ name: 'memory-backend-file' }],
  accel: [{ name: 'tcg-accel' }, { name: 'accel' }],
  'query-machines': [
    { name: 'pc-i440fx-7.2', alias: 'pc' },
    { name: 'pc-q35-7.2', alias: 'q35' },
  ],
};

/** A program that greets on descriptor 3 and answers each line there, found by a word in it. */
async function fake(
  name: string,
  version: [number, number] | null,
  changes: Record<string, unknown> = {},
): Promise<string> {
  const answers = Object.entries({ ...ANSWERS, ...changes }).map(
    ([word, value]) => `*'"${word}"'*) answer='${JSON.stringify(value)}' ;;`,
  );
  return script(
    name,
    `printf '%s\n' '${version ? greeting(...version) : '{"QMP": {}}'}' >&3
while read -r line <&3; do
  id=\${line##*'"id":'}
  id=\${id%%[,\\}]*}
  case $line in
    ${answers.join('\n    ')}
  esac
  printf '%s\n' "{\\"return\\": $answer, \\"id\\": $id}" >&3
done`,
  );
}

async function script(name: string, text: string): Promise<string> {
  const file = path.join(folder, name);
  await writeFile(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return file;
}

const refused = async (file: string, message: RegExp, deadlineMs?: number): Promise<void> => {
  await assert.rejects(probeQemu(file, deadlineMs), (error) => {
    assert.ok(error instanceof QemuUnusableError, String(error));
    assert.match(error.message, message);
    assert.ok(!error.message.includes('\n'));
    return true;
  });
};

describe('a QEMU that can serve', () => {
  it('says what it is, and is asked again only when the file has changed', async () => {
    const file = await fake('good', [8, 1]);
    const probe = await probeQemu(file);
    assert.equal(probe.version, '8.1.1 (fake)');
    assert.equal(probe.machines.get('pc'), 'pc-i440fx-7.2');
    assert.equal(probe.machines.get('pc-i440fx-7.2'), 'pc-i440fx-7.2');
    assert.deepEqual([...probe.accelerators], ['tcg']);
    assert.equal(await probeQemu(file), probe);
    await utimes(file, 1, 1);
    assert.notEqual(await probeQemu(file), probe);
  });
});

describe('refused with the reason', () => {
  it('none there', () =>
    refused('/nowhere/qemu', /^\/nowhere\/qemu cannot be run: there is no such program; install/));
  it('a folder', () => refused(os.tmpdir(), /cannot be run: there is no such program/));
  it('QEMU 6.0', async () => {
    await refused(
      await fake('old', [6, 0]),
      /is QEMU 6\.0\.1 \(fake\); 7\.2 or newer is needed, for -netdev stream: install/,
    );
  });
  it('without -netdev stream', async () => {
    const schema = [
      { 'meta-type': 'enum', values: ['hubport', 'tap'] },
      { 'meta-type': 'enum', values: ['stream'] },
    ];
    await refused(
      await fake('nostream', [7, 2], { 'query-qmp-schema': schema }),
      /was built without -netdev stream; install/,
    );
  });
  it('without x-ignore-shared', async () => {
    const file = await fake('noshared', [7, 2], { 'query-migrate-capabilities': [{ capability: 'events' }] });
    await refused(file, /without the migration capability x-ignore-shared/);
  });
  it('without memory-backend-file', async () => {
    await refused(await fake('noram', [7, 2], { 'memory-backend': [] }), /without memory-backend-file/);
  });
  it('for another processor', async () => {
    const file = await fake('arm', [7, 2], { 'query-target': { arch: 'aarch64' } });
    await refused(file, /is a QEMU for aarch64; name a qemu-system-x86_64 with --qemu$/);
  });
  it('one that hangs', async () => {
    await refused(
      await script('hang', 'exec sleep 60'),
      /is of no use: QMP greeting of 'its monitor': no answer within 300 ms/,
      300,
    );
  });
  it('one that says garbage', async () => {
    const file = await script('garbage', "printf 'hello\\n' >&3; exec sleep 60");
    await refused(file, /is of no use: 'its monitor' does not speak QMP/);
  });
  it('one that greets with nonsense', async () => {
    await refused(await fake('odd', null), /is of no use: it does not answer as QEMU does; install/);
  });
  it('one that answers with nonsense', async () => {
    await refused(
      await fake('nonsense', [7, 2], { 'query-machines': 7 }),
      /is of no use: it does not answer as QEMU does; install/,
    );
  });
  it('one that fails', async () => {
    const file = await script('fail', "echo 'qemu-system-x86_64: -machine none: not today' >&2; exit 3");
    await refused(file, /is of no use: it ended with status 3: -machine none: not today; install/);
  });
  it('one that crashes', async () => {
    await refused(await script('crash', 'kill -SEGV $$'), /is of no use: it was killed by SIGSEGV; install/);
  });
  it('a program that is no QEMU', () =>
    refused('/bin/true', /is of no use: it ended with status 0; install/));
});

describe('accelerators', () => {
  const probe = (binary: string, ...accelerators: string[]): QemuProbe => ({
    binary,
    version: '7.2',
    major: 7,
    minor: 2,
    machines: new Map(),
    accelerators: new Set(accelerators),
  });
  const kvm = { name: 'kvm', text: 'kvm' };
  const tcg = { name: 'tcg', text: 'tcg,thread=multi' };

  it('the first that works, and those before it are told', async () => {
    const told: string[] = [];
    const broken = await script(
      'nokvm',
      "echo 'Could not access KVM kernel module: No such file or directory' >&2; exit 1",
    );
    assert.equal(
      await chooseAccelerator(probe(broken, 'kvm', 'tcg'), [kvm, tcg], (text) => told.push(text)),
      tcg,
    );
    assert.equal(await chooseAccelerator(probe(broken, 'tcg'), [kvm, tcg], (text) => told.push(text)), tcg);
    assert.deepEqual(told, [
      'kvm cannot be used here: it ended with status 1: Could not access KVM kernel module: No such file or directory; tcg runs the guest instead',
      `kvm cannot be used here: ${broken} was built without it; tcg runs the guest instead`,
    ]);
  });

  it('a guest that boots ends it with the status of the trial', async () => {
    const works = await script('kvm', 'exit 33');
    const none = (): never => assert.fail();
    assert.equal(await chooseAccelerator(probe(works, 'kvm', 'tcg'), [kvm, tcg], none), kvm);
  });

  it('none is an error with the way out', async () => {
    await assert.rejects(
      chooseAccelerator(probe('/q', 'tcg'), [kvm], () => undefined),
      {
        name: 'QemuUnusableError',
        message: 'kvm cannot be used here: /q was built without it; -accel tcg runs everywhere, slower',
      },
    );
  });
});

it('the reason of a refusal is found among warnings and hints', () => {
  assert.equal(refusalOf(''), null);
  assert.equal(refusalOf('qemu-system-x86_64: warning: old\n'), null);
  assert.equal(refusalOf("qemu-system-x86_64: -mon mode=control: warning: '-mon' is deprecated\n"), null);
  assert.equal(
    refusalOf(
      "qemu-system-x86_64: warning: TCG doesn't\n/usr/bin/qemu-system-x86_64: -cpu x: unable to find it\n",
    ),
    '-cpu x: unable to find it',
  );
  assert.equal(
    refusalOf('qemu-system-x86_64: unsupported machine type\nUse -machine help to list supported machines\n'),
    'unsupported machine type (Use -machine help to list supported machines)',
  );
  assert.equal(refusalOf("qemu: could not load PC BIOS 'x'\n"), "could not load PC BIOS 'x'");
  assert.equal(
    refusalOf(
      'q/qemu-system-i386: -device nvme: Device nvme is not migratable, but --only-migratable was specified',
    ),
    '-device nvme: Device nvme is not migratable: a guest with it cannot be protected',
  );
  assert.equal(refusalOf('first\nsecond\nthird\n'), 'first');
});
