/** Waits between tries to connect: doubled up to a bound, random by a quarter so that watchers do not come all at once. */
export const FIRST_WAIT_MS = 250;
export const LONGEST_WAIT_MS = 4000;

export function waitMs(failures: number, random: () => number = Math.random): number {
  const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(failures, 10));
  return Math.round(wait * (1 - random() / 4));
}
