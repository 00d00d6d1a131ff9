// QEMU's option strings, and what becomes of each option: honoured, told to change nothing, or refused by name.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseOptions, parseSize } from '../../../src/vm/command-line/keyval.ts';
import { originOf } from '../../../src/vm/command-line/origin.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';

const plain = (options: object): Record<string, unknown> => ({ ...options });
const parse = (line: string): ReturnType<typeof parseCommandLine> => parseCommandLine(line.split(' '));

describe('option strings', () => {
  it('reads old and new spellings alike', () => {
    const wanted = { backend: 'socket', server: 'on', wait: 'off' };
    assert.deepEqual(plain(parseOptions('socket,server,nowait', 'backend')), wanted);
    assert.deepEqual(plain(parseOptions('socket,server=on,wait=off', 'backend')), wanted);
  });

  it('keeps doubled commas in values and odd keys out of the prototype', () => {
    const options = parseOptions('file=a,,b.raw,__proto__=x,id=d');
    assert.equal(options['file'], 'a,b.raw');
    assert.equal(options['__proto__'], 'x');
    assert.equal(({} as Record<string, unknown>)['x'], undefined);
  });

  it('takes JSON where QEMU does', () => {
    const config = parse(
      '-netdev {"type":"stream","id":"n0","server":false,"addr":{"type":"unix","path":"/x"}}',
    );
    assert.deepEqual(plain(config.netdevs[0]!), {
      type: 'stream',
      id: 'n0',
      server: 'off',
      'addr.type': 'unix',
      'addr.path': '/x',
    });
  });

  it('understands sizes', () => {
    assert.equal(parseSize('512', 1024), 512 * 1024);
    assert.equal(parseSize('1.5G'), 1.5 * 2 ** 30);
    assert.equal(parseSize('0x10'), 16);
    assert.equal(parseSize('ten'), null);
  });
});

describe('refused, with the option in front', () => {
  const cases: [string, string | RegExp][] = [
    ['-foo', '-foo: invalid option'],
    ['--foo', '--foo: invalid option'],
    ['-watchdog x', '-watchdog: invalid option'],
    ['-m', '-m: requires an argument'],
    ['-m x', /^-m x: Parameter 'size' expects a non-negative number/],
    ['-m 9T', '-m 9T: the v86 engine takes a multiple of 128 KiB from 1 MiB to 2047 MiB of memory'],
    ['-m 100k', /multiple of 128 KiB/],
    ['-m 512,foo=1', "-m 512,foo=1: Invalid parameter 'foo'"],
    ['-m 512,slots=2,maxmem=1G', /no memory hotplug/],
    ['-smp 2', '-smp 2: the v86 engine has one CPU'],
    ['-smp 1,cores=2', /one CPU$/],
    ['-smp x', "-smp x: Parameter 'smp.cpus' expects integer"],
    ['-smp 1,foo=2', "-smp 1,foo=2: Parameter 'smp.foo' is unexpected"],
    ['-machine virt', "-machine virt: unsupported machine type 'virt'; use pc or none"],
    ['-machine none,foo=1', "-machine none,foo=1: Property 'none-machine.foo' not found"],
    ['-accel hvf', '-accel hvf: invalid accelerator hvf'],
    ['-accel v86,foo=1', "-accel v86,foo=1: Property 'v86-accel.foo' not found"],
    ['-accel kvm -accel hvf', '-accel hvf: invalid accelerator hvf'],
    ['-accel kvm:tcg,thread=multi', /give each accelerator an -accel of its own$/],
    ['-name a,foo=1', "-name a,foo=1: Invalid parameter 'foo'"],
    ['-uuid zz', '-uuid zz: failed to parse UUID string: wrong format'],
    ['-monitor stdio', /^-monitor stdio: there is no human monitor/],
    ['-mon mode=control', "-mon mode=control: Parameter 'chardev' is missing"],
    ['-mon foo=1', "-mon foo=1: Invalid parameter 'foo'"],
    ['-mon chardev=c', /there is no human monitor; use mode=control/],
    ['-mon chardev=c,mode=control', '-mon chardev=c,mode=control: chardev "c" not found'],
    ['-mon c,mode=control -chardev file,id=c,path=/x', /use a socket, stdio or null chardev$/],
    ['-qmp chardev:c', '-qmp chardev:c: chardev "c" not found'],
    ['-qmp file:/x', /^-qmp file:\/x: a monitor needs somebody to talk to/],
    ['-qmp pty', "-qmp pty: 'pty' is not supported; use stdio, none, unix:PATH or tcp:HOST:PORT"],
    ['-serial bogus', /^-serial bogus: 'bogus' is not a valid character device; use/],
    ['-serial stdio -serial stdio', '-serial stdio: the v86 engine has one serial port'],
    ['-qmp stdio -qmp stdio', '-qmp stdio: cannot use stdio by multiple character devices'],
    ['-serial stdio -chardev stdio,id=c', /: cannot use stdio by multiple character devices$/],
    ['-parallel stdio', '-parallel stdio: the v86 engine has no such port'],
    ['-display zig', "-display zig: Parameter 'type' does not accept value 'zig'"],
    ['-vga zig', '-vga zig: unknown vga type: zig'],
    ['-rtc zig=1', "-rtc zig=1: Invalid parameter 'zig'"],
    ['-boot zig=1', "-boot zig=1: Parameter 'boot.zig' is unexpected"],
    ['-sandbox zig', "-sandbox zig: Parameter 'enable' expects 'on' or 'off'"],
    ['-overcommit zig=1', "-overcommit zig=1: Invalid parameter 'zig'"],
    ['-action foo=1', "-action foo=1: Invalid parameter 'foo'"],
    ['-action shutdown=zig', "-action shutdown=zig: Parameter 'shutdown' does not accept value 'zig'"],
    ['-daemonize', /^-daemonize: the VM stays in the foreground/],
    ['-net user', '-net user: use -netdev and -device'],
    ['-kernel /x', /^-kernel: not supported: the guest boots from its disk/],
    ['-snapshot', /^-snapshot: not supported: it would hide the writes/],
    ['-smbios type=1', '-smbios: not on the v86 engine; with -accel kvm or tcg it is there'],
    ['--qemu x', '--qemu: not on the v86 engine; with -accel kvm or tcg it is there'],
    ['-numa node', '-numa: this option of QEMU is not supported here, leave it out'],
    ['-netdev {bad', '-netdev {bad: Invalid JSON: {bad'],
    ['-netdev tap', "-netdev tap: Parameter 'id' is missing"],
    ['-netdev id=a', "-netdev id=a: Parameter 'type' is missing"],
    ['-netdev {"type":"user"}', `-netdev {"type":"user"}: Parameter 'id' is missing`],
    ['-object id=a', "-object id=a: Parameter 'qom-type' is missing"],
    ['-object iothread', "-object iothread: Parameter 'id' is missing"],
    ['-device id=x', "-device id=x: Parameter 'driver' is missing"],
    ['-chardev null,id=a -chardev null,id=a', "-chardev null,id=a: Duplicate ID 'a' for chardev"],
    ['-netdev user,id=a -netdev user,id=a', "-netdev user,id=a: Duplicate ID 'a' for netdev"],
    ['-object iothread,id=a -object iothread,id=a', "-object iothread,id=a: Duplicate ID 'a' for object"],
    ['-drive id=d,if=none -drive id=d,if=none', "-drive id=d,if=none: Duplicate ID 'd' for drive"],
    ['-device e1000,id=a -device e1000,id=a', "-device e1000,id=a: Duplicate ID 'a' for device"],
    ['-chardev null,id=1a', /^-chardev null,id=1a: Parameter 'id' expects an identifier/],
  ];
  for (const [line, message] of cases) {
    it(line, () => assert.throws(() => parse(line), { name: 'ParameterError', message }));
  }
});

describe('understood, with a warning that begins with the option', () => {
  const cases: [string, string[]][] = [
    ['-vnc :0', ['-vnc :0: the v86 engine has no VNC server; use the serial console']],
    ['-usb', ['-usb: the v86 engine has no USB, the guest runs without it']],
    ['-display gtk', ['-display gtk: the v86 engine shows no display; use the serial console']],
    ['-vga qxl', ['-vga qxl: the guest sees a standard VGA instead']],
    [
      '-cpu host',
      ['-cpu host: the v86 engine has one CPU model, a 32-bit x86 with SSE2; the guest sees that'],
    ],
    ['-global a.b=c', ['-global a.b=c: the v86 engine has no properties to set']],
    ['-boot d', ['-boot d: the v86 engine boots from the first disk']],
    ['-machine q35,usb=on', ['-machine usb=on: the v86 engine has no USB, the guest runs without it']],
    ['-display none -vga std -boot order=c -rtc base=utc,clock=host -sandbox off -cpu pentium', []],
    ['-smp 1,sockets=1,cores=1,threads=1 -machine pc,vmport=off -no-hpet -nodefaults', []],
  ];
  for (const [line, warnings] of cases) it(line, () => assert.deepEqual(parse(line).warnings, warnings));
});

describe('honoured', () => {
  it('remembers the accelerator and how it was asked for', () => {
    const chosen = (line: string): [string, string] => {
      const { accel, accelOption } = parse(line);
      return [accel, accelOption];
    };
    assert.deepEqual(chosen('-m 8'), ['v86', '']);
    assert.deepEqual(chosen('-enable-kvm'), ['kvm', '-enable-kvm']);
    assert.deepEqual(chosen('-accel hvf:tcg,thread=single'), ['tcg', '-accel hvf:tcg,thread=single']);
    assert.deepEqual(chosen('-M pc,accel=v86'), ['v86', '-M pc,accel=v86']);
    assert.deepEqual(chosen('-accel v86 -enable-kvm'), ['v86', '-accel v86']);
    assert.deepEqual(chosen('-accel v86:kvm'), ['v86', '-accel v86:kvm']);
    assert.deepEqual(chosen('-accel kvm:v86'), ['kvm', '-accel kvm:v86']);
  });

  it('remembers how every named thing was spelt', () => {
    const config = parse(
      '-hda a.raw --drive file=b,if=none,id=b -qmp tcp:h:1,server=on -chardev null,id=c x.img',
    );
    assert.deepEqual(
      [...config.drives, ...config.chardevs, ...config.qmp].map((options) => originOf(options, '?')),
      ['-hda a.raw', '--drive file=b,if=none,id=b', 'x.img', '-chardev null,id=c', '-qmp tcp:h:1,server=on'],
    );
  });

  it('puts the console on standard output for -nographic, where that is free and wanted', () => {
    const serial = (line: string): unknown =>
      parse(line).serials.find(({ type }) => type !== 'none')?.type ?? null;
    assert.equal(serial('-nographic'), 'stdio');
    assert.equal(serial('-nographic -qmp stdio'), null);
    assert.equal(serial('-nographic -nodefaults'), null);
    assert.equal(serial('-nographic -serial none'), null);
    assert.equal(serial('-nographic -machine none'), null);
    assert.equal(serial('-serial none -serial stdio'), 'stdio');
    assert.equal(serial('-serial mon:stdio'), 'stdio');
    assert.equal(serial('-serial file:/x'), 'file');
  });

  it('gives a monitor the chardev that it names', () => {
    const config = parse(
      '-chardev socket,id=c,path=/x,server=on,wait=off -chardev null,id=d -mon c,mode=control',
    );
    assert.deepEqual(
      config.chardevs.map(({ id }) => id),
      ['d'],
    );
    assert.equal(config.qmp[0]?.type, 'socket');
  });

  it('knows -action, -uuid and the flags', () => {
    const config = parse(
      '-action shutdown=pause,reboot=shutdown,panic=none -uuid 0A0B0C0D-0000-0000-0000-00000000000f -S',
    );
    assert.deepEqual([config.noShutdown, config.noReboot, config.startPaused], [true, true, true]);
    assert.equal(config.uuid, '0a0b0c0d-0000-0000-0000-00000000000f');
  });

  it('keeps the name spaces of different kinds apart', () => {
    parse('-chardev null,id=a -netdev user,id=a -object iothread,id=a -device e1000,id=a');
  });
});
