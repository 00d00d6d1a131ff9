// The machine that a real QEMU becomes is the one that the command line asks for; asked of that QEMU's own monitor. And
// every option that it has is known. No guest beyond its firmware.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { messageOf } from '../../../src/base/errors.ts';
import { probeQemu } from '../../../src/engine/qemu/index.ts';
import { tryBoot } from '../../../src/engine/qemu/accelerator.ts';
import { commands } from '../../../src/monitor/commands/index.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { VirtualMachine } from '../../../src/vm/machine.ts';
import { ColoProcess, until } from '../../helpers/colo.ts';
import { QEMU, skipReason } from './qemu-machines.ts';

const run = promisify(execFile);

let folder: string;
before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-line-'));
  await writeFile(path.join(folder, 'blob'), 'content');
});
after(() => rm(folder, { recursive: true }));

type Ask = (command: string, args?: Record<string, unknown>) => Promise<unknown>;

/** Builds the VM of a command line, lets `look` ask its QEMU, and ends it. Returns the warnings. */
async function built(line: string, look: (ask: Ask, vm: VirtualMachine) => Promise<void>): Promise<string[]> {
  const warnings: string[] = [];
  const words = line.replaceAll('DIR', folder).split(' ');
  const vm = await VirtualMachine.create(parseCommandLine(['-m', '32', ...words]), {
    firmware: () => Promise.reject(new Error('QEMU has its own')),
    warn: (text) => warnings.push(text),
  });
  try {
    const { monitor } = vm.engine!;
    await look((command, args = {}) => monitor!.execute(command, args), vm);
  } finally {
    await vm.close();
  }
  return warnings;
}

const human = async (ask: Ask, line: string): Promise<string> =>
  (await ask('human-monitor-command', { 'command-line': line })) as string;

describe('the machine that QEMU becomes', { skip: skipReason }, () => {
  it('has the type, CPUs, names, NICs, devices, objects and firmware data asked for', async () => {
    const line =
      '-M q35,accel=tcg -machine vmport=off -smp 2 -cpu qemu64,+sse4.2 -m 48 -nodefaults -name vm0,debug-threads=on ' +
      '-uuid 0a0b0c0d-0000-0000-0000-00000000000f -rtc base=2020-01-01 -boot menu=on -global e1000.multifunction=off ' +
      '-netdev hubport,id=a,hubid=0 -netdev hubport,id=b,hubid=0 -device rtl8139,netdev=a,id=n0,mac=52:54:00:00:00:01 ' +
      '-device {"driver":"virtio-net-pci","netdev":"b","id":"n1","bootindex":1} ' +
      '-object rng-builtin,id=rng0 -device virtio-rng-pci,rng=rng0 -object iothread,id=io0 ' +
      '-usb -device usb-tablet -audiodev none,id=snd -smbios type=1,serial=S -fw_cfg opt/x,file=DIR/blob ' +
      '-action watchdog=pause -msg timestamp=on -d guest_errors -D DIR/log -vga none -L /usr/share/qemu -k de';
    const warnings = await built(line, async (ask, vm) => {
      const { machines } = await probeQemu(QEMU);
      const type = (await ask('qom-get', { path: '/machine', property: 'type' })) as string;
      assert.equal(type, `${machines.get('q35')!}-machine`);
      const cpus = (await ask('query-cpus-fast')) as { 'qom-path': string }[];
      assert.equal(cpus.length, 2);
      const cpu = cpus[0]!['qom-path'];
      assert.equal(await ask('qom-get', { path: cpu, property: 'type' }), 'qemu64-x86_64-cpu');
      assert.equal(await ask('qom-get', { path: cpu, property: 'sse4.2' }), true);
      assert.equal(await ask('qom-get', { path: '/machine', property: 'vmport' }), 'off');
      assert.deepEqual(await ask('query-name'), { name: 'vm0' });
      assert.deepEqual(await ask('query-uuid'), { UUID: '0a0b0c0d-0000-0000-0000-00000000000f' });
      const sizes = (await ask('query-memory-size-summary')) as { 'base-memory': number };
      assert.equal(sizes['base-memory'], 48 * 2 ** 20);
      const memory = (await ask('query-memdev')) as { id: string; share: boolean }[];
      assert.deepEqual(
        memory.map(({ id, share }) => [id, share]),
        [['colo-ram', true]],
      );
      const network = await human(ask, 'info network');
      assert.match(network, /n0: .*model=rtl8139,macaddr=52:54:00:00:00:01\b/);
      assert.match(network, /n1: .*model=virtio-net-pci,macaddr=52:54:00:12:34:57\b/);
      assert.match(await human(ask, 'info usb'), /Product QEMU USB Tablet/);
      assert.match(await human(ask, 'info qtree'), /dev: virtio-rng-pci/);
      const objects = (await ask('qom-list', { path: '/objects' })) as { name: string }[];
      assert.ok(objects.some(({ name }) => name === 'rng0'));
      assert.ok(!(await human(ask, 'info qtree')).includes('dev: VGA'));
      assert.equal(((await ask('query-iothreads')) as object[]).length, 1);
      const { buildParts = [] } = vm.engine!;
      assert.ok(buildParts.includes(`-machine ${machines.get('q35')!},vmport=off`), buildParts.join('\n'));
      assert.ok(buildParts.some((part) => /^-fw_cfg name=opt\/x with sha256 [0-9a-f]{16}$/.test(part)));
    });
    assert.deepEqual(warnings, []);
  });

  it('has QEMU’s own defaults where nothing is asked for', async () => {
    await built('-accel tcg', async (ask) => {
      const { machines } = await probeQemu(QEMU);
      const type = (await ask('qom-get', { path: '/machine', property: 'type' })) as string;
      assert.equal(type, `${machines.get('pc')!}-machine`);
      assert.equal(((await ask('query-cpus-fast')) as object[]).length, 1);
      assert.match(await human(ask, 'info qtree'), /dev: VGA/);
      assert.equal(await human(ask, 'info network'), '');
    });
  });

  it('offers a virtio NIC offloads, and none to one whose rings are not served here', async (t) => {
    const { major, version } = await probeQemu(QEMU);
    if (major >= 11) {
      t.skip(`QEMU ${version}: x-query-virtio-status ends it (an assertion of its own)`);
      return;
    }
    const netdevs = '-netdev hubport,id=a,hubid=0 -netdev hubport,id=b,hubid=0';
    const nics = '-device virtio-net-pci,netdev=a,id=n0 -device virtio-net-pci,netdev=b,id=n1,vectors=4';
    await built(`-accel tcg -nodefaults ${netdevs} ${nics}`, async (ask) => {
      const offloads = async (nic: string): Promise<number> => {
        const at = `/machine/peripheral/${nic}/virtio-backend`;
        const status = (await ask('x-query-virtio-status', { path: at })) as {
          'host-features': { 'dev-features': string[] };
        };
        const offered = status['host-features']['dev-features'].map((text) => text.split(':', 1)[0] ?? '');
        assert.ok(offered.includes('VIRTIO_NET_F_MAC'));
        return offered.filter((name) => /_(CSUM|TSO4|TSO6|UFO|ECN)$/.test(name)).length;
      };
      // CSUM, TSO4, TSO6 and ECN, both ways.
      assert.deepEqual([await offloads('n0'), await offloads('n1')], [8, 0]);
    });
  });

  it('shows a chardev of ours to the devices that name it', async () => {
    const line =
      '-accel tcg -nodefaults -chardev null,id=qga0 -device virtio-serial ' +
      '-device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0 -chardev null,id=dbg -device isa-debugcon,iobase=0x402,chardev=dbg';
    await built(line, async (ask) => {
      const chardevs = (await ask('query-chardev')) as { label: string; 'frontend-open': boolean }[];
      assert.ok(chardevs.some(({ label }) => label === 'qga0'));
      assert.ok(chardevs.find(({ label }) => label === 'dbg')?.['frontend-open']);
    });
  });

  const failing: [string, string | RegExp][] = [
    ['-accel tcg -device flux', "-device flux: 'flux' is not a valid device model name"],
    ['-accel tcg -device e1000,foo=1', "-device e1000,foo=1: Property 'e1000.foo' not found"],
    [
      '-M q35,accel=tcg -device amd-iommu',
      '-device amd-iommu: Device amd-iommu is not migratable: a guest with it cannot be protected',
    ],
    ['-accel tcg -machine zig', /^-machine zig: unsupported machine type; QEMU \S+ .*has pc, q35 and more/],
    ['-accel tcg -cpu zig', "QEMU: unable to find CPU model 'zig'"],
    ['-accel tcg -kernel DIR/none', /^-kernel \S+: Could not open '\S+': No such file or directory$/],
    ['-accel tcg -bios none.bin', "QEMU: could not load PC BIOS 'none.bin'"],
    ['-accel tcg,thread=zig', "-accel tcg,thread=zig: Invalid 'thread' setting zig"],
    ['-accel tcg --qemu DIR/none', /^-accel tcg: \S+ cannot be run: there is no such program/],
  ];
  for (const [line, message] of failing) {
    it(`${line}: refused in one line`, async () => {
      await assert.rejects(
        built(line, () => Promise.resolve()),
        (error) => {
          if (typeof message === 'string') assert.equal(messageOf(error), message);
          else assert.match(messageOf(error), message);
          return true;
        },
      );
    });
  }
});

describe('the program', { skip: skipReason }, () => {
  /** Runs to its end. */
  async function ends(...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
    const vm = new ColoProcess('vm', ...args);
    let stdout = '';
    vm.child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    const [status] = (await once(vm.child, 'close')) as [number | null];
    return { status, stdout, stderr: vm.stderr };
  }

  it('lets QEMU answer what a machine or a device may be', async () => {
    const { status, stdout } = await ends('-accel', 'tcg', '-machine', 'help');
    assert.equal(status, 0);
    assert.match(stdout, /^pc-q35-7\.2 /m);
    assert.match((await ends('-enable-kvm', '-device', 'e1000,help')).stdout, /^e1000 options:/);
    const absent = await ends('--qemu', '/nowhere/qemu', '-accel', 'tcg', '-cpu', 'help');
    assert.equal(absent.stderr, 'colo vm: --qemu /nowhere/qemu: No such file or directory\n');
    assert.equal(absent.status, 1);
  });

  it('tells what QEMU refuses in one line', async () => {
    const args = ['-accel', 'tcg', '-m', '32', '-incoming', 'defer', '-device', 'flux-capacitor'];
    const { status, stderr } = await ends(...args);
    assert.equal(
      stderr,
      "colo vm: -device flux-capacitor: 'flux-capacitor' is not a valid device model name\n",
    );
    assert.equal(status, 1);
  });
});

it('two machines that differ are no pair, and the option is named', { skip: skipReason }, async () => {
  const line = (cpu: string): string => `-accel tcg -nodefaults -cpu ${cpu}`;
  await built(`${line('qemu32')} -incoming unix:DIR/in`, async (_ask, secondary) => {
    await built(line('qemu64'), async (_askPrimary, primary) => {
      await commands.execute(primary, 'migrate', { uri: `unix:${folder}/in` });
      await until('the migration fails', 30_000, () => primary.migration.errorText !== null);
      assert.match(
        primary.migration.errorText ?? '',
        /'-cpu qemu32' does not match '-cpu qemu64'; start both with the same options$/,
      );
    });
    assert.equal(secondary.run.state, 'inmigrate');
  });
});

it(
  'the trial of an accelerator tells one that boots from one that is not there',
  { skip: skipReason },
  async () => {
    const probe = await probeQemu(QEMU);
    assert.equal(await tryBoot(probe, 'tcg', 60_000), null);
    assert.equal(await tryBoot(probe, 'zig'), 'it ended with status 1: -accel zig: invalid accelerator zig');
  },
);

it('every option that QEMU has is known, with a value where it takes one', { skip: skipReason }, async () => {
  const { stdout } = await run(QEMU, ['-help']);
  const options = new Map<string, boolean>();
  for (const [line, names = ''] of stdout.matchAll(/^--?([a-z]\S*).*$/gim)) {
    // -M: newer versions say `as -machine`, in the column of the explanations.
    if (/^(h|version|M)$/.test(names)) continue;
    // The explanation begins at column 16, or two blanks behind a longer name.
    const shown =
      names.length + 1 < 15
        ? line.slice(names.length + 1, 16)
        : line.slice(names.length + 1, names.length + 3);
    const takesValue = names.length + 1 < 15 ? shown.trim() !== '' : /^ \S/.test(shown);
    // `-fda/-fdb file`
    for (const name of names.split('/-')) options.set(name, options.get(name) === true || takesValue);
  }
  assert.ok(options.size > 100, `${options.size}`);
  for (const [name, takesValue] of options) {
    try {
      parseCommandLine(['-accel', 'tcg', `-${name}`]);
      assert.ok(!takesValue, `-${name} takes a value`);
    } catch (error) {
      const text = messageOf(error);
      assert.ok(!text.includes('invalid option'), text);
      if (text.includes('requires an argument')) assert.ok(takesValue, `-${name} takes no value`);
    }
  }
});
