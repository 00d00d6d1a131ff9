// vm.yaml and node.yaml: what they become, what is said of mistakes, and that the documents are right.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { parseNodeFile, readNodeFile } from '../../../src/ha/spec/node-file.ts';
import type { Surroundings } from '../../../src/ha/spec/node-file.ts';
import type { NodeConfig } from '../../../src/ha/spec/node-config.ts';
import { bytesOf, millisecondsOf, nearest, sizeText } from '../../../src/ha/spec/quantities.ts';
import { MAX_PROBLEMS, SpecFileError } from '../../../src/ha/spec/spec-error.ts';
import { parseVmFile, readVmFile } from '../../../src/ha/spec/vm-file.ts';
import { parseVmSpec } from '../../../src/ha/spec/vm-json.ts';
import type { VmSpec } from '../../../src/ha/spec/vm-spec.ts';
import { MAX_SPEC_FILE_BYTES } from '../../../src/ha/spec/yaml-tree.ts';

const AROUND: Surroundings = {
  hostname: 'a.example.org',
  isRoot: true,
  uid: 0,
  home: '/root',
  temporary: '/tmp',
  env: {},
  memoryBytes: 8 * 2 ** 30,
};
const vm = (text: string): VmSpec => parseVmFile(text, { file: 'vm.yaml', folder: '/here' });
const node = (text: string, around: Partial<Surroundings> = {}): NodeConfig =>
  parseNodeFile(text, { file: 'node.yaml', folder: '/here', surroundings: { ...AROUND, ...around } });

/** The lines of what is said about a text. */
function saidOf(parse: (text: string) => unknown, text: string): string[] {
  try {
    parse(text);
  } catch (error) {
    assert.ok(error instanceof SpecFileError, String(error));
    return error.message.split('\n');
  }
  return assert.fail(`nothing is wrong with:\n${text}`);
}
const FIVE = 'name: web\nimage: web.qcow2\nmemory: 256M\nhosts: [a, b]\nnetwork: br0\n';

describe('vm.yaml', () => {
  it('of five lines has every default', () => {
    assert.deepEqual(vm(FIVE), {
      version: 1,
      name: 'web',
      engine: 'v86',
      cpus: 1,
      memoryMiB: 256,
      disks: [{ id: 'disk0', image: '/here/web.qcow2', interface: 'ide' }],
      nics: [
        {
          id: 'nic0',
          mac: '52:54:00:1e:0f:bd',
          model: 'ne2k_pci',
          edge: { kind: 'bridge', bridge: 'br0' },
        },
      ],
      hosts: ['a', 'b'],
      checkpoint: { maxDelayMs: 2000 },
      heartbeat: { intervalMs: 100, patienceMs: 400, linkPatienceMs: 2000 },
      resync: { bytesPerSecond: 0 },
      options: [],
    });
  });

  it('says where its cables end in several ways', () => {
    const edges = (network: string): unknown[] =>
      vm(`name: web\nimage: /i\nnetwork: ${network}`).nics.map(({ edge }) => edge);
    assert.deepEqual(edges('{tap: tap0}'), [{ kind: 'tap', ifname: 'tap0' }]);
    assert.deepEqual(edges('{switch: "unix:/run/s"}'), [{ kind: 'switch', address: 'unix:/run/s' }]);
    assert.deepEqual(edges('[br0, {bridge: br1}]'), [
      { kind: 'bridge', bridge: 'br0' },
      { kind: 'bridge', bridge: 'br1' },
    ]);
    assert.deepEqual(vm('name: web\nimage: /i').nics, []);
    const nic = '{bridge: b, mac: "52:54:00:AB:CD:EF", model: virtio-net-pci}';
    assert.deepEqual(vm(`name: web\nimage: /i\nnetwork: ${nic}`).nics[0], {
      ...{ id: 'nic0', mac: '52:54:00:ab:cd:ef', model: 'virtio-net-pci' },
      edge: { kind: 'bridge', bridge: 'b' },
    });
    assert.equal(vm(`${FIVE}mac: 02:00:00:00:00:01`).nics[0]?.mac, '02:00:00:00:00:01');
  });

  it('has several disks', () => {
    assert.deepEqual(vm('name: w\ndisks: [a.qcow2, {size: 1G, interface: ide}]').disks, [
      { id: 'disk0', image: '/here/a.qcow2', interface: 'ide' },
      { id: 'disk1', sizeBytes: 2 ** 30, interface: 'ide' },
    ]);
    assert.deepEqual(vm('name: w\nengine: kvm\ndisks: [{image: /i, size: 1.5G}]').disks, [
      { id: 'disk0', image: '/i', sizeBytes: 1.5 * 2 ** 30, interface: 'virtio' },
    ]);
  });

  it('gives another VM another address, and the same one always', () => {
    const macs = ['web', 'web2', 'wea', 'db'].flatMap((name) =>
      vm(`name: ${name}\nimage: /i\nnetwork: [br0, br1]`).nics.map(({ mac }) => mac),
    );
    assert.equal(new Set(macs).size, macs.length, macs.join(' '));
  });

  const WRONG: readonly (readonly [text: string, ...said: string[]])[] = [
    [
      'imagee: /x\nmemory: 256Q\ncpus: two\nhosts: [a, b, 3]\nnetwork: {brigde: br0}\n',
      'vm.yaml:1:1: name: is missing; give the VM a name, unique in the cluster',
      'vm.yaml:1:1: image: is missing; name the image of the disk, or list several under disks',
      "vm.yaml:1:1: imagee: is no key here; did you mean 'image'?",
      "vm.yaml:2:9: memory: a size such as 256M is due, not '256Q'",
      "vm.yaml:3:7: cpus: a whole number from 1 to 255 is due, not 'two'",
      "vm.yaml:4:15: hosts[2]: a text is due, not '3'; write '3' in quotes",
      'vm.yaml:5:10: network: one of bridge, tap and switch is due, not none',
      "vm.yaml:5:11: network.brigde: is no key here; did you mean 'bridge'?",
    ],
    ['', 'vm.yaml:1:1: the file is empty'],
    ['# nothing', 'vm.yaml:1:1: the file is empty'],
    ['[a, b]', 'vm.yaml:1:1: a map of keys is due, not a list'],
    ['name: a\n---\nname: b', 'vm.yaml:2:1: one document is due, not several'],
    ['name: a\nname: b\nimage: /i', 'vm.yaml:2:1: Map keys must be unique'],
    ['name: [a\nimage: /i', /vm\.yaml:\d+:\d+: Flow sequence/.source],
    ['name:\nimage: /i', 'vm.yaml:1:1: name: has no value; give one, or leave the key out'],
    [
      'name: Web\nimage: /i',
      "vm.yaml:1:7: name: 'Web' has to be 1 to 63 of a-z, 0-9 and '-', beginning with a letter",
    ],
    [`${FIVE}engine: kvn`, "vm.yaml:6:9: engine: 'kvn' is none of v86, tcg, kvm; did you mean 'kvm'?"],
    [`${FIVE}size: 100`, "vm.yaml:6:7: size: a size such as 10G is due, not '100'"],
    [`${FIVE}size: 10k`, 'vm.yaml:6:7: size: 10K is out of range: 1M to 1P'],
    [
      `${FIVE}checkpoint: {max-delay: 2}`,
      "vm.yaml:6:25: checkpoint.max-delay: a duration such as 500ms or 2s is due, not '2'",
    ],
    [`${FIVE}checkpoint: 2s`, 'vm.yaml:6:13: checkpoint: a map of keys is due, not a text'],
    [`${FIVE}version: 9`, 'vm.yaml:6:10: version: 9 is newer than this software, which knows 1; upgrade it'],
    [`${FIVE}disks: [a]`, 'vm.yaml:2:8: image: is a part of disks here; move it there'],
    [
      `${FIVE}mac: 01:00:5e:00:00:01`,
      "vm.yaml:6:6: mac: '01:00:5e:00:00:01' has to be an address such as 52:54:00:12:34:56, and no group’s",
    ],
    // Contradictions: only once all the rest is right.
    [`${FIVE}cpus: 2`, 'vm.yaml:6:7: cpus: engine v86 has one CPU; use 1, or engine tcg or kvm'],
    [
      `${FIVE}qemu: /q`,
      'vm.yaml:6:7: qemu: engine v86 runs no QEMU; leave it out, or set engine to tcg or kvm',
    ],
    [
      'name: a\ndisks: [/a, /a, /b]',
      'vm.yaml:2:8: disks: engine v86 has two disks at most, not 3; use fewer, or engine tcg or kvm',
      "vm.yaml:2:13: disks[1].image: image '/a' is that of disks[0].image too",
    ],
    [
      'name: a\ndisks: [{interface: ide}]',
      'vm.yaml:2:9: disks[0]: needs an image to be filled from, or a size for an empty disk',
    ],
    [`name: a\nimage: /i\nhosts: [b, c, b]`, "vm.yaml:3:15: hosts[2]: host 'b' is that of hosts[0] too"],
    [
      `${FIVE}heartbeat: {interval: 300ms}`,
      'vm.yaml:6:12: heartbeat.patience: 400 ms are less than two intervals of 300 ms: one late beat would count as a death',
    ],
    [
      `${FIVE}options: [-vnc, ':1', -m, '1']`,
      "vm.yaml:6:23: options[2]: '-m' is given by the node itself; use the key 'memory'",
    ],
    [
      'name: a\nimage: /i\nnetwork: {bridge: b, model: e1000}',
      "vm.yaml:3:29: network[0].model: engine v86 has no 'e1000'; use ne2k_pci or virtio-net-pci or virtio-net",
    ],
  ];
  for (const [text, ...said] of WRONG) {
    it(`says what is wrong with ${JSON.stringify(text.replace(FIVE, '…')).slice(0, 60)}`, () => {
      const heard = saidOf(vm, text);
      assert.equal(heard.length, said.length, heard.join('\n'));
      for (const [at, line] of said.entries())
        if (line.includes('\\d')) assert.match(heard[at] ?? '', new RegExp(line));
        else assert.equal(heard[at], line);
    });
  }

  it('is read from its folder, and a file that cannot be read is told like any mistake', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-spec-'));
    try {
      const file = path.join(folder, 'vm.yaml');
      await writeFile(file, FIVE);
      assert.equal((await readVmFile(file)).disks[0]?.image, path.join(folder, 'web.qcow2'));
      await assert.rejects(readVmFile(path.join(folder, 'no')), /no:1:1: cannot be read: ENOENT/);
      await assert.rejects(readNodeFile(folder), /:1:1: cannot be read: it is no plain file/);
      await writeFile(file, `#${' '.repeat(MAX_SPEC_FILE_BYTES)}`);
      await assert.rejects(readVmFile(file), /the file is too large: at most 65536 bytes/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('node.yaml', () => {
  it('of one line has every default', () => {
    const config = node('arbiter: {file: /shared}');
    assert.deepEqual(config, {
      version: 1,
      name: 'a',
      address: '127.0.0.1',
      port: 7700,
      heartbeat: { address: '127.0.0.1', port: 7701, intervalMs: 100, patienceMs: 400 },
      pairPorts: [7710, 7899],
      stateFolder: '/var/lib/colo',
      runFolder: '/run/colo',
      memoryMiB: 7168,
      arbiter: { kind: 'file', directory: '/shared' },
      metrics: { address: '127.0.0.1', port: 7702 },
      dashboard: { address: '127.0.0.1', port: 7703, names: [] },
      logLevel: 'info',
    });
    const user = { isRoot: false, uid: 7, home: '/home/u' };
    const { stateFolder, runFolder } = node('arbiter: {file: x}', user);
    assert.deepEqual([stateFolder, runFolder], ['/home/u/.local/state/colo', '/tmp/colo-7']);
    const own = { XDG_RUNTIME_DIR: '/run/user/7', XDG_STATE_HOME: '/s' };
    const xdg = node('arbiter: {file: x}', { ...user, env: own });
    assert.deepEqual([xdg.stateFolder, xdg.runFolder], ['/s/colo', '/run/user/7/colo']);
  });

  it('may have no metrics, or others', () => {
    const metrics = (text: string): unknown => node(`arbiter: {file: /x}\nmetrics: ${text}`).metrics;
    assert.equal(metrics('false'), null);
    assert.deepEqual(metrics('"[::]:9"'), { address: '::', port: 9 });
    assert.deepEqual(metrics('{port: 0}'), { address: '127.0.0.1', port: 0 });
  });

  it('may have no dashboard, or another', () => {
    const dashboard = (text: string): unknown => node(`arbiter: {file: /x}\ndashboard: ${text}`).dashboard;
    assert.equal(dashboard('false'), null);
    assert.deepEqual(dashboard('"[::1]:9"'), { address: '::1', port: 9, names: [] });
    assert.deepEqual(dashboard('{port: 0, names: [a.example.org]}'), {
      address: '127.0.0.1',
      port: 0,
      names: ['a.example.org'],
    });
    assert.deepEqual(dashboard('{address: 0.0.0.0, token-file: t}'), {
      address: '0.0.0.0',
      port: 7703,
      names: [],
      tokenFile: '/here/t',
    });
  });

  const WRONG: readonly (readonly [text: string, ...said: string[]])[] = [
    [
      'arbiter: {file: /x}\ndashboard:\n  address: 192.0.2.1\n  names: [a/b]\n  tls: x',
      'node.yaml:3:3: dashboard.token-file: is missing; 192.0.2.1 can be reached from other machines: give the path of a file with a token of 16 letters or more',
      "node.yaml:4:11: dashboard.names[0]: 'a/b' has to be a name of this host, without a port",
      'node.yaml:5:3: dashboard.tls: is no key here; known are address, port, token-file, names',
    ],
    [
      'arbiter: {file: /x}\ndashboard: 0.0.0.0:7703',
      'node.yaml:2:12: dashboard: needs a token, for 0.0.0.0 can be reached from other machines: give the path of a file with a token of 16 letters or more (dashboard: {address, port, token-file})',
    ],
    [
      'name: a\nadress: x\npair-ports: 7-8',
      'node.yaml:1:1: arbiter: is missing; name what keeps the hosts from both going on: file: FOLDER, which every host sees, or etcd',
      "node.yaml:2:1: adress: is no key here; did you mean 'address'?",
      'node.yaml:3:13: pair-ports: four ports between 1 and 65535 are due at least, the smaller one first',
    ],
    [
      'arbiter: {file: x, etcd: {endpoints: [http://h]}}',
      'node.yaml:1:10: arbiter: one of file and etcd is due',
    ],
    ['arbiter: {}', 'node.yaml:1:10: arbiter: one of file and etcd is due'],
    [
      'arbiter:\n  etcd: {user: u, tls: {cert: c}}',
      'node.yaml:2:9: arbiter.etcd.endpoints: is missing; give http(s)://HOST:PORT of each member',
      'node.yaml:2:9: arbiter.etcd: user and password-file belong together',
      'node.yaml:2:24: arbiter.etcd.tls.ca: is missing; give the certificates to trust',
      'node.yaml:2:24: arbiter.etcd.tls: cert and key belong together',
    ],
    [
      'arbiter: {file: /x}\ntls: {ca: c}',
      'node.yaml:2:6: tls.cert: is missing; give the path of a PEM file',
      'node.yaml:2:6: tls.key: is missing; give the path of a PEM file',
    ],
    [
      'arbiter: {file: /x}\nmetrics: 9',
      "node.yaml:2:10: metrics: a text is due, not '9'; write '9' in quotes",
    ],
    [
      'arbiter: {file: /x}\nport: 70000',
      "node.yaml:2:7: port: a whole number from 0 to 65535 is due, not '70000'",
    ],
  ];
  for (const [text, ...said] of WRONG) {
    it(`says what is wrong with ${JSON.stringify(text).slice(0, 60)}`, () =>
      assert.deepEqual(saidOf(node, text), said));
  }

  it('needs a name when the system has none', () => {
    const said = saidOf((text) => node(text, { hostname: '_' }), 'arbiter: {file: /x}');
    assert.deepEqual(said, [
      "node.yaml:1:1: name: is missing; the system's host name '_' is none; give the host a name",
    ]);
  });
});

describe('any text', () => {
  const readers = [vm, (text: string): unknown => node(text)];
  const keys = [
    'name',
    'image',
    'disks',
    'network',
    'hosts',
    'mac',
    'memory',
    'arbiter',
    'etcd',
    'tls',
    '<<',
  ];
  const scalars = fc.oneof(
    fc.constantFrom(
      'web',
      '1G',
      '2s',
      '~',
      'null',
      'true',
      '"',
      "'",
      '&a x',
      '*a',
      '!!binary x',
      '0x10',
      '.nan',
    ),
    fc.string({ maxLength: 12 }),
    fc.integer().map(String),
  );
  const yaml = fc.letrec<{ node: string }>((tie) => ({
    node: fc.oneof(
      { maxDepth: 4 },
      scalars,
      fc.array(tie('node'), { maxLength: 4 }).map((items) => `[${items.join(', ')}]`),
      fc
        .array(fc.tuple(fc.oneof(fc.constantFrom(...keys), scalars), tie('node')), { maxLength: 5 })
        .map((pairs) => `{${pairs.map(([key, value]) => `${key}: ${value}`).join(', ')}}`),
    ),
  })).node;
  const file = fc.oneof(
    yaml,
    fc
      .array(fc.tuple(fc.constantFrom(...keys, 'engine', 'metrics', 'options'), yaml), { maxLength: 8 })
      .map((pairs) => pairs.map(([key, value]) => `${key}: ${value}`).join('\n')),
    fc.string({ unit: 'binary', maxLength: 200 }),
  );

  it('is read, or refused with places in the text and one line a problem', () => {
    fc.assert(
      fc.property(file, (text) => {
        for (const read of readers) {
          try {
            read(text);
          } catch (error) {
            assert.ok(error instanceof SpecFileError, String(error));
            const lines = text.split(/\r\n|\n|\r/).length;
            for (const { line, column } of error.problems)
              assert.ok(line >= 1 && line <= lines + 1 && column >= 1, `${line}:${column} of ${lines}`);
            assert.ok(error.message.split('\n').length <= MAX_PROBLEMS + 1);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it('unfolds to no more than its bound', () => {
    let bomb = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n';
    for (let at = 1; at < 9; at++)
      bomb += `a${at}: &a${at} [${Array<string>(9)
        .fill(`*a${at - 1}`)
        .join(', ')}]\n`;
    assert.match(saidOf(vm, bomb).join(), /unfolds to more than 10000 values/);
    assert.match(saidOf(vm, 'a: &a [*a]').join(), /nested too deeply/);
    assert.match(saidOf(vm, '['.repeat(60_000)).join(), /^vm\.yaml:\d+:\d+: /);
    assert.match(saidOf(vm, `x: ${'{a: '.repeat(40)}1${'}'.repeat(40)}`).join(), /nested too deeply/);
    assert.match(saidOf(vm, '*nobody').join(), /nobody/);
  });
});

describe('JSON of a VM', () => {
  const json = (): Record<string, unknown> => JSON.parse(JSON.stringify(vm(FIVE))) as Record<string, unknown>;

  it('comes back as it was, and whatever a neighbour’s version adds is left out', () => {
    assert.deepEqual(parseVmSpec(json()), vm(FIVE));
    const disks = [{ ...vm(FIVE).disks[0], cache: 'x' }];
    assert.deepEqual(parseVmSpec({ ...json(), version: 2, disks, priority: 7 }), vm(FIVE));
    assert.deepEqual(parseVmSpec({ ...json(), version: 0 }), vm(FIVE));
  });

  it('that is wrong is refused by the member', () => {
    const said = (change: Record<string, unknown>): string => {
      try {
        parseVmSpec({ ...json(), ...change });
      } catch (error) {
        return String(error);
      }
      return assert.fail('taken');
    };
    assert.match(said({ version: 3 }), /^ParameterError: VM description: version: /);
    assert.match(said({ name: '../x' }), /name: has to be 1 to 63/);
    assert.match(said({ disks: [] }), /disks: /);
    assert.match(
      said({ disks: [{ id: 'disk1', image: '/i', interface: 'ide' }] }),
      /disks\[0\]\.id: 'disk0' is due/,
    );
    assert.match(
      said({ disks: [{ id: 'disk0', image: 'i', interface: 'ide' }] }),
      /image: has to be an absolute path/,
    );
    assert.match(said({ nics: [{ id: 'nic0', mac: 'x', model: 'y', edge: {} }] }), /nics\[0\]/);
    assert.match(said({ cpus: 2 }), /cpus: engine v86 has one CPU/);
    assert.match(said({ options: ['-qmp'] }), /'-qmp' is given by the node itself/);
    assert.throws(() => parseVmSpec(null), /VM description: /);
  });

  it('of anything a file can say is valid', () => {
    for (const text of [FIVE, ...examples('vm-file.md')]) assert.deepEqual(parseVmSpec(vm(text)), vm(text));
  });
});

describe('quantities', () => {
  it('are QEMU’s', () => {
    assert.deepEqual(
      ['1k', '1K', '2M', '1.5G', '10', '3b', '4KiB', '1T', '1P'].map((text) => bytesOf(text)),
      [1024, 1024, 2 ** 21, 1.5 * 2 ** 30, 10, 3, 4096, 2 ** 40, 2 ** 50],
    );
    assert.equal(bytesOf(256, 2 ** 20), 2 ** 28);
    for (const bad of ['', 'M', '-1', '1.5', '1e3', '0x10', '1 M', '9'.repeat(16), '1G5'])
      assert.equal(bytesOf(bad), null, bad);
    assert.deepEqual(['500ms', '2s', '1.5s', '1m', '2min', '1h'].map(millisecondsOf), [
      ...[500, 2000, 1500, 60_000, 120_000, 3_600_000],
    ]);
    for (const bad of ['', '2', 's', '-1s', '2 s', '1d']) assert.equal(millisecondsOf(bad), null, bad);
    assert.deepEqual([0, 512, 1536, 2 ** 20, 3 * 2 ** 30].map(sizeText), [
      ...['0 bytes', '512 bytes', '1536 bytes', '1M', '3G'],
    ]);
    fc.assert(
      fc.property(fc.integer({ min: 1024, max: 2 ** 40 }), (bytes) => {
        const text = sizeText(bytes);
        if (!text.endsWith('bytes')) assert.equal(bytesOf(text), bytes);
      }),
    );
  });

  it('that are misspelt remind of one word or of none', () => {
    const words = ['name', 'image', 'memory', 'network', 'link-patience'];
    assert.deepEqual(
      ['nmae', 'images', 'mem', 'NETWORK', 'link_patience', 'zzz'].map((word) => nearest(word, words)),
      ['name', 'image', null, 'network', 'link-patience', null],
    );
  });
});

/** The YAML blocks of a document. */
function examples(page: string): string[] {
  const text = readFileSync(new URL(`../../../docs/${page}`, import.meta.url), 'utf8');
  return [...text.matchAll(/^```yaml\n([^]*?)^```/gm)].map((match) => match[1]!);
}

/** The keys in the first columns of a document's tables. */
function tableKeys(page: string): Set<string> {
  const whole = readFileSync(new URL(`../../../docs/${page}`, import.meta.url), 'utf8');
  // Its table is of findings.
  const text = whole.replace(/^## Before it runs$[^]*?(?=^## )/m, '');
  const cells = [...text.matchAll(/^\| (`[^|]+) +\|/gm)].map((match) => match[1]!);
  return new Set(cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!)));
}

/** What the reader knows in a map, by its own words about a key that is like none. */
function known(parse: (text: string) => unknown, before: string): string[] {
  const text = before.replace('@', 'qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq: 1');
  const said = saidOf(parse, text).find((line) => line.includes('known are')) ?? '';
  return /known are (.*)$/.exec(said)?.[1]?.split(', ') ?? [];
}

describe('the documents', () => {
  it('have examples that are read', () => {
    assert.equal(examples('vm-file.md').length, 3);
    for (const text of examples('vm-file.md')) vm(text);
    assert.equal(examples('node-file.md').length, 2);
    for (const text of examples('node-file.md')) node(text);
  });

  it('show what is said of mistakes', () => {
    const page = readFileSync(new URL('../../../docs/vm-file.md', import.meta.url), 'utf8');
    const [wrong = '', said = ''] = [...page.matchAll(/^```text\n([^]*?)^```/gm)].map((match) => match[1]!);
    assert.equal(`${saidOf(vm, wrong).join('\n')}\n`, said);
  });

  it('have every key of the readers in a table, and no other', () => {
    const table = tableKeys('vm-file.md');
    const keys = [
      ...known(vm, '@'),
      ...known(vm, 'disks: [{@}]'),
      ...known(vm, 'network: [{@}]'),
      ...known(vm, 'checkpoint: {@}').map((key) => `checkpoint.${key}`),
      ...known(vm, 'heartbeat: {@}').map((key) => `heartbeat.${key}`),
      ...known(vm, 'resync: {@}').map((key) => `resync.${key}`),
    ];
    assert.deepEqual([...table].sort(), [...new Set(keys)].sort());
    const nodeTable = tableKeys('node-file.md');
    const nodeKeys = [
      ...known(node, '@'),
      ...known(node, 'heartbeat: {@}').map((key) => `heartbeat.${key}`),
      ...known(node, 'arbiter: {@}').map((key) => `arbiter.${key}`),
      ...known(node, 'arbiter: {etcd: {@}}').filter((key) => key !== 'tls'),
      ...known(node, 'arbiter: {etcd: {tls: {@}}}').map((key) => `tls.${key}`),
      ...known(node, 'tls: {@}').map((key) => `tls.${key}`),
      ...known(node, 'metrics: {@}').map((key) => `metrics.${key}`),
      ...known(node, 'dashboard: {@}').map((key) => `dashboard.${key}`),
    ];
    assert.deepEqual([...nodeTable].sort(), [...new Set(nodeKeys)].sort());
  });
});
