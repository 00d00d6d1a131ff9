/**
 * The procedure's steps with two disks and two NICs, on both engines, between real processes. The guest has no system: it
 * runs its firmware, which is enough to be protected. Every step that a daemon may have to repeat is run twice.
 */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ColoError } from '../../src/base/errors.ts';
import { createQcow2 } from '../../src/block/drivers/qcow2/create.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { HOSTS } from '../../src/demo/pair.ts';
import { VmProcess } from '../../src/demo/vm-process.ts';
import { firstPrimaryArguments, secondaryArguments } from '../../src/ha/command-line.ts';
import type { PairLinks } from '../../src/ha/pair-links.ts';
import {
  addPrimaryChardevs,
  awaitResync,
  exportSecondaryDisks,
  failoverPrimary,
  failoverSecondary,
  removePrimaryChardevs,
  resumeReplication,
  resyncProgress,
  startResync,
} from '../../src/ha/procedure.ts';
import type { Qmp } from '../../src/ha/procedure.ts';
import type { VmDisk } from '../../src/ha/room.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import { makeTlsFolder } from '../../src/ha/tls-folder.ts';
import { startSwitch } from '../../src/switch/index.ts';
import type { RunningSwitch } from '../../src/switch/index.ts';
import { makeCertificates } from '../helpers/certificates.ts';
import type { Certificates } from '../helpers/certificates.ts';
import { COLO, until } from '../helpers/colo.ts';
import { whyNoQemu } from '../interop/net/qemu.ts';
import { spec as specOf } from '../unit/ha/pair-fixtures.ts';

process.env['COLO_PROGRAM'] ??= COLO;
const STEP_MS = 60_000;
const SIZES = [8 * 1024 * 1024, 5 * 1024 * 1024];

const ENGINES: readonly { name: string; skip: string | false; vm: (base: VmSpec) => VmSpec }[] = [
  { name: 'the embedded engine', skip: false, vm: (base) => base },
  {
    name: 'a QEMU, with TLS on every link',
    skip: whyNoQemu(),
    vm: (base) => ({
      ...base,
      engine: 'tcg',
      cpus: 2,
      disks: [
        { id: 'disk0', interface: 'virtio' },
        { id: 'disk1', interface: 'scsi' },
      ],
      nics: base.nics.map((nic) => ({ ...nic, model: 'virtio-net-pci' })),
    }),
  },
];

for (const { name, skip, vm } of ENGINES) {
  describe(`two disks and two NICs on ${name}`, { skip, timeout: 300_000 }, () => {
    let folder = '';
    let network: RunningSwitch | null = null;
    let spec = specOf();
    const started: VmProcess[] = [];
    let primary: VmProcess;
    let primaryDisks: VmDisk[];
    let secondary: VmProcess;
    let secondaryDisks: VmDisk[];
    let generation = 0;
    let certificates: Certificates | null = null;

    const makeDisks = async (overlaysOf?: readonly VmDisk[]): Promise<VmDisk[]> => {
      const at = path.join(folder, `disks${generation++}`);
      await mkdir(at);
      return Promise.all(
        SIZES.map(async (sizeBytes, index) => {
          const file = (kind: string): string => path.join(at, `disk${index}-${kind}.qcow2`);
          const old = overlaysOf?.[index]?.image;
          const made = { image: old ?? file('image'), active: file('active'), hidden: file('hidden') };
          for (const one of Object.values(made)) if (one !== old) await createQcow2(one, { sizeBytes });
          return { id: `disk${index}`, sizeBytes, ...made };
        }),
      );
    };
    const start = async (host: string, args: readonly string[]): Promise<VmProcess> => {
      const process = await VmProcess.start(`vm${started.length}`, host, folder, args);
      started.push(process);
      return process;
    };
    const io = async (process: VmProcess, disk: string, line: string): Promise<string> =>
      String(
        await process.qmp.execute('human-monitor-command', { 'command-line': `qemu-io ${disk} "${line}"` }),
      );
    const holds = async (process: VmProcess, pattern: string, offset: string): Promise<void> => {
      for (const disk of ['colo-disk0', 'colo-disk1']) {
        const said = await io(process, disk, `read -P ${pattern} ${offset} 64k`);
        assert.match(said, /^read 65536\/65536/, `${disk} at ${offset}: ${said}`);
        assert.doesNotMatch(said, /verification failed/i, `${disk} at ${offset}`);
      }
    };
    const writes = async (process: VmProcess, pattern: string, offset: string): Promise<void> => {
      for (const disk of ['colo-disk0', 'colo-disk1'])
        assert.match(await io(process, disk, `write -P ${pattern} ${offset} 64k`), /^wrote 65536\/65536/);
    };
    const newSecondary = async (oldDisks?: readonly VmDisk[]): Promise<PairLinks> => {
      // The certificate is for one address.
      const host = primary.host === HOSTS[0] && certificates === null ? HOSTS[1] : HOSTS[0];
      const ports = await freePorts(6, HOSTS);
      const links: PairLinks = {
        primaryHost: primary.host,
        secondaryHost: host,
        nics: [0, 1].map((at) => ({
          id: `nic${at}`,
          mirrorPort: ports[2 * at]!,
          comparePort: ports[2 * at + 1]!,
        })),
        nbdPort: ports[4]!,
        migrationPort: ports[5]!,
        ...(certificates === null ? {} : { tlsFolder: path.join(folder, 'tls') }),
      };
      secondaryDisks = await makeDisks(oldDisks);
      for (let twice = 0; twice < 2; twice++) await addPrimaryChardevs(primary.qmp, spec, links);
      secondary = await start(host, secondaryArguments(spec, secondaryDisks, links));
      for (let twice = 0; twice < 2; twice++) await exportSecondaryDisks(secondary.qmp, spec, links);
      return links;
    };
    const protect = async (links: PairLinks, bitmap?: string): Promise<void> => {
      for (let twice = 0; twice < 2; twice++) await startResync(primary.qmp, spec, links, bitmap);
      await awaitResync(primary.qmp, spec);
      await resumeReplication(primary.qmp, spec, links);
      await checkpoint();
    };
    const checkpoint = async (): Promise<void> => {
      const count = async (): Promise<number> =>
        ((await primary.qmp.execute('query-colo-checkpoints')) as { count: number }).count;
      await until('COLO has begun', STEP_MS, async () => {
        const { status, ...why } = (await primary.qmp.execute('query-migrate')) as { status: string };
        assert.notEqual(status, 'failed', JSON.stringify(why));
        return status === 'colo';
      });
      const seen = await count();
      await primary.qmp.execute('x-colo-checkpoint');
      await until('a checkpoint', STEP_MS, async () => (await count()) > seen);
    };
    const stateOf = async (process: VmProcess): Promise<string> =>
      ((await process.qmp.execute('query-status')) as { status: string }).status;
    const leftIn = async (process: VmProcess): Promise<string[]> => {
      const objects = (await process.qmp.execute('qom-list', { path: '/objects' })) as { name: string }[];
      const chardevs = (await process.qmp.execute('query-chardev')) as { label: string }[];
      const jobs = (await process.qmp.execute('query-block-jobs')) as { device: string; type: string }[];
      const nodes = (await process.qmp.execute('query-named-block-nodes')) as { 'node-name': string }[];
      return [
        ...objects.map((object) => object.name).filter((id) => /^(m|redire|comp|f|iothread)\d/.test(id)),
        ...chardevs.map(({ label }) => label).filter((id) => /^(mirror|compare|red)/.test(id)),
        ...jobs.filter(({ type }) => type === 'mirror').map(({ device }) => device),
        ...nodes.map((node) => node['node-name']).filter((id) => id.startsWith('replication')),
      ];
    };

    before(async () => {
      if (skip !== false) return;
      folder = await mkdtemp(path.join(os.tmpdir(), 'colo-many-'));
      if (name.includes('TLS')) {
        certificates = await makeCertificates();
        const file = (kind: string): string => path.join(certificates?.dir ?? '', `${kind}.pem`);
        const own = { ca: file('ca-cert'), cert: file('host-cert'), key: file('host-key') };
        await makeTlsFolder(own, path.join(folder, 'tls'));
      }
      const edge = { kind: 'switch', address: `unix:${path.join(folder, 'switch.sock')}` } as const;
      network = await startSwitch({ listen: [edge.address] });
      const base = vm(specOf({ disks: 2, nics: 2 }));
      spec = { ...base, memoryMiB: 32, nics: base.nics.map((nic) => ({ ...nic, edge })) };
      primaryDisks = await makeDisks();
      primary = await start(HOSTS[0], firstPrimaryArguments(spec, primaryDisks));
    });

    after(async () => {
      for (const process of started) await process.kill();
      await network?.close();
      await certificates?.remove();
      await rm(folder, { recursive: true, force: true });
    });

    it('become a pair, after the copy of both disks', async () => {
      await writes(primary, '0x11', '0');
      await protect(await newSecondary());
      await writes(primary, '0x22', '1M');
      await checkpoint();
    });

    it('a survivor of the primary has both disks, and takes over once', async () => {
      const old = primaryDisks;
      await primary.kill();
      for (let twice = 0; twice < 2; twice++) await failoverSecondary(secondary.qmp, spec);
      assert.equal(await stateOf(secondary), 'running');
      primary = secondary;
      primaryDisks = secondaryDisks;
      secondaryDisks = old;
      await holds(primary, '0x11', '0');
      await holds(primary, '0x22', '1M');
      assert.deepEqual(await leftIn(primary), []);
    });

    it('a survivor is protected by the old disks, of which only what changed is copied', async () => {
      await writes(primary, '0x33', '2M');
      await until('the overlays are merged', STEP_MS, async () => {
        const jobs = (await primary.qmp.execute('query-block-jobs')) as { type: string }[];
        return jobs.every(({ type }) => type !== 'commit');
      });
      const links = await newSecondary(secondaryDisks);
      await startResync(primary.qmp, spec, links, 'parted');
      await awaitResync(primary.qmp, spec);
      const { totalBytes, doneBytes, isReady } = await resyncProgress(primary.qmp, spec);
      assert.ok(isReady && doneBytes === totalBytes && totalBytes < SIZES[0]! / 2, `${totalBytes} bytes`);
      await protect(links, 'parted');
      await holds(primary, '0x33', '2M');
    });

    it('a primary goes on without its secondary, once, and can have another one', async () => {
      await assert.rejects(removePrimaryChardevs(primary.qmp, spec), /is in use by a pair/);
      await secondary.kill();
      for (let twice = 0; twice < 2; twice++) await failoverPrimary(primary.qmp, spec);
      await removePrimaryChardevs(primary.qmp, spec);
      assert.equal(await stateOf(primary), 'running');
      assert.deepEqual(await leftIn(primary), []);
    });

    // The lines are the same on both engines.
    if (name === ENGINES[0]?.name)
      it('a daemon that dies behind any line of the way into COLO is no harm', async (t) => {
        const links = await newSecondary();
        let lines = 0;
        for (let isThrough = false; !isThrough; lines++) {
          await startResync(primary.qmp, spec, links);
          await awaitResync(primary.qmp, spec);
          let left = lines;
          const dying: Qmp = {
            execute: (command, args) => {
              isThrough ||= command === 'migrate';
              if (left-- > 0 && !isThrough) return primary.qmp.execute(command, args);
              return Promise.reject(new ColoError('the daemon has died'));
            },
          };
          await assert.rejects(resumeReplication(dying, spec, links), /the daemon has died/);
          await failoverPrimary(primary.qmp, spec);
          assert.equal(await stateOf(primary), 'running', `behind ${lines} lines`);
          assert.deepEqual(
            (await leftIn(primary)).filter((id) => !/^(mirror|compare)/.test(id)),
            [],
            `behind ${lines} lines`,
          );
        }
        t.diagnostic(`${lines} lines`);
        await protect(links);
        await secondary.kill();
        await failoverPrimary(primary.qmp, spec);
      });

    it('a copy that is broken off, and a secondary that is gone at the last moment, leave nothing', async () => {
      const links = await newSecondary();
      await assert.rejects(failoverSecondary(secondary.qmp, spec), /has no state of the guest/);
      await startResync(primary.qmp, { ...spec, resync: { bytesPerSecond: 65536 } }, links);
      assert.equal((await resyncProgress(primary.qmp, spec)).isReady, false);
      await assert.rejects(resumeReplication(primary.qmp, spec, links), /are not ready/);
      await failoverPrimary(primary.qmp, spec);
      await startResync(primary.qmp, spec, links);
      await awaitResync(primary.qmp, spec);
      await secondary.kill();
      await assert.rejects(resumeReplication(primary.qmp, spec, links));
      await removePrimaryChardevs(primary.qmp, spec);
      assert.equal(await stateOf(primary), 'running');
      assert.deepEqual(await leftIn(primary), []);
      await holds(primary, '0x33', '2M');
    });
  });
}
