/** `colo img info` for people: the lines of qemu-img info (QEMU block/qapi.c, asked of QEMU 7.2). */
import type { ImageInfo } from './info.ts';
import { indentedText } from './info-json.ts';
import type { SnapshotInfo } from './qcow2-extras.ts';
import { humanSize } from './sizes.ts';

export function humanInfo(info: ImageInfo): string {
  const { actualBytes, backing, fullBacking } = info;
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${humanSize(info.virtualBytes)} (${info.virtualBytes} bytes)`,
    `disk size: ${actualBytes === undefined ? 'unavailable' : humanSize(actualBytes)}`,
  ];
  if (info.encrypted) lines.push('encrypted: yes');
  if (info.clusterBytes !== undefined) lines.push(`cluster_size: ${info.clusterBytes}`);
  if (info.dirty) lines.push('cleanly shut down: no');
  if (backing !== undefined) {
    const actual =
      fullBacking === undefined || fullBacking === backing ? '' : ` (actual path: ${fullBacking})`;
    lines.push(`backing file: ${backing}${actual}`);
  }
  if (info.backingFormat !== undefined) lines.push(`backing file format: ${info.backingFormat}`);
  const snapshots = info.snapshots ?? [];
  if (snapshots.length > 0) {
    lines.push('Snapshot list:');
    lines.push('ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT');
    lines.push(...snapshots.map(snapshotLine));
  }
  if (info.specific) lines.push('Format specific information:', ...indentedText(info.specific, '    '));
  return `${lines.join('\n')}\n`;
}

function snapshotLine({ id, name, vmStateBytes, dateSec, vmClockNsec, icount }: SnapshotInfo): string {
  const two = (value: number | bigint): string => String(value).padStart(2, '0');
  const date = new Date(dateSec * 1000);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  const seconds = vmClockNsec / 1_000_000_000n;
  const thousandths = String((vmClockNsec / 1_000_000n) % 1000n).padStart(3, '0');
  const clock = `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${two(seconds % 60n)}.${thousandths}`;
  return (
    `${id.padEnd(9)} ${name.padEnd(16)} ${humanSize(vmStateBytes).padStart(8)}${`${day} ${time}`.padStart(20)}` +
    `${clock.padStart(13)}${(icount === null ? '' : String(icount)).padStart(11)}`
  );
}
