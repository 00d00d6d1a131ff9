// The two command lines of QEMU's COLO guide (docs/COLO-FT.txt), whole, old spellings and current ones.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseChardevOptions } from '../../../src/chardev/options.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';

const COMMON =
  '-enable-kvm -cpu qemu64,+kvmclock -m 512 -smp 1 -qmp stdio -vnc :0 -device piix3-usb-uhci -device usb-tablet ';
const NIC =
  '-netdev tap,id=hn0,vhost=off,helper=/usr/lib/qemu/qemu-bridge-helper -device rtl8139,id=e0,netdev=hn0 ';

const PRIMARY =
  `${COMMON}-name primary ${NIC}` +
  '-chardev socket,id=mirror0,host=127.0.0.1,port=9003,server,nowait ' +
  '-chardev socket,id=compare1,host=127.0.0.1,port=9004,server,wait ' +
  '-chardev socket,id=compare0,host=127.0.0.1,port=9001,server,nowait ' +
  '-chardev socket,id=compare0-0,host=127.0.0.1,port=9001 ' +
  '-chardev socket,id=compare_out,host=127.0.0.1,port=9005,server,nowait ' +
  '-chardev socket,id=compare_out0,host=127.0.0.1,port=9005 ' +
  '-object filter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0 ' +
  '-object filter-redirector,netdev=hn0,id=redire0,queue=rx,indev=compare_out ' +
  '-object filter-redirector,netdev=hn0,id=redire1,queue=rx,outdev=compare0 ' +
  '-object iothread,id=iothread1 ' +
  '-object colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,outdev=compare_out0,iothread=iothread1 ' +
  '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,' +
  'children.0.file.filename=/images/primary.qcow2,children.0.driver=qcow2 -S';

const SECONDARY =
  `${COMMON}-name secondary ${NIC}` +
  '-chardev socket,id=red0,host=127.0.0.1,port=9003,reconnect=1 ' +
  '-chardev socket,id=red1,host=127.0.0.1,port=9004,reconnect=1 ' +
  '-object filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0 ' +
  '-object filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1 ' +
  '-object filter-rewriter,id=rew0,netdev=hn0,queue=all ' +
  '-drive if=none,id=parent0,file.filename=/images/secondary.qcow2,driver=qcow2 ' +
  '-drive if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=childs0,' +
  'file.file.filename=/images/active.qcow2,file.backing.driver=qcow2,' +
  'file.backing.file.filename=/images/hidden.qcow2,file.backing.backing=parent0 ' +
  '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0 ' +
  '-incoming tcp:0:9998';

const plain = (options: object): Record<string, unknown> => ({ ...options });
const server = (id: string, port: string, wait: string): object => {
  return { backend: 'socket', id, host: '127.0.0.1', port, server: 'on', wait };
};
const client = (id: string, port: string): object => ({ backend: 'socket', id, host: '127.0.0.1', port });

test('the primary', () => {
  const config = parseCommandLine(PRIMARY.split(' '));
  assert.deepEqual(
    {
      name: config.name,
      machine: config.machine,
      accel: config.accel,
      memoryBytes: config.memoryBytes,
      qmp: config.qmp,
      incoming: config.incoming,
      startPaused: config.startPaused,
    },
    {
      name: 'primary',
      machine: 'pc',
      accel: 'kvm',
      memoryBytes: 512 * 1024 * 1024,
      qmp: [{ type: 'stdio' }],
      incoming: null,
      startPaused: true,
    },
  );
  assert.deepEqual(config.chardevs.map(plain), [
    server('mirror0', '9003', 'off'),
    server('compare1', '9004', 'on'),
    server('compare0', '9001', 'off'),
    client('compare0-0', '9001'),
    server('compare_out', '9005', 'off'),
    client('compare_out0', '9005'),
  ]);
  assert.deepEqual(config.objects.map(plain), [
    { 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0', queue: 'tx', outdev: 'mirror0' },
    { 'qom-type': 'filter-redirector', netdev: 'hn0', id: 'redire0', queue: 'rx', indev: 'compare_out' },
    { 'qom-type': 'filter-redirector', netdev: 'hn0', id: 'redire1', queue: 'rx', outdev: 'compare0' },
    { 'qom-type': 'iothread', id: 'iothread1' },
    {
      'qom-type': 'colo-compare',
      id: 'comp0',
      primary_in: 'compare0-0',
      secondary_in: 'compare1',
      outdev: 'compare_out0',
      iothread: 'iothread1',
    },
  ]);
  assert.deepEqual(config.netdevs.map(plain), [
    { type: 'tap', id: 'hn0', vhost: 'off', helper: '/usr/lib/qemu/qemu-bridge-helper' },
  ]);
  assert.deepEqual(
    config.devices.map(({ driver, options }) => [driver, plain(options)]),
    [
      ['piix3-usb-uhci', {}],
      ['usb-tablet', {}],
      ['rtl8139', { id: 'e0', netdev: 'hn0' }],
    ],
  );
  assert.deepEqual(config.drives.map(plain), [
    {
      if: 'ide',
      id: 'colo-disk0',
      driver: 'quorum',
      'read-pattern': 'fifo',
      'vote-threshold': '1',
      'children.0.file.filename': '/images/primary.qcow2',
      'children.0.driver': 'qcow2',
    },
  ]);
});

test('the secondary', () => {
  const config = parseCommandLine(SECONDARY.split(' '));
  assert.equal(config.name, 'secondary');
  assert.equal(config.incoming, 'tcp:0:9998');
  assert.equal(config.startPaused, false);
  assert.deepEqual(config.chardevs.map(plain), [
    { ...client('red0', '9003'), reconnect: '1' },
    { ...client('red1', '9004'), reconnect: '1' },
  ]);
  assert.deepEqual(
    config.objects.map(({ id, queue }) => [id, queue]),
    [
      ['f1', 'tx'],
      ['f2', 'rx'],
      ['rew0', 'all'],
    ],
  );
  assert.deepEqual(config.drives.map(plain), [
    { if: 'none', id: 'parent0', 'file.filename': '/images/secondary.qcow2', driver: 'qcow2' },
    {
      if: 'none',
      id: 'childs0',
      driver: 'replication',
      mode: 'secondary',
      'file.driver': 'qcow2',
      'top-id': 'childs0',
      'file.file.filename': '/images/active.qcow2',
      'file.backing.driver': 'qcow2',
      'file.backing.file.filename': '/images/hidden.qcow2',
      'file.backing.backing': 'parent0',
    },
    {
      if: 'ide',
      id: 'colo-disk0',
      driver: 'quorum',
      'read-pattern': 'fifo',
      'vote-threshold': '1',
      'children.0': 'childs0',
    },
  ]);
});

test('the current spellings mean the same, and every chardev of both lines can be opened as it stands', () => {
  const current = PRIMARY.replaceAll('server,nowait', 'server=on,wait=off').replace(
    'server,wait',
    'server=on,wait=on',
  );
  assert.notEqual(current, PRIMARY);
  assert.deepEqual(parseCommandLine(current.split(' ')), parseCommandLine(PRIMARY.split(' ')));
  const [old, now] = [SECONDARY, SECONDARY.replaceAll('reconnect=1', 'reconnect-ms=1000')].map((line) =>
    parseCommandLine(line.split(' ')).chardevs.map(parseChardevOptions),
  );
  assert.deepEqual(now, old);
  const primary = parseCommandLine(PRIMARY.split(' ')).chardevs.map(parseChardevOptions);
  assert.deepEqual(
    primary.map((config) => config.backend === 'socket' && [config.server, config.wait]),
    [
      [true, false],
      [true, true],
      [true, false],
      [false, false],
      [true, false],
      [false, false],
    ],
  );
});

test('what goes to QEMU is passed on, and without -enable-kvm what the engine is not like is told', () => {
  const config = parseCommandLine(PRIMARY.split(' '));
  assert.deepEqual(config.warnings, []);
  assert.equal(config.vnc, ':0');
  const { args, accelerators } = config.qemu;
  assert.deepEqual(accelerators, [{ name: 'kvm', text: 'kvm' }]);
  for (const pair of ['-cpu qemu64,+kvmclock', '-smp 1']) {
    const at = args.indexOf(pair.split(' ')[0]!);
    assert.equal(args.slice(at, at + 2).join(' '), pair);
  }
  const warned = parseCommandLine(PRIMARY.replace('-enable-kvm ', '').split(' ')).warnings;
  assert.deepEqual(
    warned.map((text) => text.split(':')[0]),
    ['-cpu qemu64,+kvmclock', '-vnc '],
  );
});
