/** How a QEMU is told of NICs that are served here, beside those at the other end of a pipe. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { qemuArgs } from '../../../../src/engine/qemu/args.ts';
import { buildParts } from '../../../../src/engine/qemu/build.ts';
import type { DiskPort } from '../../../../src/engine/qemu/disk-port.ts';
import type { QemuSpec } from '../../../../src/engine/qemu/index.ts';

const nic = (id: string, isVirtio: boolean) => ({ id, netdev: `of-${id}`, mac: new Uint8Array(6), isVirtio });
const noDisks = { args: () => [] as string[] } as unknown as DiskPort;

function specOf(changes: Partial<QemuSpec>, major = 7): QemuSpec {
  const qemu = {
    binary: 'qemu',
    version: `${major}.2`,
    major,
    minor: 2,
    machines: new Map(),
    accelerators: new Set<string>(),
  };
  const nics = [nic('a', true), nic('b', false), nic('c', true)];
  const base = {
    name: 'x',
    ramBytes: 2 ** 25,
    machine: 'pc',
    args: ['-global', 'mine.vectors=4'],
    identity: [],
  };
  return {
    qemu,
    ...base,
    disks: [],
    nics,
    serialPorts: 1,
    chardevs: ['x'],
    incoming: true,
    ...changes,
  };
}

const argsOf = (changes: Partial<QemuSpec>, major?: number): string[] =>
  qemuArgs(specOf(changes, major), noDisks, null);

const NO_MSIX = 'virtio-net-pci-base.vectors=0';

it('NICs at pipes, serial ports and chardevs come first, then the sockets', () => {
  const text = argsOf({}).join(' ');
  for (const part of [
    '-chardev socket,id=colo-nic0,path=/proc/self/fd/11 -netdev vhost-user,id=of-a,chardev=colo-nic0 ',
    '-netdev stream,id=of-b,server=off,addr.type=fd,addr.str=8 ',
    '-chardev socket,id=colo-nic2,path=/proc/self/fd/12 -netdev vhost-user,id=of-c,chardev=colo-nic2 ',
    '-chardev socket,id=colo-serial0,fd=9 ',
    '-chardev socket,id=x,fd=10 ',
  ]) {
    assert.ok(text.includes(part), `${part} in ${text}`);
  }
});

it('an older QEMU that emulates gets no MSI-X for them, whatever a -global says', () => {
  const args = argsOf({});
  assert.ok(args.lastIndexOf(NO_MSIX) > args.lastIndexOf('mine.vectors=4'));
  assert.ok(!argsOf({ hasIrqfd: true }).includes(NO_MSIX));
  assert.ok(!argsOf({}, 10).includes(NO_MSIX));
  assert.ok(!argsOf({ nics: [nic('b', false)] }).includes(NO_MSIX));
});

it('both sides of a pair must have them alike', () => {
  const parts = buildParts(specOf({}));
  assert.ok(parts.includes('NIC a on of-a with 000000000000 and offloads'));
  assert.ok(parts.includes('NIC b on of-b with 000000000000'));
});
