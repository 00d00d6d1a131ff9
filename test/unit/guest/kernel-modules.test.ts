/** What is read out of kernel modules, and the indexes made for modprobe. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { GuestBuildError } from '../../../src/guest/errors.ts';
import {
  aliasIndex,
  dependencyIndex,
  moduleName,
  readModinfo,
  withoutSignature,
  type KernelModule,
} from '../../../src/guest/kernel-modules.ts';

/** An ELF file of 32 or 64 bits with a .modinfo section and a section name table. */
function elfWithModinfo(info: string, bits: 32 | 64): Buffer {
  const names = Buffer.from('\0.modinfo\0.shstrtab\0', 'latin1');
  const body = Buffer.from(info, 'latin1');
  const [headBytes, entryBytes] = bits === 32 ? [52, 40] : [64, 64];
  const head = Buffer.alloc(headBytes);
  head.writeUInt32BE(0x7f454c46, 0);
  head[4] = bits / 32;
  head[5] = 1;
  const sectionsAt = headBytes + names.length + body.length;
  if (bits === 32) head.writeUInt32LE(sectionsAt, 32);
  else head.writeBigUInt64LE(BigInt(sectionsAt), 40);
  head.writeUInt16LE(entryBytes, headBytes - 6);
  head.writeUInt16LE(3, headBytes - 4);
  head.writeUInt16LE(2, headBytes - 2);
  const section = (name: number, offset: number, size: number): Buffer => {
    const entry = Buffer.alloc(entryBytes);
    entry.writeUInt32LE(name, 0);
    if (bits === 32) {
      entry.writeUInt32LE(offset, 16);
      entry.writeUInt32LE(size, 20);
    } else {
      entry.writeBigUInt64LE(BigInt(offset), 24);
      entry.writeBigUInt64LE(BigInt(size), 32);
    }
    return entry;
  };
  const table = [
    section(0, 0, 0),
    section(1, headBytes + names.length, body.length),
    section(10, headBytes, names.length),
  ];
  return Buffer.concat([head, names, body, ...table]);
}

function module(path: string, depends: string[], aliases: string[] = []): KernelModule {
  return { path, depends, aliases, data: new Uint8Array() };
}

describe('readModinfo', () => {
  for (const bits of [32, 64] as const) {
    it(`gives the section of a ${bits}-bit module as key and value`, () => {
      const text = 'license=GPL\0alias=pci:v00001AF4d*\0depends=mii,crc-t10dif\0';
      assert.deepEqual(readModinfo(elfWithModinfo(text, bits)), [
        ['license', 'GPL'],
        ['alias', 'pci:v00001AF4d*'],
        ['depends', 'mii,crc-t10dif'],
      ]);
    });
  }

  it('refuses a file that is not an ELF of either size', () => {
    const strange = elfWithModinfo('license=GPL\0', 64);
    strange[4] = 3;
    assert.throws(() => readModinfo(strange), GuestBuildError);
    assert.throws(() => readModinfo(Buffer.alloc(100)), GuestBuildError);
    assert.throws(() => readModinfo(Buffer.alloc(3)), GuestBuildError);
  });
});

describe('withoutSignature', () => {
  const magic = Buffer.from('~Module signature appended~\n', 'latin1');
  const signed = (length: number): Buffer => {
    const info = Buffer.alloc(12);
    info.writeUInt32BE(length, 8);
    return Buffer.concat([Buffer.from('MODULE'), Buffer.alloc(5, 1), info, magic]);
  };

  it('cuts the signature, its description and the magic', () => {
    assert.equal(withoutSignature(signed(5)).toString(), 'MODULE');
  });

  it('leaves unsigned and damaged modules as they are', () => {
    assert.equal(withoutSignature(Buffer.from('MODULE')).toString(), 'MODULE');
    assert.equal(withoutSignature(signed(4000)).length, signed(4000).length);
  });
});

describe('the indexes', () => {
  const modules = [
    module('kernel/a/sd_mod.ko', ['t10_pi', 'scsi_mod'], ['scsi:t-0x00*']),
    module('kernel/a/scsi_mod.ko', ['scsi_common']),
    module('kernel/a/scsi_common.ko', []),
    module('kernel/b/t10-pi.ko', []),
  ];

  it('lists dependencies so that each comes before what it needs, as modprobe loads from the end', () => {
    const [line] = dependencyIndex(modules).split('\n');
    assert.equal(line, 'kernel/a/sd_mod.ko: kernel/a/scsi_mod.ko kernel/a/scsi_common.ko kernel/b/t10-pi.ko');
  });

  it('maps aliases to module names', () => {
    assert.equal(aliasIndex(modules), 'alias scsi:t-0x00* sd_mod\n');
    assert.equal(moduleName('kernel/drivers/net/ne2k-pci.ko'), 'ne2k_pci');
  });

  it('survives modules that name each other', () => {
    const cycle = [module('x/a.ko', ['b']), module('x/b.ko', ['a'])];
    assert.match(dependencyIndex(cycle), /^x\/a\.ko: /);
  });
});
