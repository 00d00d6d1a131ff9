import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseOptions, parseSize } from '../../../src/vm/command-line/keyval.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';

const PRIMARY =
  '-enable-kvm -cpu qemu64,+kvmclock -m 512 -smp 1 -qmp stdio -vnc :0 -device piix3-usb-uhci -device usb-tablet ' +
  '-name primary -netdev tap,id=hn0,vhost=off,helper=/usr/lib/qemu/qemu-bridge-helper ' +
  '-device rtl8139,id=e0,netdev=hn0 ' +
  '-chardev socket,id=mirror0,host=127.0.0.1,port=9003,server,nowait ' +
  '-chardev socket,id=compare1,host=127.0.0.1,port=9004,server,wait ' +
  '-chardev socket,id=compare0-0,host=127.0.0.1,port=9001 ' +
  '-object filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0 ' +
  '-object iothread,id=iothread1 ' +
  '-object colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,outdev=compare_out0,iothread=iothread1 ' +
  '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,' +
  'children.0.file.filename=/images/primary.qcow2,children.0.driver=qcow2 -S';

const plain = (options: object): Record<string, unknown> => ({ ...options });

describe('command line', () => {
  it('takes the primary of the COLO procedure as it stands', () => {
    const config = parseCommandLine(PRIMARY.split(' '));
    assert.equal(config.accel, 'kvm');
    assert.equal(config.name, 'primary');
    assert.equal(config.memoryBytes, 512 * 1024 * 1024);
    assert.deepEqual(config.qmp, [{ type: 'stdio' }]);
    assert.equal(config.startPaused, true);
    assert.deepEqual(config.chardevs.map(plain), [
      { backend: 'socket', id: 'mirror0', host: '127.0.0.1', port: '9003', server: 'on', wait: 'off' },
      { backend: 'socket', id: 'compare1', host: '127.0.0.1', port: '9004', server: 'on', wait: 'on' },
      { backend: 'socket', id: 'compare0-0', host: '127.0.0.1', port: '9001' },
    ]);
    assert.deepEqual(
      config.objects.map((object) => object['qom-type']),
      ['filter-mirror', 'iothread', 'colo-compare'],
    );
    assert.deepEqual(plain(config.drives[0]!), {
      if: 'ide',
      id: 'colo-disk0',
      driver: 'quorum',
      'read-pattern': 'fifo',
      'vote-threshold': '1',
      'children.0.file.filename': '/images/primary.qcow2',
      'children.0.driver': 'qcow2',
    });
    assert.deepEqual(
      config.devices.map(({ driver }) => driver),
      ['piix3-usb-uhci', 'usb-tablet', 'rtl8139'],
    );
    assert.equal(config.warnings.length, 1, 'only -vnc changes nothing');
  });

  it('reads old and new spellings alike', () => {
    assert.deepEqual(plain(parseOptions('socket,server,nowait', 'backend')), {
      backend: 'socket',
      server: 'on',
      wait: 'off',
    });
    assert.deepEqual(plain(parseOptions('socket,server=on,wait=off', 'backend')), {
      backend: 'socket',
      server: 'on',
      wait: 'off',
    });
  });

  it('keeps doubled commas in values and odd keys out of the prototype', () => {
    const options = parseOptions('file=a,,b.raw,__proto__=x,id=d');
    assert.equal(options['file'], 'a,b.raw');
    assert.equal(options['__proto__'], 'x');
    assert.equal(({} as Record<string, unknown>)['x'], undefined);
  });

  it('names the option that is wrong', () => {
    const cases: [string[], RegExp][] = [
      [['-foo'], /^-foo: invalid option$/],
      [['-m'], /^-m: requires an argument$/],
      [['-smp', '2'], /^-smp 2: the v86 engine has one CPU$/],
      [['-m', '9T'], /^-m 9T: /],
      [['-machine', 'virt'], /^-machine virt: unsupported machine type/],
      [['-monitor', 'stdio'], /^-monitor stdio: there is no human monitor/],
      [['-serial', 'pty'], /^-serial pty: 'pty' is not a character device/],
      [['-accel', 'hvf'], /^-accel hvf: invalid accelerator hvf$/],
      [['-netdev', '{bad'], /^-netdev \{bad: Invalid JSON/],
    ];
    for (const [args, text] of cases) assert.throws(() => parseCommandLine(args), { message: text });
  });

  it('takes JSON where QEMU does', () => {
    const config = parseCommandLine([
      '-netdev',
      '{"type":"stream","id":"n0","server":false,"addr":{"type":"unix","path":"/x"}}',
    ]);
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
