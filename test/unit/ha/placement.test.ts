/** Which host gets a copy: properties over random clusters, and the sentences. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { chooseHome, chooseSecondary, planDrain, type PlannedCopy } from '../../../src/ha/placement.ts';
import type { VmSpec } from '../../../src/ha/spec/vm-spec.ts';
import type { HostView, VmView } from '../../../src/ha/views.ts';
import { hostOf, specOf, viewOf } from '../../conformance/registry.ts';

const cluster = fc
  .array(
    fc.record({
      memoryMiB: fc.integer({ min: 256, max: 8192 }),
      used: fc.double({ min: 0, max: 1, noNaN: true }),
      isAlive: fc.boolean(),
      isInMaintenance: fc.boolean(),
      rack: fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }),
    }),
    { maxLength: 12 },
  )
  .map((hosts) =>
    hosts.map(({ memoryMiB, used, rack, ...flags }, at): HostView => {
      const freeMemoryMiB = Math.floor(memoryMiB * used);
      return {
        ...hostOf(`h${at}`),
        ...flags,
        memoryMiB,
        freeMemoryMiB,
        labels: rack === undefined ? {} : { rack: `r${rack}` },
      };
    }),
  );
const memory = fc.integer({ min: 1, max: 4096 });

describe('placement', () => {
  test('many copies, one after the other: no host is over-committed, none that may not gets one', () => {
    fc.assert(
      fc.property(
        cluster,
        fc.array(fc.record({ memory, primary: fc.nat(12), hosts: fc.subarray(['h0', 'h1', 'h2']) })),
        (hosts, wishes) => {
          const planned: PlannedCopy[] = [];
          for (const [at, wish] of wishes.entries()) {
            const spec: VmSpec = { ...specOf(`vm${at}`, wish.memory), hosts: wish.hosts };
            const primary = `h${wish.primary}`;
            const { host, ranked, why } = chooseSecondary(spec, { primary }, hosts, planned);
            assert.equal(ranked[0] ?? null, host);
            assert.ok(hosts.length === 0 || why.length === hosts.length - (host === null ? 0 : 1));
            if (host === null) continue;
            const taken = hosts.find(({ name }) => name === host)!;
            assert.notEqual(host, primary);
            assert.ok(taken.isAlive && !taken.isInMaintenance);
            assert.ok(wish.hosts.length === 0 || wish.hosts.includes(host));
            planned.push({ host, memoryMiB: wish.memory });
          }
          for (const { name, freeMemoryMiB } of hosts) {
            const taken = planned.filter(({ host }) => host === name);
            assert.ok(taken.reduce((sum, { memoryMiB }) => sum + memoryMiB, 0) <= freeMemoryMiB);
          }
        },
      ),
    );
  });

  test('a copy finds a place whenever there is one', () => {
    fc.assert(
      fc.property(cluster, memory, (hosts, memoryMiB) => {
        const isFit = (host: HostView): boolean =>
          host.isAlive && !host.isInMaintenance && host.freeMemoryMiB >= memoryMiB;
        assert.equal(chooseHome(specOf('vm', memoryMiB), hosts).host !== null, hosts.some(isFit));
      }),
    );
  });

  test('the choice does not depend on the order in which hosts are listed', () => {
    fc.assert(
      fc.property(cluster, memory, (hosts, memoryMiB) => {
        const choose = (list: readonly HostView[]): readonly string[] =>
          chooseSecondary(specOf('vm', memoryMiB), { primary: 'h0' }, list).ranked;
        assert.deepEqual(choose(hosts.toReversed()), choose(hosts));
      }),
    );
  });

  test('equal VMs on equal hosts: no host has more than two steps more than another', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 12 }),
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 16, max: 512 }),
        (count, vms, memoryMiB) => {
          const hosts = Array.from({ length: count }, (_, at) => hostOf(`h${at}`));
          const planned: PlannedCopy[] = [];
          for (let at = 0; at < vms; at++) {
            const { host } = chooseHome(specOf(`vm${at}`, memoryMiB), hosts, planned);
            if (host !== null) planned.push({ host, memoryMiB });
          }
          const loads = hosts.map(
            ({ name }) => planned.filter(({ host }) => host === name).length * memoryMiB,
          );
          assert.ok(Math.max(...loads) - Math.min(...loads) <= 2 * Math.max(memoryMiB, 4096 / 16));
        },
      ),
    );
  });

  test('survivors that choose at once, with the same picture, choose different hosts', () => {
    const hosts = Array.from({ length: 50 }, (_, at) => hostOf(`h${at}`));
    const counts = new Map<string, number>();
    for (let at = 0; at < 500; at++) {
      const { host } = chooseSecondary(specOf(`vm${at}`), { primary: 'h0' }, hosts);
      counts.set(host!, (counts.get(host!) ?? 0) + 1);
    }
    // hostOf has all in one rack, so that only the hash decides: 10 each on average.
    assert.equal(counts.size, 49);
    assert.ok(Math.max(...counts.values()) <= 25);
  });

  test('prefers the old disk, then another rack, then free memory, and says why not the others', () => {
    const at = (name: string, rack: string, free: number, more: Partial<HostView> = {}): HostView => ({
      ...hostOf(name, free),
      labels: { rack },
      ...more,
    });
    const hosts = [
      at('a', 'r1', 4096),
      at('b', 'r1', 4096),
      at('c', 'r2', 300),
      at('d', 'r2', 1500),
      at('e', 'r2', 100),
      at('f', 'r2', 4096, { isAlive: false }),
      at('g', 'r2', 4096, { isInMaintenance: true }),
    ];
    const spec = specOf('vm', 200);
    assert.deepEqual(chooseSecondary(spec, { primary: 'a' }, hosts), {
      host: 'd',
      ranked: ['d', 'c', 'b'],
      why: [
        'a: the other copy is there',
        'e: 100 MiB are free, 200 MiB are needed',
        'f: not alive',
        'g: in maintenance',
        'c: has less free memory',
        "b: shares more labels with the other copy's host",
      ],
    });
    assert.equal(chooseSecondary(spec, { primary: 'a', oldDiskHost: 'b' }, hosts).host, 'b');
    assert.equal(chooseSecondary(spec, { primary: 'a', oldDiskHost: 'f' }, hosts).host, 'd');
    assert.equal(chooseSecondary(spec, { primary: 'a', refused: ['d'] }, hosts).host, 'c');
    assert.equal(chooseSecondary({ ...spec, hosts: ['a', 'b'] }, { primary: 'a' }, hosts).host, 'b');
    assert.deepEqual(chooseHome(spec, []).why, ['no host is known']);
  });
});

describe('drain', () => {
  const vm = (name: string, memoryMiB: number, view: Partial<VmView>): { spec: VmSpec; view: VmView } => ({
    spec: specOf(name, memoryMiB),
    view: { ...viewOf(name, 1, 'a', 'b'), ...view },
  });

  test('a pair changes over, a VM alone moves, a secondary is made elsewhere, and what has no place says so', () => {
    const hosts = ['a', 'b', 'c'].map((name) => hostOf(name, 2000));
    const vms = [
      vm('pair', 1000, {}),
      vm('single', 900, { secondary: null, state: 'unprotected' }),
      vm('second', 800, { primary: 'b', secondary: 'a' }),
      vm('huge', 4000, { secondary: null, state: 'unprotected' }),
      vm('other', 100, { primary: 'b', secondary: 'c' }),
    ];
    const steps = planDrain('a', vms, hosts);
    assert.deepEqual(
      steps.map(({ vm: name, kind }) => `${name}: ${kind}`),
      ['huge: stuck', 'pair: failover', 'single: migrate', 'second: move-secondary'],
    );
    assert.deepEqual(steps[1], { vm: 'pair', kind: 'failover', to: 'b', then: 'c' });
    assert.equal(steps[2]?.kind === 'migrate' && steps[2].to, 'b');
    assert.equal(steps[3]?.kind === 'move-secondary' && steps[3].to, 'c');
  });

  test('nothing goes to the host itself, and nobody is over-committed', () => {
    fc.assert(
      fc.property(
        cluster,
        fc.array(fc.record({ memory, primary: fc.nat(5), secondary: fc.option(fc.nat(5)) })),
        (hosts, wishes) => {
          const vms = wishes.map(({ memory: size, primary, secondary }, at) =>
            vm(`vm${at}`, size, {
              primary: `h${primary}`,
              secondary: secondary === null || secondary === primary ? null : `h${secondary}`,
            }),
          );
          const steps = planDrain('h0', vms, hosts);
          const added = new Map<string, number>();
          for (const step of steps) {
            if (step.kind === 'stuck') continue;
            const target = step.kind === 'failover' ? step.then : step.to;
            assert.notEqual(target, 'h0');
            assert.notEqual(step.to, 'h0');
            const size = vms.find(({ spec }) => spec.name === step.vm)!.spec.memoryMiB;
            if (target !== null) added.set(target, (added.get(target) ?? 0) + size);
          }
          for (const [name, size] of added) {
            assert.ok(size <= hosts.find((host) => host.name === name)!.freeMemoryMiB);
          }
        },
      ),
    );
  });
});
