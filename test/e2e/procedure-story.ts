/**
 * QEMU's COLO-FT procedure, line by line, over real sockets and with a real guest: generations of dying primaries, at
 * last a dying secondary. What executes the guest is a parameter; tap is `stream` here.
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
import { whyNoQemu } from '../interop/net/qemu.ts';
import { Desk } from './desk.ts';
import { ledgerOnDisk, sameDisk } from './guest-disk.ts';

import {
  CAPABILITIES,
  SECONDARY_LINES,
  ATTACH_LINES,
  MIGRATE_LINES,
  PRIMARY_FAILOVER_LINES,
  SECONDARY_FAILOVER_LINES,
  CHARDEV_LINES,
  MIRROR_LINE,
  RESUME_OBJECT_LINES,
  primaryWords,
  secondaryWords,
} from './procedure-lines.ts';

const run = promisify(execFile);
const BOOT_MS = 300_000;
const STEP_MS = 60_000;

/** What runs the guest of one story. */
export interface Procedure {
  readonly title: string;
  /** Made by colo guest. */
  readonly image: string | undefined;
  readonly skip: string | false;
  /** The document's words about the machine: accelerator, CPU, memory, USB. */
  readonly machine: string;
  /** How often the primary dies. */
  readonly generations: number;
  /** People sit at the screens of the first pair. */
  readonly isWatched?: boolean;
  /** What a VM must have warned of at its start. */
  readonly warning?: RegExp;
}

interface Machine {
  readonly process: ColoProcess;
  readonly qmp: QmpTypist;
  /** The file that is the guest's whole disk once the machine runs alone. */
  readonly disk: string;
  /** Where its screen is, when it has one. */
  readonly screen: string;
}

/**
 * Of all events those that tell the story; checkpoints stop and resume the guest all the time, and on a busy machine a
 * side may be silent for a moment.
 */
const STORY_BUT = [
  'STOP',
  'RESUME',
  'COLO_PEER_SILENT',
  'COLO_PEER_BACK',
  'COLO_COMPARE_REQUEST',
  'JOB_STATUS_CHANGE',
  'NETDEV_STREAM_CONNECTED',
  'NETDEV_STREAM_DISCONNECTED',
];

async function checkpoints(machine: Machine): Promise<number> {
  const said = (await machine.qmp.type("{'execute':'query-colo-checkpoints'}")) as { count: number };
  return said.count;
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

/** Declares the test. One to a file: the document's ports are the same in each. */
export function testProcedure(procedure: Procedure): void {
  const { image, skip } = procedure;
  let folder: string;
  let network: ColoProcess;
  let workload: Workload;
  const machines: Machine[] = [];
  let ports: { session: number; ledger: number };
  let sizeBytes: number;
  const troubles: string[] = [];
  /** At the primary, and at the secondary that takes over from it. */
  let desks: [Desk, Desk] | null = null;

  const switchPath = (): string => path.join(folder, 'switch.sock');
  const common = (name: string): string[] =>
    (
      `${procedure.machine} -qmp stdio ` +
      `-name ${name} -netdev stream,id=hn0,server=off,addr.type=unix,addr.path=${switchPath()} ` +
      '-device rtl8139,id=e0,netdev=hn0'
    ).split(' ');

  function start(args: string[], disk: string): Machine {
    const screen = path.join(folder, `screen-${machines.length}`);
    const words = procedure.isWatched === true ? ['-vnc', `unix:${screen}`] : [];
    const process = new ColoProcess('vm', ...args, ...words);
    const qmp = new QmpTypist(process.child.stdout, process.child.stdin);
    const machine = { process, qmp, disk, screen };
    machines.push(machine);
    return machine;
  }

  function startPrimary(disk: string): Machine {
    return start([...common('primary'), ...primaryWords(disk)], disk);
  }

  async function startSecondary(name: string, disk: string): Promise<Machine> {
    const active = path.join(folder, `${name}-active.qcow2`);
    const hidden = path.join(folder, `${name}-hidden.qcow2`);
    for (const file of [active, hidden]) await colo('img', 'create', '-f', 'qcow2', file, String(sizeBytes));
    return start([...common('secondary'), ...secondaryWords(disk, active, hidden)], disk);
  }

  before(async () => {
    if (skip !== false) return;
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
    if (skip !== false) return;
    for (const desk of desks ?? []) desk.leave();
    for (const { process } of machines) await process.kill();
    await network.kill();
    await rm(folder, { recursive: true, force: true });
  });

  async function protectedBy(primary: Machine, secondary: Machine, from: number): Promise<void> {
    await Promise.all([
      primary.qmp.event('RESUME', from, STEP_MS),
      secondary.qmp.event('RESUME', 0, STEP_MS),
    ]);
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

  /** One client is cut off with its host; the other, who only looked, has lost nothing and is heard now. */
  async function screenGoesOn(): Promise<void> {
    if (!desks) return;
    const [theirs, ours] = desks;
    await theirs.cutOff();
    await ours.seesMore();
    await ours.capsLight(true);
    ours.pressCapsLock();
    await ours.capsLight(false);
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
    const lines = await ledgerOnDisk(machine.disk, folder);
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

  test(procedure.title, { skip, timeout: 1_200_000 }, async (t) => {
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
    if (procedure.warning) assert.match(primary.process.stderr, procedure.warning);

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

    if (procedure.isWatched === true) {
      await t.test('each side has a screen, and what is typed at the primary reaches both', async () => {
        const [theirs, ours] = (desks = [await Desk.at(primary.screen), await Desk.at(secondary.screen)]);
        theirs.pressCapsLock();
        await theirs.capsLight(true);
        await primary.qmp.type("{'execute':'x-colo-checkpoint'}");
        await ours.capsLight(true);
        // Read-only as yet.
        ours.pressCapsLock();
        const from = await checkpoints(primary);
        await primary.qmp.type("{'execute':'x-colo-checkpoint'}");
        await until('another process', STEP_MS, async () => (await checkpoints(primary)) > from);
        await Promise.all([theirs.seesMore(), ours.seesMore()]);
      });
    }

    for (let generation = 1; generation <= procedure.generations; generation++) {
      await t.test(
        `generation ${generation}: the primary dies, the guest goes on, a new secondary is made`,
        async () => {
          await primaryDies(primary, secondary);
          await screenGoesOn();
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
      // The same connection as ever.
      await desks?.[1].seesMore();
    });

    const report = await workload.stop();
    assert.deepEqual(troubles, []);
    assert.equal(report.connectionsLost, 0);
    assert.equal(report.ledgerLinesLost, 0);
    assert.ok(report.requests > 50, `${report.requests} requests`);
  });
}

/** The procedure on a stock QEMU. */
export function stockQemuProcedure(how: {
  vcpus: number;
  generations: number;
  isWatched?: boolean;
}): Procedure {
  const image = process.env['COLO_GUEST_IMAGE_AMD64'];
  return {
    title: `the COLO-FT procedure on QEMU, vCPUs: ${how.vcpus}, generations: ${how.generations}`,
    image,
    skip: whyNoQemu() || (image === undefined ? 'set COLO_GUEST_IMAGE_AMD64 to an amd64 guest' : false),
    machine:
      `-accel tcg -cpu qemu64,+kvmclock -m 512 -smp ${how.vcpus} ` +
      '-device piix3-usb-uhci -device usb-tablet',
    generations: how.generations,
    isWatched: how.isWatched === true,
  };
}
