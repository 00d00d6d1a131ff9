/**
 * How far resyncs are, for a bar: the copies of a VM together, with a rate and the time that is left, measured from the
 * first look at this resync. One meter a command; it remembers the VMs whose resync goes on, and no other.
 */
import type { VmView } from '../../ha/views.ts';
import { age, size } from './text.ts';

export interface ResyncProgress {
  /** 0 to 1. */
  readonly fraction: number;
  /** `web1: disks to beta, 512 MiB of 2.0 GiB, 12.0 MiB/s, 40 s left` */
  readonly text: string;
}

interface Begun {
  readonly atMs: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export class ResyncMeter {
  readonly #begun = new Map<string, Begun>();

  /** Null: nothing of this VM is being copied. */
  look(vm: VmView, nowMs: number): ResyncProgress | null {
    const copies = vm.copies.filter(({ resync }) => resync !== undefined);
    if (copies.length === 0) {
      this.#begun.delete(vm.name);
      return null;
    }
    const sum = (member: 'doneBytes' | 'totalBytes'): number =>
      copies.reduce((total, { resync }) => total + (resync?.[member] ?? 0), 0);
    const [doneBytes, totalBytes] = [sum('doneBytes'), sum('totalBytes')];
    let begun = this.#begun.get(vm.name);
    if (!begun || doneBytes < begun.doneBytes || totalBytes !== begun.totalBytes) {
      begun = { atMs: nowMs, doneBytes, totalBytes };
      this.#begun.set(vm.name, begun);
    }
    const seconds = (nowMs - begun.atMs) / 1000;
    const rate = seconds > 0 ? (doneBytes - begun.doneBytes) / seconds : 0;
    const hosts = copies.map(({ host }) => host).join(', ');
    const speed =
      rate > 0 ? `, ${size(rate)}/s, ${age(0, ((totalBytes - doneBytes) / rate) * 1000)} left` : '';
    return {
      fraction: totalBytes === 0 ? 1 : doneBytes / totalBytes,
      text: `${vm.name}: disks to ${hosts}, ${size(doneBytes)} of ${size(totalBytes)}${speed}`,
    };
  }
}

const BAR_WIDTH = 24;

/** For a screen that is drawn whole. */
export function barLine({ fraction, text }: ResyncProgress): string {
  const full = Math.round(Math.min(1, Math.max(0, fraction)) * BAR_WIDTH);
  return `[${'='.repeat(full)}${'-'.repeat(BAR_WIDTH - full)}] ${Math.floor(fraction * 100)}% ${text}`;
}
