// The command line when a QEMU executes the guest: what is ours, what goes on to QEMU, what both sides must have alike,
// and what is refused by name.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import type { VmConfig } from '../../../src/vm/command-line/config.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { QEMU_OPTIONS, SHARED } from '../../../src/vm/command-line/qemu-options.ts';
import { QEMU_REFUSED } from '../../../src/vm/command-line/qemu-refused.ts';

const parse = (line: string): VmConfig => parseCommandLine(['-accel', 'tcg', ...line.split(' ')]);

describe('goes on to QEMU', () => {
  // What is passed on, and what a pair must have alike (null: nothing).
  const cases: [string, string, string | null][] = [
    ['-cpu qemu64,+sse3', '-cpu qemu64,+sse3', '-cpu qemu64,+sse3'],
    ['-smp 2,cores=2', '-smp 2,cores=2', '-smp 2,cores=2'],
    ['-vga virtio', '-vga virtio', '-vga virtio'],
    ['-usb', '-usb', '-usb'],
    ['-usbdevice tablet', '-usbdevice tablet', '-usbdevice tablet'],
    ['-rtc base=utc', '-rtc base=utc', '-rtc base=utc'],
    ['-icount shift=1', '-icount shift=1', '-icount shift=1'],
    ['-global e1000.mitigation=off', '-global e1000.mitigation=off', '-global e1000.mitigation=off'],
    ['-boot order=nc', '-boot order=nc', '-boot order=nc'],
    ['-append ro', '-append ro', '-append ro'],
    ['-audio none,model=hda', '-audio none,model=hda', '-audio none,model=hda'],
    ['-no-acpi', '-no-acpi', '-no-acpi'],
    ['-no-hpet', '-no-hpet', '-no-hpet'],
    ['-no-fd-bootchk', '-no-fd-bootchk', '-no-fd-bootchk'],
    ['-win2k-hack', '-win2k-hack', '-win2k-hack'],
    ['-overcommit cpu-pm=on', '-overcommit cpu-pm=on', '-overcommit cpu-pm=on'],
    ['-nodefaults', '-nodefaults', '-nodefaults'],
    ['-smbios type=1,serial=x', '-smbios type=1,serial=x', '-smbios type=1 serial=x'],
    ['-fw_cfg opt/a,string=x', '-fw_cfg opt/a,string=x', '-fw_cfg name=opt/a string=x'],
    ['-acpitable sig=X,data=/a', '-acpitable sig=X,data=/a', '-acpitable sig=X data=/a'],
    [
      '-uuid 0A0B0C0D-0000-0000-0000-00000000000f',
      '-uuid 0A0B0C0D-0000-0000-0000-00000000000f',
      '-uuid 0a0b0c0d-0000-0000-0000-00000000000f',
    ],
    ['-name a,debug-threads=on', '-name debug-threads=on', null],
    ['-action shutdown=pause,panic=none,watchdog=pause', '-action panic=none,watchdog=pause', null],
    ['-watchdog-action pause', '-watchdog-action pause', null],
    ['-audiodev none,id=a', '-audiodev none,id=a', null],
    ['-k de', '-k de', null],
    ['-L /share', '-L /share', null],
    ['-msg timestamp=on', '-msg timestamp=on', null],
    ['-compat deprecated-input=reject', '-compat deprecated-input=reject', null],
    ['-seed 1', '-seed 1', null],
    ['-sandbox on', '-sandbox on', null],
    ['-d int', '-d int', null],
    ['-D /log', '-D /log', null],
    ['-dfilter 0..1', '-dfilter 0..1', null],
    ['-trace vm*', '-trace vm*', null],
    ['-plugin x.so', '-plugin x.so', null],
    ['-singlestep', '-singlestep', null],
    ['-perfmap', '-perfmap', null],
    ['-jitdump', '-jitdump', null],
    ['-enable-sync-profile', '-enable-sync-profile', null],
    ['-async-teardown', '-async-teardown', null],
    ['-run-with async-teardown=on', '-run-with async-teardown=on', null],
    ['-object rng-builtin,id=r', '-object rng-builtin,id=r', null],
    ['-object secret,id=s,data=x', '-object secret,id=s,data=x', null],
    ['-object memory-backend-ram,id=m,size=1M', '-object memory-backend-ram,id=m,size=1M', null],
    ['-object iothread,id=i', '-object iothread,id=i', null],
    ['-chardev msmouse,id=c', '-chardev msmouse,id=c', null],
    ['-name guest', '', null],
    ['-only-migratable', '', null],
    ['-vnc :1', '', null],
    ['-display none', '', null],
    ['-chardev null,id=c', '', null],
    ['-object filter-mirror,id=m', '', null],
  ];
  for (const [line, passed, alike] of cases) {
    it(line, () => {
      const { qemu, warnings } = parse(line);
      assert.equal(qemu.args.join(' '), passed);
      assert.deepEqual(qemu.identity, alike === null ? [] : [alike]);
      assert.deepEqual(warnings, []);
    });
  }

  for (const option of ['bios', 'kernel', 'initrd', 'dtb', 'shim', 'option-rom']) {
    it(`-${option}: by path, and compared by content`, () => {
      const { qemu } = parse(`-${option} /a`);
      assert.deepEqual(qemu.args, [`-${option}`, '/a']);
      assert.deepEqual(qemu.files, [{ option: `-${option}`, path: '/a' }]);
    });
  }
  it('-smbios, -acpitable and -fw_cfg with a file are compared by its content too', () => {
    const { qemu } = parse('-smbios file=/a -acpitable file=/b -fw_cfg name=opt/c,file=/c');
    assert.deepEqual(qemu.files, [
      { option: '-smbios', path: '/a' },
      { option: '-acpitable', path: '/b' },
      { option: '-fw_cfg name=opt/c', path: '/c' },
    ]);
    assert.deepEqual(qemu.identity, []);
  });
});

describe('ours', () => {
  it('-machine adds up, without accel', () => {
    assert.equal(parse('-machine q35,vmport=off -M usb=on,accel=kvm').qemu.machine, 'q35,vmport=off,usb=on');
    assert.equal(parse('-machine usb=on').qemu.machine, 'pc,usb=on');
    assert.equal(parse('-m 8').qemu.machine, null);
  });

  it('accelerators are tried in the order given', () => {
    const wanted = (...args: string[]): string[] =>
      parseCommandLine(args).qemu.accelerators.map(({ text }) => text);
    assert.deepEqual(wanted('-accel', 'kvm:tcg'), ['kvm', 'tcg']);
    assert.deepEqual(wanted('-enable-kvm', '-accel', 'tcg,thread=multi'), ['kvm', 'tcg,thread=multi']);
    assert.deepEqual(wanted('-machine', 'pc,accel=tcg:kvm'), ['tcg', 'kvm']);
    assert.deepEqual(wanted('-accel', 'hvf:tcg,thread=single'), ['tcg,thread=single']);
    assert.deepEqual(wanted('-accel', 'v86:tcg'), []);
  });

  it('--qemu, -m, -name, -vnc, -pidfile', () => {
    const config = parse('--qemu /opt/q -m 2G -name a,process=b -display vnc=:3 -pidfile /p');
    assert.equal(config.qemu.binary, '/opt/q');
    assert.equal(config.memoryBytes, 2 ** 31);
    assert.deepEqual([config.name, config.vnc, config.pidfile], ['a', ':3', '/p']);
  });

  it('disks of every kind are drives of ours', () => {
    const { drives } = parse('-hda a -hdb b -cdrom c -hdd d -fda e -fdb f -pflash g');
    assert.deepEqual(
      drives.map((drive) => ({ ...drive })),
      [
        { if: 'ide', index: '0', file: 'a' },
        { if: 'ide', index: '1', file: 'b' },
        { if: 'ide', index: '2', media: 'cdrom', file: 'c' },
        { if: 'ide', index: '3', file: 'd' },
        { if: 'floppy', index: '0', file: 'e' },
        { if: 'floppy', index: '1', file: 'f' },
        { if: 'pflash', file: 'g' },
      ],
    );
    assert.equal(parse('-hdc a').drives[0]?.['index'], '2');
  });

  it('-nic and -net nic are a netdev and a device', () => {
    const { netdevs, devices } = parse(
      '-nic tap,ifname=t0,script=no,model=virtio,mac=52:54:00:00:00:01 -nic stream,id=n,addr.type=unix,addr.path=/x ' +
        '-netdev tap,id=h -net nic,netdev=h,model=rtl8139,macaddr=52:54:00:00:00:02 -net none -nic none',
    );
    assert.deepEqual(
      netdevs.map((netdev) => ({ ...netdev })),
      [
        { type: 'tap', ifname: 't0', script: 'no', id: 'nic0' },
        { type: 'stream', 'addr.type': 'unix', 'addr.path': '/x', id: 'n' },
        { type: 'tap', id: 'h' },
      ],
    );
    assert.deepEqual(
      devices.map(({ driver, options }) => [driver, options]),
      [
        ['virtio-net-pci', { netdev: 'nic0', mac: '52:54:00:00:00:01' }],
        ['', { netdev: 'n' }],
        ['rtl8139', { netdev: 'h', mac: '52:54:00:00:00:02' }],
      ],
    );
  });
});

describe('refused, with the option in front', () => {
  const cases: [string, string | RegExp][] = [
    ['-foo', '-foo: invalid option'],
    ['-accel zig', '-accel zig: invalid accelerator zig'],
    ['-m 8,slots=2,maxmem=1G', /memory that is plugged in later is not protected/],
    ['-m 1500k', "-m 1500k: Parameter 'size' expects whole MiB"],
    ['-m 8,foo=1', "-m 8,foo=1: Invalid parameter 'foo'"],
    ['-uuid zz', /wrong format$/],
    ['-machine none', /runs without an accelerator; leave -accel out$/],
    ['-machine microvm', /cannot migrate a microvm; use pc or q35$/],
    ['-machine xenfv-4.2', /Xen is not served/],
    ['-machine pc,memory-backend=m', /^-machine pc,memory-backend=m: memory-backend: guest RAM is memory/],
    ['-machine q35,confidential-guest-support=s', /encrypted memory/],
    ['-machine q35,sgx-epc.0.memdev=m', /its memory is not protected/],
    ['-object sev-guest,id=s', /encrypted memory/],
    ['-object input-linux,id=s', /its state is in the host/],
    [
      '-object memory-backend-memfd,id=m,size=1M',
      /shared memory is not part of a checkpoint; give share=off$/,
    ],
    ['-object memory-backend-file,id=m,size=1M,mem-path=/x,share=on', /give share=off$/],
    ['-object rng-builtin', "-object rng-builtin: Parameter 'id' is missing"],
    ['-object iothread,id=a -object rng-builtin,id=a', /Duplicate ID 'a' for object$/],
    ['-object rng-builtin,id=a -object iothread,id=a', /Duplicate ID 'a' for object$/],
    ['-display gtk', /a window or its connections would end with each checkpoint; use -vnc$/],
    ['-run-with user=nobody', /start this process as that user/],
    ['-nic model=e1000', /Parameter 'type' is missing$/],
    ['-net nic', '-net nic: use -netdev and -device, or -nic'],
    ['-net user', '-net user: use -netdev and -device, or -nic'],
    ['-monitor stdio', /there is no human monitor/],
    ['-daemonize', /^-daemonize: the VM stays in the foreground/],
    ['-numa node', /^-numa: not supported: the nodes' memory/],
    ['-mem-path /x', /^-mem-path: not supported: guest RAM is memory/],
    ['-parallel stdio', /use -chardev …,id=ID and -device isa-parallel,chardev=ID$/],
  ];
  for (const [line, message] of cases) {
    it(line, () => assert.throws(() => parse(line), { name: 'ParameterError', message }));
  }
  for (const name of QEMU_REFUSED) {
    it(`-${name}`, () =>
      assert.throws(() => parse(`-${name} x`), { message: new RegExp(`^-${name}: not supported: .{3}`) }));
  }
});

it('every option of the embedded engine is known here too, one way', () => {
  const source = readFileSync(new URL('../../../src/vm/command-line/parse.ts', import.meta.url), 'utf8');
  const table = /const OPTIONS[^]*?\n\]\);/.exec(source)?.[0] ?? '';
  const names = [...table.matchAll(/\[\s*'([\w-]+)',\s*(?:value|flag|already|unheeded)\(/g)].map(
    (match) => match[1]!,
  );
  assert.ok(names.length > 40);
  for (const name of names) {
    const ways = [QEMU_OPTIONS.has(name), SHARED.has(name), QEMU_REFUSED.has(name)].filter(Boolean);
    assert.equal(ways.length, 1, name);
  }
});
