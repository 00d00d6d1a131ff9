/** The four numbers of announce-self and of the migration parameters announce-* (QEMU qapi/net.json). */
import { ParameterError } from '../base/errors.ts';
import { ANNOUNCE_LIMITS } from '../net/announcer.ts';
import type { AnnounceTimes } from '../net/announcer.ts';

export const ANNOUNCE_TIMES = ['initial', 'max', 'rounds', 'step'] as const;

/** Throws ParameterError with QEMU's text. `shown`: what the number is called there. */
export function requireAnnounceTime(name: keyof AnnounceTimes, value: number, shown: string): void {
  if (value >= 0 && value <= ANNOUNCE_LIMITS[name]) return;
  throw new ParameterError(`Parameter '${shown}' expects a value between 0 and ${ANNOUNCE_LIMITS[name]}`);
}
