/**
 * What every registry must do (src/ha/registry/registry.ts), whatever it is made of. `open` gives another client of the
 * same registry each time, as the daemons of several hosts have.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ParameterError } from '../../src/base/errors.ts';
import { RegistryUnreachableError, type Registry } from '../../src/ha/registry/registry.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import type { HostView, VmEntry, VmView } from '../../src/ha/views.ts';

export interface RegistryUnderTest {
  open(): Registry;
  remove(): Promise<void>;
}

let names = 0;
const newName = (): string => `x${process.pid}-${++names}`;

export function specOf(name: string, memoryMiB = 128): VmSpec {
  return {
    version: 1,
    name,
    engine: 'v86',
    cpus: 1,
    memoryMiB,
    disks: [{ id: 'disk0', image: '/images/ä.raw', interface: 'ide' }],
    nics: [
      { id: 'nic0', mac: '52:54:00:12:34:56', model: 'ne2k_pci', edge: { kind: 'bridge', bridge: 'br0' } },
    ],
    hosts: [],
    checkpoint: { maxDelayMs: 20_000 },
    heartbeat: { intervalMs: 100, patienceMs: 400, linkPatienceMs: 3_000 },
    resync: { bytesPerSecond: 0 },
    options: [],
  };
}

export function entryOf(name: string, home = 'h1'): VmEntry {
  return { version: 1, spec: specOf(name), isWanted: true, isPaused: false, home };
}

export function viewOf(name: string, epoch: number, primary: string, secondary: string | null): VmView {
  return {
    version: 1,
    name,
    state: secondary === null ? 'unprotected' : 'protected',
    reason: 'a test wants it so',
    sinceMs: 1,
    epoch,
    primary,
    secondary,
    copies: [{ host: primary, role: 'primary', pid: 7 }],
    isWanted: true,
    isPaused: false,
    memoryMiB: 128,
    engine: 'v86',
  };
}

export function hostOf(name: string, freeMemoryMiB = 4096): HostView {
  return {
    version: 1,
    name,
    api: '127.0.0.1:7700',
    heartbeat: '127.0.0.1:7701',
    software: '0.1.0',
    isAlive: true,
    isInMaintenance: false,
    memoryMiB: 4096,
    freeMemoryMiB,
    vms: { primary: 0, secondary: 0 },
    labels: { rack: 'r1' },
  };
}

/** Resolves when `isSo` holds after a change that was told. */
async function until(registry: Registry, isSo: () => Promise<boolean>, host?: string): Promise<void> {
  // Watches keep no process alive.
  const alive = setInterval(() => undefined, 1_000);
  await new Promise<void>((resolve, reject) => {
    let end: (() => void) | null = null;
    const look = (): void => {
      isSo().then((is) => {
        if (!is) return;
        end?.();
        resolve();
      }, reject);
    };
    end = registry.watch(look, host === undefined ? {} : { host });
    look();
  }).finally(() => clearInterval(alive));
}

export function registrySuite(
  title: string,
  make: () => Promise<RegistryUnderTest>,
  skip: string | false = false,
): void {
  describe(`registry contract: ${title}`, { skip }, () => {
    let made: RegistryUnderTest;
    let one: Registry;
    let other: Registry;
    before(async () => {
      made = await make();
      one = made.open();
      other = made.open();
    });
    after(async () => {
      await one.close();
      await other.close();
      await made.remove();
    });

    test('a host is there, tells what changes, and is not alive when it has withdrawn', async () => {
      const name = newName();
      const daemon = made.open();
      await daemon.publish(hostOf(name));
      assert.deepEqual(await other.host(name), hostOf(name));
      await daemon.publish(hostOf(name, 17));
      assert.equal((await other.host(name))?.freeMemoryMiB, 17);
      assert.ok((await other.someHosts(64, [name])).some((host) => host.name === name));
      assert.equal(await other.forgetHost(name), false);
      await daemon.withdraw();
      assert.equal((await other.host(name))?.isAlive, false);
      assert.ok(!(await other.someHosts(64, [name])).some((host) => host.name === name));
      assert.equal(await other.forgetHost(name), true);
      assert.equal(await other.host(name), null);
      await daemon.close();
    });

    test('a host whose daemon is gone without a word is not alive after a while; a new daemon is', async () => {
      const name = newName();
      const daemon = made.open();
      await daemon.publish(hostOf(name));
      await daemon.close();
      await until(one, async () => (await one.host(name))?.isAlive === false);
      const next = made.open();
      await next.publish(hostOf(name));
      await until(one, async () => (await one.host(name))?.isAlive === true);
      await next.close();
    });

    test('anybody puts a host into maintenance and takes it out', async () => {
      const name = newName();
      await one.publish(hostOf(name));
      await other.setMaintenance(name, true);
      assert.equal((await one.host(name))?.isInMaintenance, true);
      await one.publish(hostOf(name, 3));
      assert.equal((await one.hosts()).find((host) => host.name === name)?.isInMaintenance, true);
      await other.setMaintenance(name, false);
      assert.equal(
        (await one.someHosts(8, [name])).find((host) => host.name === name)?.isInMaintenance,
        false,
      );
      await one.withdraw();
    });

    test('an entry is put once, replaced by who knows it, and removed', async () => {
      const name = newName();
      assert.equal(await one.entry(name), null);
      const entry = entryOf(name);
      const first = await one.putEntry(entry, null);
      assert.ok(first.isPut);
      assert.deepEqual(await other.entry(name), { value: entry, version: first.version });
      const paused = { ...entry, isPaused: true };
      const refused = await other.putEntry(paused, null);
      assert.ok(!refused.isPut);
      assert.deepEqual(refused.current, { value: entry, version: first.version });
      const second = await other.putEntry(paused, first.version);
      assert.ok(second.isPut);
      assert.equal(await one.removeEntry(name, first.version), false);
      assert.ok((await one.entries()).some(({ value }) => value.spec.name === name && value.isPaused));
      assert.equal(await one.removeEntry(name, second.version), true);
      assert.equal(await one.removeEntry(name, second.version), true);
      assert.equal(await other.entry(name), null);
      assert.ok((await one.putEntry(entry, null)).isPut);
      assert.equal((await one.putEntry(paused, second.version)).isPut, false);
    });

    test('a put that is tried again is the same put', async () => {
      const entry = entryOf(newName());
      assert.ok((await one.putEntry(entry, null)).isPut);
      assert.ok((await one.putEntry(entry, null)).isPut);
    });

    test('of many who replace the same state one wins', async () => {
      const name = newName();
      let { version } = (await one.putEntry(entryOf(name), null)) as { version: string };
      for (let round = 0; round < 5; round++) {
        const results = await Promise.all(
          [one, other, one, other].map((client, at) =>
            client.putEntry({ ...entryOf(name), home: `h${round}-${at}` }, version),
          ),
        );
        const won = results.filter(({ isPut }) => isPut);
        assert.equal(won.length, 1);
        version = (won[0] as { version: string }).version;
        const current = await other.entry(name);
        assert.equal(current?.version, version);
        assert.equal(current.value.home, `h${round}-${results.findIndex(({ isPut }) => isPut)}`);
      }
    });

    test('members that this program does not know are kept', async () => {
      const entry = { ...entryOf(newName()), later: { deep: [1] } };
      const put = await one.putEntry(entry, null);
      assert.ok(put.isPut);
      assert.deepEqual((await other.entry(entry.spec.name))?.value, entry);
    });

    test('a view of an older epoch never replaces a newer one, and one without an entry is not told', async () => {
      const name = newName();
      assert.equal(await one.publishVm(viewOf(name, 1, 'h1', null)), false);
      assert.equal(await one.view(name), null);
      const put = await one.putEntry(entryOf(name), null);
      assert.ok(put.isPut);
      assert.equal(await one.publishVm(viewOf(name, 2, 'h1', 'h2')), true);
      assert.equal(await other.publishVm(viewOf(name, 3, 'h2', null)), true);
      assert.equal(await one.publishVm(viewOf(name, 2, 'h1', null)), false);
      assert.equal(await one.publishVm(viewOf(name, 2, 'h1', null)), false);
      assert.deepEqual(await one.view(name), viewOf(name, 3, 'h2', null));
      assert.equal(await one.publishVm(viewOf(name, 4, 'h1', 'h2')), true);
      assert.ok((await other.views()).some((view) => view.name === name && view.epoch === 4));
      assert.equal(await one.removeEntry(name, put.version), true);
      assert.equal(await other.view(name), null);
    });

    test('what concerns a host: its home, and where the newest view has a copy', async () => {
      const name = newName();
      const [home, second, third] = [newName(), newName(), newName()];
      const listed = async (host: string): Promise<boolean> =>
        (await other.entriesOf(host)).some(({ value }) => value.spec.name === name);
      await one.putEntry(entryOf(name, home), null);
      assert.equal(await listed(home), true);
      assert.equal(await listed(second), false);
      await one.publishVm(viewOf(name, 1, home, second));
      assert.equal(await listed(second), true);
      await one.publishVm(viewOf(name, 2, second, third));
      assert.equal(await listed(third), true);
      assert.equal(await listed(home), true);
    });

    test('whoever watches is told of what concerns it', async () => {
      const name = newName();
      const home = newName();
      const seen = until(other, async () => (await other.entriesOf(home)).length === 1, home);
      const put = await one.putEntry(entryOf(name, home), null);
      assert.ok(put.isPut);
      await seen;
      const isWanted = async (): Promise<boolean> => (await other.entry(name))?.value.isWanted === false;
      const told = until(other, isWanted, home);
      await one.putEntry({ ...entryOf(name, home), isWanted: false }, put.version);
      await told;
    });

    test('names and values that make no sense are refused', async () => {
      await assert.rejects(one.entry('../x'), ParameterError);
      await assert.rejects(one.host('a/b'), ParameterError);
      await assert.rejects(one.entriesOf(''), ParameterError);
      await assert.rejects(one.setMaintenance('.new', true), ParameterError);
      await assert.rejects(one.putEntry({ ...entryOf('x'), home: '' }, null), ParameterError);
      await assert.rejects(one.publishVm({ ...viewOf('x', 1, 'h', null), epoch: -1 }), ParameterError);
      await assert.rejects(one.publish({ ...hostOf('h'), name: '..' }), ParameterError);
    });

    test('closed, it says so', async () => {
      const gone = made.open();
      await gone.close();
      await gone.close();
      await assert.rejects(gone.hosts(), RegistryUnreachableError);
      await assert.rejects(gone.putEntry(entryOf(newName()), null), RegistryUnreachableError);
    });
  });
}
