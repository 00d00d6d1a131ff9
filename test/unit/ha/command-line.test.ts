// The words for a first primary and a secondary: the document's for one disk and one NIC, and as many as there are.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { firstPrimaryArguments, secondaryArguments } from '../../../src/ha/command-line.ts';
import { diskNames, nicNames, tapName } from '../../../src/ha/names.ts';
import type { PairLinks } from '../../../src/ha/pair-links.ts';
import { parseCommandLine } from '../../../src/vm/command-line/parse.ts';
import { secondaryWords } from '../../e2e/procedure-lines.ts';
import { disk, links, spec } from './pair-fixtures.ts';

/** The words from `from` on, of one machine. */
const behind = (words: readonly string[], from: string): string[] => words.slice(words.indexOf(from));

describe('the words of a VM', () => {
  it('of one disk and one NIC are the document’s', () => {
    const at: PairLinks = { ...links(1), migrationPort: 9998, secondaryHost: '0' };
    const words = secondaryArguments(spec(), [disk(0)], {
      ...at,
      nics: [{ id: 'nic0', mirrorPort: 9003, comparePort: 9004 }],
    });
    // One word differs: QEMU's document has top-id=colo-disk0 by now.
    const theirs = secondaryWords('/vm/disk0.qcow2', '/vm/disk0-active.qcow2', '/vm/disk0-hidden.qcow2').map(
      (word) => word.replace('top-id=childs0', 'top-id=colo-disk0'),
    );
    assert.deepEqual(behind(words, '-chardev'), theirs);
  });

  it('of a first primary have a quorum a disk, and nothing of a pair', () => {
    assert.deepEqual(firstPrimaryArguments(spec({ disks: 2, nics: 2 }), [disk(0), disk(1)]), [
      ...['-accel', 'v86', '-smp', '1', '-m', '128', '-display', 'none'],
      ...['-netdev', 'stream,id=hn0,server=off,addr.type=unix,addr.path=/run/switch0.sock'],
      ...['-device', 'ne2k_pci,id=e0,netdev=hn0,mac=52:54:00:00:00:00'],
      ...['-netdev', 'stream,id=hn1,server=off,addr.type=unix,addr.path=/run/switch1.sock'],
      ...['-device', 'ne2k_pci,id=e1,netdev=hn1,mac=52:54:00:00:00:01'],
      '-drive',
      'if=ide,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0.file.filename=/vm/disk0.qcow2,children.0.driver=qcow2',
      '-drive',
      'if=ide,id=colo-disk1,driver=quorum,read-pattern=fifo,vote-threshold=1,children.0.file.filename=/vm/disk1.qcow2,children.0.driver=qcow2',
    ]);
  });

  it('name every part once, whatever the number', () => {
    const words = secondaryArguments(
      spec({ disks: 3, nics: 4 }),
      [0, 1, 2].map((at) => disk(at)),
      links(4),
    );
    const ids = words.flatMap((word) => /(?:^|,)id=([^,]+)/.exec(word)?.[1] ?? []);
    assert.equal(new Set(ids).size, ids.length, ids.join(' '));
    const primary = [0, 1, 2, 3].flatMap((at) => Object.values<string>({ ...nicNames(at) }));
    assert.equal(new Set(primary).size, primary.length, primary.join(' '));
    const disks = [0, 1, 2].flatMap((at) => Object.values<string>({ ...diskNames(at) }));
    assert.equal(new Set(disks).size, disks.length, disks.join(' '));
    // What is typed at a shell is understood by our own parser.
    const config = parseCommandLine(words);
    assert.deepEqual([config.netdevs.length, config.chardevs.length, config.objects.length], [4, 8, 12]);
  });

  it('of a QEMU name it, its accelerator, its CPUs and what the person added', () => {
    const vm = {
      ...spec(),
      engine: 'tcg' as const,
      qemu: '/opt/qemu',
      cpus: 2,
      options: ['-vnc', ':1'],
    };
    const words = firstPrimaryArguments(vm, [disk(0)]);
    assert.deepEqual(words.slice(0, 6), ['--qemu', '/opt/qemu', '-accel', 'tcg', '-smp', '2']);
    assert.deepEqual(words.slice(-2), ['-vnc', ':1']);
  });

  it('lead a NIC to a bridge, a TAP device or a switch', () => {
    const cable = (edge: Parameters<typeof withEdge>[0]): string => {
      const words = firstPrimaryArguments(withEdge(edge), [disk(0)], { tapTag: 'a' });
      return words[words.indexOf('-netdev') + 1] ?? '';
    };
    assert.equal(cable({ kind: 'bridge', bridge: 'br7' }), 'tap,id=hn0,ifname=web-a.0,br=br7');
    assert.equal(cable({ kind: 'tap', ifname: 'tap3' }), 'tap,id=hn0,ifname=tap3,script=no,downscript=no');
    assert.equal(
      cable({ kind: 'switch', address: 'tcp:[::1]:7' }),
      'stream,id=hn0,server=off,addr.type=inet,addr.host=::1,addr.port=7',
    );
    assert.equal(
      cable({ kind: 'switch', address: 'unix:/a,b' }),
      'stream,id=hn0,server=off,addr.type=unix,addr.path=/a,,b',
    );
    assert.throws(() => cable({ kind: 'switch', address: 'udp:1' }), /NIC 'nic0': 'udp:1' is no switch/);
  });

  it('with TLS have the credentials first, and wait to be told of them', () => {
    const words = secondaryArguments(spec(), [disk(0)], { ...links(1), tlsFolder: '/etc/colo,tls' });
    assert.ok(words.includes('tls-creds-x509,id=tls-server,dir=/etc/colo,,tls,endpoint=server'));
    assert.ok(words.includes('tls-creds-x509,id=tls-client,dir=/etc/colo,,tls,endpoint=client'));
    assert.equal(words.filter((word) => word.endsWith(',tls-creds=tls-client')).length, 2);
    assert.deepEqual(words.slice(-2), ['-incoming', 'defer']);
  });

  it('are for the disks and NICs of that VM only', () => {
    assert.throws(() => firstPrimaryArguments(spec({ disks: 2 }), [disk(0)]), {
      message: "VM 'web' has the disks 'disk0, disk1', not 'disk0'",
    });
    assert.throws(() => secondaryArguments(spec(), [disk(0)], links(2)), {
      message: "The pair's links are for the NICs 'nic0, nic1', but the VM has 'nic0'",
    });
  });
});

function withEdge(edge: ReturnType<typeof spec>['nics'][number]['edge']): ReturnType<typeof spec> {
  const vm = spec();
  return { ...vm, nics: vm.nics.map((nic) => ({ ...nic, edge })) };
}

describe('tapName', () => {
  it('is readable where it fits, and never too long or another VM’s', () => {
    assert.equal(tapName('web', 0), 'web.0');
    assert.equal(tapName('web', 12, 'b'), 'web-b.12');
    const long = ['a-very-long-name-of-a-vm', 'a-very-long-name-of-a-vn'].flatMap((vm) =>
      [0, 1].flatMap((nic) => ['', 'p'].map((tag) => tapName(vm, nic, tag))),
    );
    assert.equal(new Set(long).size, long.length, long.join(' '));
    for (const name of long) assert.ok(name.length <= 15, name);
  });
});
