// What a host tells of a real QEMU, and of bridges and TAP devices of the kernel.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { checkVm } from '../../../src/ha/spec/check.ts';
import { parseHostFacts } from '../../../src/ha/spec/facts.ts';
import { gatherFacts } from '../../../src/ha/spec/gather.ts';
import { parseNodeFile } from '../../../src/ha/spec/node-file.ts';
import { parseVmFile } from '../../../src/ha/spec/vm-file.ts';
import { whyNoQemu } from '../net/qemu.ts';

const run = promisify(execFile);
const config = parseNodeFile(
  'name: a\narbiter: {file: /x}\nstate-folder: /tmp/colo-check-state\nrun-folder: /tmp/colo-check-run\n',
  { file: 'node.yaml', folder: '/' },
);
const vm = (text: string): ReturnType<typeof parseVmFile> =>
  parseVmFile(`name: web\ndisks: [{size: 1M}]\n${text}`, { file: 'vm.yaml', folder: '/' });

test('a QEMU tells its version and the NICs that it lacks', { skip: whyNoQemu() }, async () => {
  const spec = vm(
    'engine: tcg\nnetwork: [{bridge: b, model: virtio-net-pci}, {bridge: c, model: virtio-nett}]',
  );
  const facts = await gatherFacts(spec, config, { software: '1' });
  assert.match(facts.engine.version ?? '', /^\d+\.\d+\.\d+/);
  assert.deepEqual([facts.engine.trouble, facts.engine.unknownModels], [null, ['virtio-nett']]);
  const kvm = (await gatherFacts({ ...spec, engine: 'kvm' }, config, { software: '1' })).engine;
  if (kvm.trouble !== null)
    assert.match(kvm.trouble, /^kvm cannot be used: .*; engine tcg runs everywhere, slower$/);
  const tooMuch = checkVm(spec, facts, false).filter(({ path }) => path.endsWith('.model'));
  assert.match(tooMuch[0]?.message ?? '', /^QEMU .* has no NIC 'virtio-nett'$/);
});

const isRoot = process.getuid?.() === 0;

test(
  'bridges and TAP devices are those of the network that it is in',
  { skip: isRoot ? false : 'a network namespace needs root' },
  async () => {
    const name = `colo-check-${process.pid}`;
    const inside = (...words: string[]): ReturnType<typeof run> =>
      run('ip', ['netns', 'exec', name, ...words]);
    await run('ip', ['netns', 'add', name]);
    try {
      await inside('ip', 'link', 'add', 'br7', 'type', 'bridge');
      await inside('ip', 'tuntap', 'add', 'tap7', 'mode', 'tap');
      const program = `
        import { gatherFacts } from './src/ha/spec/gather.ts';
        const [spec, config] = JSON.parse(process.argv[1]);
        console.log(JSON.stringify(await gatherFacts(spec, config, { software: '1' })));`;
      const spec = vm('network: [{bridge: br7}, {tap: tap7}, {bridge: br8}]');
      const top = fileURLToPath(new URL('../../../', import.meta.url));
      const { stdout } = await run(
        'ip',
        [
          ...[
            'netns',
            'exec',
            name,
            process.execPath,
            '--import',
            'tsx',
            '--input-type=module',
            '-e',
            program,
          ],
          JSON.stringify([spec, config]),
        ],
        { cwd: top },
      );
      const { cables } = parseHostFacts(JSON.parse(stdout));
      const [bridge, tap, none] = cables;
      assert.deepEqual([bridge, tap], [null, null]);
      assert.match(none ?? '', /^there is no bridge 'br8'/);
    } finally {
      await run('ip', ['netns', 'del', name]);
    }
  },
);
