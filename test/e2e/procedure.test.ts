/**
 * QEMU's COLO-FT procedure, line by line, over real sockets and with a real guest: three generations of dying
 * primaries, at last a dying secondary. Only -enable-kvm is `-accel v86` and tap is `stream` here.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { LineConnection } from '../../src/demo/line-connection.ts';
import { Workload } from '../../src/demo/workload.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { ColoProcess, colo, until } from '../helpers/colo.ts';
import { QmpTypist } from '../helpers/qmp-typist.ts';

const run = promisify(execFile);
const image = process.env['COLO_GUEST_IMAGE'];
const skip = image === undefined ? 'set COLO_GUEST_IMAGE to a guest made by colo guest' : false;
const BOOT_MS = 300_000;
const STEP_MS = 60_000;

interface Machine {
  readonly process: ColoProcess;
  readonly qmp: QmpTypist;
  /** The file that is the guest's whole disk once the machine runs alone. */
  readonly disk: string;
}

let folder: string;
let network: ColoProcess;
let workload: Workload;
const machines: Machine[] = [];
let ports: { session: number; ledger: number };
let sizeBytes: number;
const troubles: string[] = [];

const switchPath = (): string => path.join(folder, 'switch.sock');
const common = (name: string): string[] =>
  (
    '-accel v86 -cpu qemu64,+kvmclock -m 512 -smp 1 -qmp stdio -vnc :0 -device piix3-usb-uhci -device usb-tablet ' +
    `-name ${name} -netdev stream,id=hn0,server=off,addr.type=unix,addr.path=${switchPath()} ` +
    '-device rtl8139,id=e0,netdev=hn0'
  ).split(' ');

function start(args: string[], disk: string): Machine {
  const process = new ColoProcess('vm', ...args);
  const machine = { process, qmp: new QmpTypist(process.child.stdout, process.child.stdin), disk };
  machines.push(machine);
  return machine;
}

function startPrimary(disk: string): Machine {
  const words =
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
    `children.0.file.filename=${disk},children.0.driver=qcow2 -S`;
  return start([...common('primary'), ...words.split(' ')], disk);
}

async function startSecondary(name: string, disk: string): Promise<Machine> {
  const active = path.join(folder, `${name}-active.qcow2`);
  const hidden = path.join(folder, `${name}-hidden.qcow2`);
  for (const file of [active, hidden]) await colo('img', 'create', '-f', 'qcow2', file, String(sizeBytes));
  const words =
    '-chardev socket,id=red0,host=127.0.0.1,port=9003,reconnect=1 ' +
    '-chardev socket,id=red1,host=127.0.0.1,port=9004,reconnect=1 ' +
    '-object filter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0 ' +
    '-object filter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1 ' +
    '-object filter-rewriter,id=rew0,netdev=hn0,queue=all ' +
    `-drive if=none,id=parent0,file.filename=${disk},driver=qcow2 ` +
    '-drive if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=childs0,' +
    `file.file.filename=${active},file.backing.driver=qcow2,file.backing.file.filename=${hidden},` +
    'file.backing.backing=parent0 ' +
    '-drive if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0=childs0 ' +
    '-incoming tcp:0:9998';
  return start([...common('secondary'), ...words.split(' ')], disk);
}

const CAPABILITIES = "{'execute':'qmp_capabilities'}";
const SECONDARY_LINES = [
  "{'execute':'nbd-server-start','arguments':{'addr':{'type':'inet','data':{'host':'127.0.0.2','port':'9999'}}}}",
  "{'execute':'nbd-server-add','arguments':{'device':'parent0','writable':true}}",
];
const ATTACH_LINES = [
  "{'execute':'human-monitor-command','arguments':{'command-line':'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,file.host=127.0.0.2,file.port=9999,file.export=parent0,node-name=replication0'}}",
  "{'execute':'x-blockdev-change','arguments':{'parent':'colo-disk0','node':'replication0'}}",
];
const MIGRATE_LINES = [
  "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[{'capability':'x-colo','state':true}]}}",
  "{'execute':'migrate','arguments':{'uri':'tcp:127.0.0.2:9998'}}",
];
const PRIMARY_FAILOVER_LINES = [
  "{'execute':'x-blockdev-change','arguments':{'parent':'colo-disk0','child':'children.1'}}",
  "{'execute':'human-monitor-command','arguments':{'command-line':'drive_del replication0'}}",
  "{'execute':'object-del','arguments':{'id':'comp0'}}",
  "{'execute':'object-del','arguments':{'id':'iothread1'}}",
  "{'execute':'object-del','arguments':{'id':'m0'}}",
  "{'execute':'object-del','arguments':{'id':'redire0'}}",
  "{'execute':'object-del','arguments':{'id':'redire1'}}",
  "{'execute':'x-colo-lost-heartbeat'}",
];
const SECONDARY_FAILOVER_LINES = [
  "{'execute':'nbd-server-stop'}",
  "{'execute':'x-colo-lost-heartbeat'}",
  "{'execute':'object-del','arguments':{'id':'f2'}}",
  "{'execute':'object-del','arguments':{'id':'f1'}}",
  "{'execute':'chardev-remove','arguments':{'id':'red1'}}",
  "{'execute':'chardev-remove','arguments':{'id':'red0'}}",
];
const chardevAdd = (id: string, port: number, server: boolean): string =>
  `{'execute':'chardev-add','arguments':{'id':'${id}','backend':{'type':'socket','data':{'addr':{'type':'inet','data':{'host':'127.0.0.1','port':'${port}'}},'server':${server}}}}}`;
const CHARDEV_LINES = [
  chardevAdd('mirror0', 9003, true),
  chardevAdd('compare1', 9004, true),
  chardevAdd('compare0', 9001, true),
  chardevAdd('compare0-0', 9001, false),
  chardevAdd('compare_out', 9005, true),
  chardevAdd('compare_out0', 9005, false),
];
const MIRROR_LINE =
  "{'execute':'drive-mirror','arguments':{'device':'colo-disk0','job-id':'resync','target':'nbd://127.0.0.2:9999/parent0','mode':'existing','format':'raw','sync':'full'}}";
/** The old form with props, which QEMU's document has, for some; the flat form for others. */
const RESUME_OBJECT_LINES = [
  "{'execute':'object-add','arguments':{'qom-type':'filter-mirror','id':'m0','props':{'insert':'before','position':'id=rew0','netdev':'hn0','queue':'tx','outdev':'mirror0'}}}",
  "{'execute':'object-add','arguments':{'qom-type':'filter-redirector','id':'redire0','insert':'before','position':'id=rew0','netdev':'hn0','queue':'rx','indev':'compare_out'}}",
  "{'execute':'object-add','arguments':{'qom-type':'filter-redirector','id':'redire1','insert':'before','position':'rew0','netdev':'hn0','queue':'rx','outdev':'compare0'}}",
  "{'execute':'object-add','arguments':{'qom-type':'iothread','id':'iothread1'}}",
  "{'execute':'object-add','arguments':{'qom-type':'colo-compare','id':'comp0','primary_in':'compare0-0','secondary_in':'compare1','outdev':'compare_out0','iothread':'iothread1'}}",
];

/** Of all events those that tell the story; checkpoints stop and resume the guest all the time. */
const STORY_BUT = [
  'STOP',
  'RESUME',
  'JOB_STATUS_CHANGE',
  'NETDEV_STREAM_CONNECTED',
  'NETDEV_STREAM_DISCONNECTED',
];

async function checkpoints(machine: Machine): Promise<number> {
  const said = (await machine.qmp.type("{'execute':'query-colo-checkpoints'}")) as { count: number };
  return said.count;
}

/** What the guest on `machine` sees as its disk, read over NBD, equals the file bit for bit (qemu-img's judgement). */
async function sameDisk(left: string, right: string): Promise<void> {
  const { stdout } = await run('qemu-img', ['compare', '-U', left, right]);
  assert.match(stdout, /Images are identical/);
}

/** The ledger in the image, after a replay of its journal as a boot would do, by e2fsprogs alone. */
async function ledgerOnDisk(disk: string): Promise<string[]> {
  const raw = path.join(folder, 'check.raw');
  await run('qemu-img', ['convert', '-U', '-O', 'raw', disk, raw]);
  const { stdout: table } = await run('sfdisk', ['-J', raw]);
  const parsed = JSON.parse(table) as { partitiontable: { partitions: { start: number; size: number }[] } };
  const data = parsed.partitiontable.partitions.at(-1)!;
  const part = path.join(folder, 'check.part');
  await run('dd', [`if=${raw}`, `of=${part}`, 'bs=512', `skip=${data.start}`, `count=${data.size}`]);
  await run('e2fsck', ['-fy', part]).catch((error: unknown) => {
    // 1: errors corrected (a journal to replay); more than that is damage.
    if ((error as { code?: number }).code !== 1) throw error;
  });
  const { stdout } = await run('debugfs', ['-R', 'cat /ledger', part], { maxBuffer: 1 << 26 });
  return stdout.split('\n').filter((line) => line !== '');
}

before(async () => {
  if (image === undefined) return;
  folder = await mkdtemp(path.join(os.tmpdir(), 'colo-procedure-'));
  const [session, ledger] = (await freePorts(2, ['127.0.0.1'])) as [number, number];
  ports = { session, ledger };
  network = new ColoProcess(
    'switch',
    '--listen',
    `unix:${switchPath()}`,
    '--nat',
    '--hostfwd',
    `tcp:127.0.0.1:${session}-10.0.2.15:7001`,
    '--hostfwd',
    `tcp:127.0.0.1:${ledger}-10.0.2.15:7000`,
    '--json',
  );
  await network.untilOutput(/\n/);
});

after(async () => {
  if (image === undefined) return;
  for (const { process } of machines) await process.kill();
  await network.kill();
  await rm(folder, { recursive: true, force: true });
});

async function protectedBy(primary: Machine, secondary: Machine, from: number): Promise<void> {
  await Promise.all([primary.qmp.event('RESUME', from, STEP_MS), secondary.qmp.event('RESUME', 0, STEP_MS)]);
  assert.deepEqual(await primary.qmp.type("{'execute':'query-migrate'}"), { status: 'colo' });
  const status = (await secondary.qmp.type("{'execute':'query-colo-status'}")) as { mode: string };
  assert.equal(status.mode, 'secondary');
}

async function newSecondary(generation: number): Promise<Machine> {
  const disk = path.join(folder, `parent-${generation}.qcow2`);
  await colo('img', 'create', '-f', 'qcow2', disk, String(sizeBytes));
  const secondary = await startSecondary(`generation-${generation}`, disk);
  await secondary.qmp.greeted(STEP_MS);
  await secondary.qmp.typeAll([CAPABILITIES, ...SECONDARY_LINES]);
  return secondary;
}

/** SIGKILL for the primary; the lines of the document for the secondary; checks events, client and disk. */
async function primaryDies(primary: Machine, secondary: Machine): Promise<void> {
  const from = secondary.qmp.events.length;
  const killed = performance.now();
  await primary.process.kill();
  const answered = workload.firstReplyAfter(killed);
  await secondary.qmp.typeAll(SECONDARY_FAILOVER_LINES);
  await answered;
  const exit = await secondary.qmp.event('COLO_EXIT', from, STEP_MS);
  assert.equal(exit.data?.['mode'], 'secondary');
  const names = secondary.qmp.names(from);
  assert.ok(names.includes('BLOCK_EXPORT_DELETED'), names.join(' '));
  assert.ok(names.lastIndexOf('RESUME') > names.lastIndexOf('STOP'), 'the guest runs at the end');
  assert.deepEqual(await secondary.qmp.type("{'execute':'query-colo-status'}"), {
    'last-mode': 'secondary',
    mode: 'none',
    reason: 'request',
  });
  await until('the overlays are merged', STEP_MS, async () => {
    const jobs = await secondary.qmp.type("{'execute':'query-block-jobs'}");
    return (jobs as unknown[]).length === 0;
  });
}

/** With the guest stopped: the secondary's disk file is what its guest sees, and holds every acknowledged line. */
async function diskIsWhole(machine: Machine): Promise<void> {
  await machine.qmp.type("{'execute':'stop'}");
  await machine.qmp.type(
    `{'execute':'nbd-server-start','arguments':{'addr':{'type':'unix','data':{'path':'${folder}/check.sock'}}}}`,
  );
  await machine.qmp.type("{'execute':'nbd-server-add','arguments':{'device':'colo-disk0'}}");
  await sameDisk(`nbd+unix:///colo-disk0?socket=${folder}/check.sock`, machine.disk);
  await machine.qmp.type("{'execute':'nbd-server-stop'}");
  const lines = await ledgerOnDisk(machine.disk);
  for (const [number, text] of workload.acknowledged) {
    assert.equal(lines[number - 1], text, `ledger line ${number}`);
  }
  await machine.qmp.type("{'execute':'cont'}");
}

/** drive-mirror, cut, and COLO again, as the document resumes replication. */
async function resumeReplication(primary: Machine, secondary: Machine): Promise<void> {
  const from = primary.qmp.events.length;
  await primary.qmp.type(MIRROR_LINE);
  const ready = await primary.qmp.event('BLOCK_JOB_READY', from, STEP_MS);
  assert.deepEqual(Object.keys(ready.data ?? {}).sort(), ['device', 'len', 'offset', 'speed', 'type']);
  await primary.qmp.typeAll([
    "{'execute':'stop'}",
    "{'execute':'block-job-cancel','arguments':{'device':'resync'}}",
  ]);
  const completed = await primary.qmp.event('BLOCK_JOB_COMPLETED', from, STEP_MS);
  assert.equal(completed.data?.['error'], undefined);
  await sameDisk(primary.disk, secondary.disk);
  const stopped = primary.qmp.events.length;
  await primary.qmp.typeAll([...ATTACH_LINES, ...RESUME_OBJECT_LINES, ...MIGRATE_LINES]);
  await protectedBy(primary, secondary, stopped);
  assert.deepEqual(primary.qmp.names(from, STORY_BUT), ['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED']);
}

/** Whether the guest's service behind a forwarded port answers a line. */
async function serves(port: number): Promise<boolean> {
  try {
    const connection = await LineConnection.open('127.0.0.1', port, 2000);
    try {
      await connection.request('hello', 2000);
      return true;
    } finally {
      connection.close();
    }
  } catch {
    return false;
  }
}

test('the COLO-FT procedure through three generations', { skip, timeout: 1_200_000 }, async (t) => {
  const first = path.join(folder, 'primary.qcow2');
  const copy = path.join(folder, 'primary-copy.qcow2');
  await run('qemu-img', ['convert', '-O', 'qcow2', image!, first]);
  await copyFile(first, copy);
  sizeBytes = (JSON.parse(await colo('img', 'info', '--output=json', first)) as { 'virtual-size': number })[
    'virtual-size'
  ];

  let primary = startPrimary(first);
  // The primary waits for its comparer's peer (server,wait) before it greets.
  let secondary = await startSecondary('generation-1', copy);
  await Promise.all([primary.qmp.greeted(STEP_MS), secondary.qmp.greeted(STEP_MS)]);
  assert.match(primary.process.stderr, /rtl8139.*ne2k_pci instead/);

  await t.test('protected before its first instruction, the guest boots on both sides', async () => {
    await secondary.qmp.typeAll([CAPABILITIES, ...SECONDARY_LINES]);
    await primary.qmp.typeAll([CAPABILITIES, ...ATTACH_LINES, ...MIGRATE_LINES]);
    await protectedBy(primary, secondary, 0);
    workload = new Workload({
      host: '127.0.0.1',
      sessionPort: ports.session,
      ledgerPort: ports.ledger,
      intervalMs: 50,
      patienceMs: BOOT_MS,
      onTrouble: (what) => troubles.push(what),
    });
    await primary.qmp.type("{'execute':'migrate-set-parameters','arguments':{'x-checkpoint-delay':2000}}");
    // A guest that boots refuses connections before its services listen: that is no lost connection.
    await until(
      'the guest serves',
      BOOT_MS,
      async () => (await serves(ports.session)) && serves(ports.ledger),
    );
    workload.start();
    await workload.firstReplyAfter(0);
    await until('a few checkpoints', STEP_MS, async () => (await checkpoints(primary)) >= 3);
  });

  for (const generation of [1, 2, 3]) {
    await t.test(
      `generation ${generation}: the primary dies, the guest goes on, a new secondary is made`,
      async () => {
        await primaryDies(primary, secondary);
        primary = secondary;
        await diskIsWhole(primary);
        await primary.qmp.typeAll(CHARDEV_LINES);
        secondary = await newSecondary(generation + 1);
        await resumeReplication(primary, secondary);
        await primary.qmp.type(
          "{'execute':'migrate-set-parameters','arguments':{'x-checkpoint-delay':2000}}",
        );
        await until('a few checkpoints', STEP_MS, async () => (await checkpoints(primary)) >= 2);
      },
    );
  }

  await t.test('at last the secondary dies, and the primary goes on alone', async () => {
    const from = primary.qmp.events.length;
    const killed = performance.now();
    await secondary.process.kill();
    const answered = workload.firstReplyAfter(killed);
    await primary.qmp.typeAll(PRIMARY_FAILOVER_LINES);
    await answered;
    const exit = await primary.qmp.event('COLO_EXIT', from, STEP_MS);
    assert.equal(exit.data?.['mode'], 'primary');
    await diskIsWhole(primary);
  });

  const report = await workload.stop();
  assert.deepEqual(troubles, []);
  assert.equal(report.connectionsLost, 0);
  assert.equal(report.ledgerLinesLost, 0);
  assert.ok(report.requests > 50, `${report.requests} requests`);
});
