// colo check: what is found of a description and of what hosts tell; and what a host tells of itself.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createQcow2 } from '../../../src/block/drivers/qcow2/create.ts';
import { checkCluster, checkSpec, checkVm, compareHosts } from '../../../src/ha/spec/check.ts';
import type { HostAnswer } from '../../../src/ha/spec/check.ts';
import { parseHostFacts } from '../../../src/ha/spec/facts.ts';
import type { HostFacts } from '../../../src/ha/spec/facts.ts';
import { gatherFacts } from '../../../src/ha/spec/gather.ts';
import { parseNodeFile } from '../../../src/ha/spec/node-file.ts';
import type { NodeConfig } from '../../../src/ha/spec/node-config.ts';
import type { VmSpec } from '../../../src/ha/spec/vm-spec.ts';
import type { Finding } from '../../../src/ha/views.ts';
import { spec as specOf } from './pair-fixtures.ts';

const GIB = 2 ** 30;

/** A host on which all is well. */
function facts(host = 'a', change: Partial<HostFacts> = {}): HostFacts {
  return {
    ...{ version: 1, host, software: '0.9.0', address: '192.0.2.1', machine: host, cpuModel: 'X' },
    ...{ clockMs: 1000, isSecure: false, tls: null, availableMiB: 4096, guestsMiB: 2048 },
    images: [{ format: 'qcow2', virtualBytes: GIB, actualBytes: GIB / 4, trouble: null }],
    ...{ hasDisks: false, state: { freeBytes: 10 * GIB, trouble: null }, run: null },
    ...{ ports: { free: 4, trouble: null }, cables: [null] },
    ...{ engine: { version: null, trouble: null, unknownModels: [] }, arbiter: null },
    ...change,
  };
}

function answer(
  host: string,
  change: Partial<HostFacts> = {},
  askedMs = 1000,
  answeredMs = 1000,
): HostAnswer {
  return { facts: facts(host, change), askedMs, answeredMs };
}

const disk = { id: 'disk0', interface: 'ide', image: '/srv/web.qcow2' } as const;
const vm = (change: Partial<VmSpec> = {}): VmSpec => ({ ...specOf(), disks: [disk], ...change });

const shown = (found: readonly Finding[]): string[] =>
  found.map(({ severity, host, path: where, message }) => `${severity} ${host ?? '-'} ${where}: ${message}`);

describe('one host', () => {
  it('on which all is well has nothing to tell', () => {
    assert.deepEqual(checkVm(vm(), facts(), true), []);
  });

  const image = (change: object): Partial<HostFacts> => ({
    images: [{ format: 'raw', virtualBytes: GIB, actualBytes: GIB / 4, trouble: null, ...change }],
  });
  const engine = (change: object): Partial<HostFacts> => ({
    engine: { version: '7.2.22', trouble: null, unknownModels: [], ...change },
  });
  const CASES: readonly (readonly [name: string, Partial<HostFacts>, Partial<VmSpec>, ...string[]])[] = [
    ['has no image', image({ trouble: 'there is no /x' }), {}, 'error a disks[0].image: there is no /x'],
    ['has the disks, and needs no image', { hasDisks: true, ...image({ trouble: 'there is no /x' }) }, {}],
    [
      'has an image that is larger than the disk',
      {},
      { disks: [{ ...disk, sizeBytes: GIB / 2 }] },
      'error a disks[0].size: the image has 1G, which do not fit into 512M',
    ],
    ['has an image that is smaller', {}, { disks: [{ ...disk, sizeBytes: 2 * GIB }] }],
    [
      'cannot write its folders',
      { state: { freeBytes: 0, trouble: '/s cannot be written to' }, run: '/r cannot be written to' },
      {},
      'error a state-folder: /s cannot be written to',
      'error a run-folder: /r cannot be written to',
    ],
    [
      'has no place for the images',
      { state: { freeBytes: GIB / 8, trouble: null } },
      {},
      'error a state-folder: 128M are free, the images alone take 256M',
    ],
    [
      'may run out of place',
      { state: { freeBytes: GIB / 2, trouble: null } },
      { disks: [disk, { id: 'disk1', interface: 'ide', sizeBytes: GIB }] },
      'warning a state-folder: 512M are free, the disks may grow to 2G',
    ],
    [
      'has given its memory away',
      { guestsMiB: 100 },
      {},
      'error a memory: 100 MiB are left for guests, the VM has 128',
    ],
    [
      'has too little memory',
      { availableMiB: 300 },
      {},
      'error a memory: 300 MiB are available, the VM takes 328 with its own',
    ],
    [
      'has little memory',
      { availableMiB: 400 },
      {},
      'warning a memory: 400 MiB are available; once the guest has used all of its RAM, the copy of it for checkpoints takes as much again',
    ],
    [
      'has too few ports',
      { ports: { free: 3, trouble: null } },
      {},
      'error a pair-ports: 3 ports are free, 4 are needed; widen the range',
    ],
    [
      'has another address',
      { ports: { free: 0, trouble: '192.0.2.9: bind EADDRNOTAVAIL' } },
      {},
      'error a address: 192.0.2.9: bind EADDRNOTAVAIL',
    ],
    [
      'has no bridge',
      { cables: ["there is no bridge 'br0'"] },
      {},
      "error a network[0]: there is no bridge 'br0'",
    ],
    [
      'has no QEMU',
      engine({ version: null, trouble: 'kvm cannot be used' }),
      {},
      'error a engine: kvm cannot be used',
    ],
    [
      'has a QEMU without that NIC',
      engine({ unknownModels: ['ne2k_pci'] }),
      {},
      "error a network[0].model: QEMU 7.2.22 has no NIC 'ne2k_pci'",
    ],
    ['hears no arbiter', { arbiter: 'connection refused' }, {}, 'error a arbiter: connection refused'],
    ['has a certificate that has expired', { tls: 'has expired' }, {}, 'error a tls: has expired'],
  ];
  for (const [name, of, change, ...said] of CASES) {
    it(name, () => assert.deepEqual(shown(checkVm(vm(change), facts('a', of), true)), said));
  }

  it('that is not where it starts needs no image, but place for the disks', () => {
    const poor = { ...image({ trouble: 'there is no /x' }), state: { freeBytes: GIB / 2, trouble: null } };
    const sized = vm({ disks: [{ ...disk, sizeBytes: GIB }] });
    assert.deepEqual(shown(checkVm(sized, facts('b', poor), false)), [
      'warning b state-folder: 512M are free, the disks may grow to 1G',
    ]);
  });
});

describe('the description alone', () => {
  it('is checked with the eyes of the command line, too', () => {
    assert.deepEqual(checkSpec(vm()), []);
    assert.deepEqual(shown(checkSpec(vm({ options: ['-fooo'] }))), [
      'error - options: -fooo: invalid option',
    ]);
    assert.deepEqual(shown(checkSpec(vm({ cpus: 2 }))), [
      'error - cpus: engine v86 has one CPU; use 1, or engine tcg or kvm',
    ]);
    const tcg = { engine: 'tcg', options: ['-fsdev', 'local,id=x,path=/'] } as const;
    assert.match(shown(checkSpec(vm(tcg))).join(), /^error - options: -fsdev/);
  });
});

describe('hosts beside one another', () => {
  const CASES: readonly (readonly [
    name: string,
    answers: readonly HostAnswer[],
    change: Partial<VmSpec>,
    ...said: string[],
  ])[] = [
    ['that are alike', [answer('a'), answer('b')], {}],
    [
      'of which there is one',
      [answer('a')],
      {},
      "error - hosts: 'a' alone can carry it: protection needs two hosts",
    ],
    ['of which there is none', [], {}, 'error - hosts: no host can carry it: protection needs two hosts'],
    [
      'of which one is not known',
      [answer('a'), answer('b')],
      { hosts: ['a', 'b', 'c'] },
      "warning c hosts: there is no host 'c' in the cluster",
    ],
    [
      'with two QEMUs',
      [
        answer('a', { engine: { version: '7.2.22', trouble: null, unknownModels: [] } }),
        answer('b', { engine: { version: '10.0.2', trouble: null, unknownModels: [] } }),
      ],
      {},
      "error b qemu: 'a' has QEMU 7.2.22, 'b' has QEMU 10.0.2: the guest would see two machines; install the same",
    ],
    [
      'with neighbouring versions',
      [answer('a'), answer('b', { software: '0.10.3' })],
      {},
      "warning b version: 'a' has 0.9.0, 'b' has 0.10.3: neighbours work together; upgrade soon",
    ],
    [
      'with versions far apart',
      [answer('a'), answer('b', { software: '0.11.0' }), answer('c', { software: '1.9.0' })],
      {},
      "error b version: 'a' has 0.9.0, 'b' has 0.11.0: only neighbouring versions work together",
      "error c version: 'a' has 0.9.0, 'c' has 1.9.0: only neighbouring versions work together",
    ],
    ['with patches of one version', [answer('a'), answer('b', { software: '0.9.7' })], {}],
    [
      'of which one is secured',
      [answer('a'), answer('b', { isSecure: true })],
      {},
      "error b tls: 'a' has none, 'b' has TLS",
    ],
    [
      'with different clocks',
      [answer('a'), answer('b', { clockMs: 4500 })],
      {},
      "warning b clock: the clocks of 'a' and 'b' differ by 3.5 s; events will look out of order",
    ],
    ['of which one answered late', [answer('a'), answer('b', { clockMs: 4500 }, 1000, 8000)], {}],
    [
      'that are one machine',
      [answer('a', { address: '127.0.0.1' }), answer('b', { machine: 'a', address: '127.0.0.1' })],
      {},
      "warning b hosts: 'a' and 'b' are one machine: its loss takes both",
    ],
    [
      'that nobody else reaches',
      [answer('a'), answer('b', { address: '127.0.0.1' })],
      {},
      "error b address: 'a' has the address 192.0.2.1, 'b' has the address 127.0.0.1, which only itself reaches",
    ],
    [
      'whose CPUs differ where the guest sees them',
      [answer('a'), answer('b', { cpuModel: 'Y' })],
      { engine: 'kvm', options: ['-cpu', 'host'] },
      "warning b options: -cpu host: 'a' has X, 'b' has Y; name a model that both have",
    ],
  ];
  for (const [name, answers, change, ...said] of CASES) {
    it(name, () => assert.deepEqual(shown(compareHosts(vm(change), answers)), said));
  }

  it('that are silent make it impossible, or only worse', () => {
    const silent = [{ host: 'b', reason: 'connection refused' }];
    const named = vm({ hosts: ['a', 'b'] });
    assert.deepEqual(shown(compareHosts(named, [answer('a')], silent)), [
      "error b hosts: 'b' does not answer: connection refused",
      "error - hosts: 'a' alone can carry it: protection needs two hosts",
    ]);
    assert.deepEqual(shown(compareHosts(named, [answer('a'), answer('c')], silent)), [
      "warning b hosts: 'b' does not answer: connection refused",
    ]);
  });

  it('make one list, of the hosts that may carry it only', () => {
    const answers = [answer('a'), answer('b', { arbiter: 'x' }), answer('z', { arbiter: 'y' })];
    const named = vm({ hosts: ['a', 'b'] });
    assert.deepEqual(shown(checkCluster(named, { answers, home: 'a' })), ['error b arbiter: x']);
    assert.match(
      shown(checkCluster(named, { answers, home: 'z' })).join('\n'),
      /error z hosts: 'z', where it would be started, is not one of them; start it on one of a, b/,
    );
    assert.deepEqual(
      shown(checkCluster(vm({ options: ['-fooo'] }), { answers: answers.slice(0, 1), home: 'a' })),
      [
        'error - options: -fooo: invalid option',
        "error - hosts: 'a' alone can carry it: protection needs two hosts",
      ],
    );
  });
});

describe('what a host tells of itself', () => {
  let folder = '';
  const servers: net.Server[] = [];
  before(async () => (folder = await mkdtemp(path.join(os.tmpdir(), 'colo-check-'))));
  after(async () => {
    for (const server of servers) server.close();
    await rm(folder, { recursive: true });
  });
  const at = (...names: string[]): string => path.join(folder, ...names);
  const config = (change: Partial<NodeConfig> = {}): NodeConfig => {
    const text = `name: a\narbiter: {file: x}\nstate-folder: state\nrun-folder: run\nmemory: 1G`;
    return { ...parseNodeFile(text, { file: 'node.yaml', folder }), ...change };
  };
  const gather = (change: Partial<VmSpec>, of: Partial<NodeConfig> = {}): Promise<HostFacts> =>
    gatherFacts(vm({ nics: [], ...change }), config(of), { software: '0.9.0' });
  const listen = async (where: net.ListenOptions): Promise<number> => {
    const server = net.createServer((socket) => socket.destroy()).listen(where);
    servers.push(server);
    await once(server, 'listening');
    const address = server.address();
    return typeof address === 'object' && address ? address.port : 0;
  };

  it('is JSON, and leaves nothing behind', async () => {
    const told = await gather({ disks: [{ id: 'disk0', interface: 'ide', sizeBytes: GIB }] });
    assert.deepEqual(parseHostFacts(JSON.parse(JSON.stringify(told))), told);
    assert.deepEqual(
      [told.host, told.software, told.images, told.hasDisks, told.state.trouble, told.run, told.isSecure],
      ['a', '0.9.0', [null], false, null, null, false],
    );
    assert.deepEqual([told.ports, told.cables, told.guestsMiB], [{ free: 2, trouble: null }, [], 1024]);
    assert.ok(
      told.availableMiB > 0 && told.state.freeBytes > 0 && Math.abs(told.clockMs - Date.now()) < 60_000,
    );
    assert.deepEqual(await readdir(folder), []);
    assert.throws(() => parseHostFacts({ ...told, ports: 7 }), /facts of a host: ports: /);
  });

  it('is what its images are', async () => {
    await createQcow2(at('good.qcow2'), { sizeBytes: 3 * 2 ** 20 });
    await writeFile(at('good.raw'), Buffer.alloc(2 ** 20, 1));
    await writeFile(at('empty'), '');
    await writeFile(at('cut.qcow2'), Buffer.from([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 0, 0]));
    await writeFile(at('disk.vmdk'), Buffer.concat([Buffer.from('KDMV'), Buffer.alloc(1020)]));
    await mkdir(at('folder'));
    const told = await Promise.all(
      ['good.qcow2', 'good.raw', 'none', 'empty', 'cut.qcow2', 'disk.vmdk', 'folder'].map(
        async (name) => (await gather({ disks: [{ ...disk, image: at(name) }] })).images[0],
      ),
    );
    const [qcow2, raw, ...bad] = told;
    assert.deepEqual([qcow2?.format, qcow2?.virtualBytes, qcow2?.trouble], ['qcow2', 3 * 2 ** 20, null]);
    assert.deepEqual([raw?.format, raw?.virtualBytes, raw?.actualBytes], ['raw', 2 ** 20, 2 ** 20]);
    const troubles = bad.map((one) => one?.trouble?.replaceAll(folder, '') ?? '');
    assert.deepEqual(
      [troubles[0], troubles[1], troubles[3], troubles[4]],
      [
        'there is no /none',
        '/empty is empty',
        '/disk.vmdk is VMDK; convert it first: qemu-img convert -O qcow2 /disk.vmdk NEW',
        '/folder is a folder, not an image',
      ],
    );
    assert.match(troubles[2] ?? '', /^\/cut\.qcow2 cannot be read: /);
    if (process.getuid?.() !== 0) {
      await chmod(at('good.raw'), 0);
      const { images } = await gather({ disks: [{ ...disk, image: at('good.raw') }] });
      assert.match(images[0]?.trouble ?? '', /may not be read by this user/);
    }
  });

  it('is which ports and addresses it has', async () => {
    const port = await listen({ port: 0, host: '127.0.0.1' });
    const { ports } = await gather({}, { pairPorts: [port, port] });
    assert.deepEqual(ports, { free: 0, trouble: null });
    const elsewhere = await gather({}, { address: '192.0.2.77' });
    assert.match(elsewhere.ports.trouble ?? '', /^192\.0\.2\.77: .*EADDRNOTAVAIL/);
  });

  it('is where cables end', async () => {
    await listen({ path: at('switch.sock') });
    const edges = [
      { kind: 'switch', address: `unix:${at('switch.sock')}` },
      { kind: 'switch', address: `unix:${at('none.sock')}` },
      { kind: 'bridge', bridge: 'colo-none' },
      { kind: 'bridge', bridge: 'lo' },
      { kind: 'tap', ifname: 'lo' },
    ] as const;
    const [nic] = specOf().nics;
    const { cables } = await gather({ nics: edges.map((edge) => ({ ...nic!, edge })) });
    assert.equal(cables[0], null);
    assert.match(cables[1] ?? '', /no switch at unix:.*ENOENT.*; start one with colo switch/);
    assert.match(cables[2] ?? '', /^there is no bridge 'colo-none'; make it/);
    assert.match(cables[3] ?? '', /^'lo' is a network device, but no bridge/);
    assert.match(cables[4] ?? '', /^(?:'lo' is no TAP device|\/dev\/net\/tun cannot be used)/);
  });

  it('is where it cannot write, and which names are too long', async () => {
    await writeFile(at('file'), '');
    const told = await gather({}, { stateFolder: at('file', 'below'), runFolder: at('x'.repeat(90)) });
    assert.match(told.state.trouble ?? '', /file is no folder/);
    assert.match(told.run ?? '', /of which the kernel takes 107; set a shorter run-folder/);
    await mkdir(at('state', 'vms', 'web'), { recursive: true });
    await writeFile(at('state', 'vms', 'web', 'disks.json'), '{}');
    assert.equal((await gather({})).hasDisks, true);
  });

  it('is what it misses: firmware, arbiter, QEMU, certificates', async () => {
    const fails = (text: string) => (): Promise<never> => Promise.reject(new Error(text));
    const options = { software: '1', askArbiter: fails('no quorum'), findFirmware: fails('no SeaBIOS') };
    await symlink('/nowhere', at('cert'));
    const tls = { ca: at('cert'), cert: at('cert'), key: at('cert') };
    const told = await gatherFacts(vm({ nics: [] }), config({ tls }), { ...options, takenMiB: 1000 });
    assert.deepEqual([told.arbiter, told.engine.trouble, told.guestsMiB], ['no quorum', 'no SeaBIOS', 24]);
    assert.match(told.tls ?? '', /ENOENT/);
    const { engine } = await gather({ engine: 'tcg', qemu: '/no/such/qemu' });
    assert.match(engine.trouble ?? '', /^\/no\/such\/qemu cannot be run: there is no such program/);
  });
});
