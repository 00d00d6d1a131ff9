/** The registry of block drivers: QEMU's driver name → opener. A new driver is one file and one line here. */
import type { DriverOpener, DriverRegistry } from '../registry.ts';
import { openBlkdebug } from './blkdebug.ts';
import { openFile } from './file.ts';
import { openMemory } from './memory.ts';
import { openNbd } from './nbd.ts';
import { openNull } from './null-co.ts';
import { openQcow2 } from './qcow2/open.ts';
import { openQuorum } from './quorum.ts';
import { openRaw } from './raw.ts';
import { openReplication } from './replication.ts';

export const blockDrivers: DriverRegistry = new Map<string, DriverOpener>([
  ['blkdebug', openBlkdebug],
  ['file', openFile],
  ['host_device', openFile],
  ['memory', openMemory],
  ['nbd', openNbd],
  ['null-co', openNull],
  ['qcow2', openQcow2],
  ['quorum', openQuorum],
  ['raw', openRaw],
  ['replication', openReplication],
]);
