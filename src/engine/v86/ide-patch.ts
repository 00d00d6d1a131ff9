/**
 * v86's IDE drives, made honest. As published they (1) acknowledge PIO writes before they are written, (2) acknowledge
 * FLUSH CACHE without doing anything, (3) tell the guest that there is no write cache, so that it would never flush,
 * (4) know no I/O errors, and (5) answer a request beyond the end with a status that leaves the guest waiting.
 * The methods of their prototype are replaced here; everything else stays v86's.
 *
 * Facts: ATA/ATAPI-7 volume 1 (6.16 FLUSH CACHE, 6.17 IDENTIFY DEVICE words 82 and 85, 5.5 error reporting); v86's
 * IDEInterface in build/libv86-debug.mjs.
 */
import type { BridgeDisk } from './disk-bridge.ts';
import type { DiskOp } from './protocol.ts';
import type { V86IdeDrive, V86IdePrototype } from './internals.ts';

const STATUS_BUSY = 0xd0; // BSY | DRDY | DSC
const STATUS_READY = 0x50; // DRDY | DSC
const STATUS_ERROR = 0x51; // DRDY | DSC | ERR
const ERROR_UNCORRECTABLE = 0x40;
const ERROR_ID_NOT_FOUND = 0x10;
const ERROR_ABORTED = 0x04;
const DMA_ACTIVE = 0x01;

const FLUSH_COMMANDS = new Set([0xe7, 0xea]); // FLUSH CACHE, FLUSH CACHE EXT
const LBA48_COMMANDS = new Set([0x24, 0x29, 0x25, 0x34, 0x39, 0x35]);
const TRANSFER_COMMANDS = new Set([0x20, 0x24, 0x29, 0xc4, 0xc8, 0x25, 0x30, 0x34, 0x39, 0xc5, 0xca, 0x35]);
const IDENTIFY_WORDS_WITH_WRITE_CACHE_BIT = [82, 85];
const WRITE_CACHE_BIT = 0x20;
const NOTHING = new Uint8Array(0);

/** Patches the class of `drives` and ties each to its disk. Call once per worker, before the guest runs. */
export function patchIde(drives: readonly { drive: V86IdeDrive; disk: BridgeDisk }[]): void {
  const first = drives[0]?.drive;
  if (!first) return;
  const proto = Object.getPrototypeOf(first) as V86IdePrototype;
  const disks = new Map(drives.map(({ drive, disk }) => [drive, disk]));
  // A reset of the drive forgets its request: the answer that still comes must not touch the registers.
  const generations = new Map<V86IdeDrive, number>();
  const generationOf = (drive: V86IdeDrive): number => generations.get(drive) ?? 0;

  const fail = (drive: V86IdeDrive, error: number): void => {
    drive.error_reg = error;
    drive.status_reg = STATUS_ERROR;
    drive.channel.dma_status &= ~DMA_ACTIVE;
    drive.current_command = -1;
    drive.data_length = 0;
    drive.data_end = 0;
    drive.push_irq();
  };

  const send = (
    drive: V86IdeDrive,
    disk: BridgeDisk,
    op: DiskOp,
    offset: number,
    length: number,
    data: Uint8Array | null,
    then: (data: Uint8Array) => void,
  ): void => {
    const generation = generationOf(drive);
    disk.submit(op, offset, length, data, (ok, read) => {
      if (generation !== generationOf(drive)) return;
      if (ok) then(read ?? NOTHING);
      else fail(drive, op === 'read' ? ERROR_UNCORRECTABLE : ERROR_ABORTED);
    });
  };

  for (const { drive, disk } of drives) {
    disk.onWrite = (start, data, done) => send(drive, disk, 'write', start, data.length, data, done);
  }

  const { ata_command, cancel_io_operations, create_identify_packet } = proto;

  proto.ata_command = function (command) {
    const disk = disks.get(this);
    if (disk && FLUSH_COMMANDS.has(command)) {
      this.current_command = command;
      this.error_reg = 0;
      this.status_reg = STATUS_BUSY;
      send(this, disk, 'flush', 0, 0, null, () => {
        this.status_reg = STATUS_READY;
        this.push_irq();
      });
      return;
    }
    if (disk && TRANSFER_COMMANDS.has(command)) {
      const isLba48 = LBA48_COMMANDS.has(command);
      const end = (this.get_lba(isLba48) + this.get_count(isLba48)) * this.sector_size;
      if (end > disk.byteLength) {
        fail(this, ERROR_ID_NOT_FOUND);
        return;
      }
    }
    ata_command.call(this, command);
  };

  proto.do_write = function () {
    const disk = disks.get(this);
    if (!disk) return;
    const bytes = this.data_length;
    this.status_reg = STATUS_BUSY;
    send(this, disk, 'write', this.write_dest, bytes, this.data.slice(0, bytes), () => {
      this.ata_advance(this.current_command, bytes / this.sector_size);
      this.status_reg = STATUS_READY;
      this.push_irq();
    });
    this.report_write(bytes);
  };

  proto.read_buffer = function (start, length, done) {
    const disk = disks.get(this);
    if (!disk) return;
    send(this, disk, 'read', start, length, null, done);
  };

  proto.cancel_io_operations = function () {
    generations.set(this, generationOf(this) + 1);
    cancel_io_operations.call(this);
  };

  proto.create_identify_packet = function () {
    create_identify_packet.call(this);
    if (!disks.has(this)) return;
    for (const word of IDENTIFY_WORDS_WITH_WRITE_CACHE_BIT) this.data[word * 2]! |= WRITE_CACHE_BIT;
  };
}
