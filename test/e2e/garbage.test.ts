/**
 * Bad input from outside, to the program as a user starts it: one line and an exit status at start-up, an error with
 * QEMU's class afterwards, and garbage on any of its sockets changes nothing. No image is harmed.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { freePorts } from '../../src/demo/free-ports.ts';
import { QmpClient, QmpCommandError } from '../../src/qmp/client.ts';
import { ColoProcess, colo, until } from '../helpers/colo.ts';

const START_MS = 60_000;
let folder: string;
let image: string;
let digest: string;

const sha256 = async (file: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(file))
    .digest('hex');

before(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-garbage-'));
  image = path.join(folder, 'disk.qcow2');
  await colo('img', 'create', '-f', 'qcow2', image, '64M');
  digest = await sha256(image);
});

after(() => rm(folder, { recursive: true, force: true }));

/** Runs to its end; returns exit status and standard error. */
async function fails(...args: string[]): Promise<{ status: number | null; stderr: string }> {
  const process = new ColoProcess('vm', ...args);
  process.child.stdout.resume();
  const [status] = (await once(process.child, 'close')) as [number | null];
  return { status, stderr: process.stderr };
}

describe('at start-up', () => {
  const none = ['-machine', 'none'];
  const cases: [string, () => string[] | Promise<string[]>, RegExp][] = [
    ['an unknown option', () => ['-frobnicate'], /-frobnicate: invalid option/],
    [
      'a missing image',
      () => [...none, '-drive', `if=none,id=d,file=${folder}/absent.qcow2`],
      /absent\.qcow2/,
    ],
    ['an unknown device', () => ['-device', 'flux-capacitor'], /flux-capacitor/],
    ['two CPUs', () => ['-smp', '2'], /-smp 2/],
    [
      'a QEMU that is not there',
      () => ['-enable-kvm', '--qemu', '/nowhere/qemu'],
      /-enable-kvm: .nowhere.qemu cannot be run/,
    ],
    ['a netdev that is not there', () => ['-device', 'ne2k_pci,netdev=nowhere'], /nowhere/],
    [
      'a filter on no netdev',
      () => [...none, '-object', 'filter-mirror,id=m0,netdev=x,outdev=y'],
      /m0|netdev/,
    ],
    [
      'disks of different sizes in a quorum',
      async () => {
        const other = path.join(folder, 'other.qcow2');
        await colo('img', 'create', '-f', 'qcow2', other, '32M');
        const children = [image, other].map(
          (file, at) => `children.${at}.driver=qcow2,children.${at}.file.filename=${file}`,
        );
        return [...none, '-drive', `if=none,id=q,driver=quorum,vote-threshold=1,${children.join()}`];
      },
      /67108864 bytes.*33554432 bytes/,
    ],
    [
      'a port in use',
      async () => {
        const server = net.createServer().listen(0, '127.0.0.1').unref();
        await once(server, 'listening');
        const { port } = server.address() as net.AddressInfo;
        return [...none, '-chardev', `socket,id=c0,host=127.0.0.1,port=${port},server=on,wait=off`];
      },
      /c0.*in use/,
    ],
  ];
  for (const [what, args, text] of cases) {
    it(`${what}: one line, and an exit status`, async () => {
      const { status, stderr } = await fails(...(await args()));
      assert.equal(status, 1, stderr);
      const errors = stderr.split('\n').filter((line) => line !== '' && !line.includes('warning:'));
      assert.equal(errors.length, 1, stderr);
      assert.match(errors[0]!, /^colo vm: /);
      assert.match(errors[0]!, text);
      assert.equal(await sha256(image), digest);
    });
  }
});

describe('while it runs', () => {
  let vm: ColoProcess;
  let qmp: QmpClient;
  let ports: [number, number, number];

  before(async () => {
    ports = (await freePorts(3, ['127.0.0.1'])) as [number, number, number];
    const [chardev, nbd, netdev] = ports;
    vm = new ColoProcess(
      ...['vm', '-machine', 'none', '-nodefaults', '-nographic', '-display', 'none', '-monitor', 'none'],
      ...['-serial', 'none', '-qmp', `unix:${folder}/qmp,server=on,wait=off`],
      ...['-netdev', `stream,id=n0,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=${netdev}`],
      ...['-chardev', `socket,id=c0,host=127.0.0.1,port=${chardev},server=on,wait=off`],
      ...['-object', 'filter-redirector,id=r0,netdev=n0,queue=rx,indev=c0'],
      ...['-drive', `if=none,id=parent0,driver=qcow2,file.filename=${image}`],
    );
    await until('the monitor is there', START_MS, async () => {
      assert.ok(vm.isAlive, vm.stderr);
      qmp = await QmpClient.connect({ path: `${folder}/qmp` }).catch(() => null!);
      // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- null until it connects
      return qmp !== null;
    });
    await qmp.execute('nbd-server-start', {
      addr: { type: 'inet', data: { host: '127.0.0.1', port: String(nbd) } },
    });
    await qmp.execute('nbd-server-add', { device: 'parent0', writable: true });
  });

  after(async () => {
    qmp.close();
    await vm.kill();
  });

  const refused: [string, Record<string, unknown>, string, RegExp][] = [
    ['no-such-command', {}, 'CommandNotFound', /no-such-command/],
    ['migrate', {}, 'GenericError', /Parameter 'uri' is missing/],
    ['migrate', { uri: 'carrier:pigeon' }, 'GenericError', /'uri' expects a valid migration protocol/],
    ['migrate-set-parameters', { 'x-checkpoint-delay': -1 }, 'GenericError', /expects uint32_t/],
    ['x-blockdev-change', { parent: 'nowhere', node: 'x' }, 'GenericError', /Cannot find device='nowhere'/],
    ['x-colo-lost-heartbeat', {}, 'GenericError', /not in COLO mode/],
    ['object-del', { id: 'comp0' }, 'GenericError', /object 'comp0' not found/],
    ['chardev-remove', { id: 'c0' }, 'GenericError', /'c0' is busy/],
    ['block-job-cancel', { device: 'resync' }, 'DeviceNotActive', /Block job 'resync' not found/],
    ['nbd-server-add', { device: 'nowhere' }, 'GenericError', /Cannot find device='nowhere'/],
  ];
  for (const [command, args, className, text] of refused) {
    it(`refuses ${command} ${JSON.stringify(args)}`, async () => {
      await assert.rejects(qmp.execute(command, args), (error) => {
        assert.ok(error instanceof QmpCommandError, String(error));
        assert.equal(error.class, className);
        assert.match(error.desc, text);
        return true;
      });
    });
  }

  it('goes on whatever comes in at its sockets, and the image is as it was', async () => {
    const noise = Buffer.from(Array.from({ length: 200_000 }, (_, at) => (at * 2654435761) >>> 24));
    const huge = Buffer.from([0x7f, 0xff, 0xff, 0xff, ...noise.subarray(0, 1000)]);
    for (const target of [...ports, `${folder}/qmp`]) {
      for (const bytes of [noise, huge, Buffer.alloc(4096), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
        const socket = typeof target === 'number' ? net.connect(target, '127.0.0.1') : net.connect(target);
        socket.on('error', () => undefined).resume();
        // What is left of it goes when the peer has had it all, or has closed.
        socket.write(bytes, () => socket.destroy());
        await once(socket, 'close');
      }
    }
    const status = (await qmp.execute('query-status')) as { status: string };
    assert.equal(status.status, 'running');
    assert.ok(vm.isAlive);
    await qmp.execute('nbd-server-stop');
    await qmp.execute('quit');
    assert.equal(await sha256(image), digest);
  });
});
