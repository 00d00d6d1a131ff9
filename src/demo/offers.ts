/** What may be done to the demo's VM in which state. Done to processes, as a failing host would do it. */
import type { Action } from '../dashboard/protocol.ts';
import type { VmState } from '../ha/views.ts';

/** What a blow does; in no other state than those below would the guest survive it. */
export const BLOWS = ['kill-primary', 'kill-secondary', 'freeze-primary', 'cut-link'] as const;
export type Blow = (typeof BLOWS)[number];

const WHOLE: readonly Action[] = ['checkpoint', 'failover', ...BLOWS];

/** In a state that is not here, nothing. */
export const OFFERS: Readonly<Partial<Record<VmState, readonly Action[]>>> = {
  syncing: ['kill-secondary'],
  protecting: ['kill-secondary'],
  protected: WHOLE,
  // Nobody is heard who has not been vouched for, so that either may still die.
  suspect: ['kill-primary', 'kill-secondary'],
};

/** How a death is told in a line. */
export const BLOW_WORDS: Readonly<Record<Blow | 'failover', string>> = {
  'kill-primary': 'killed the primary (SIGKILL)',
  'kill-secondary': 'killed the secondary (SIGKILL)',
  'freeze-primary': 'froze the primary (SIGSTOP), killed it before the other was heard',
  'cut-link': 'cut the link, killed the secondary before the primary was heard',
  failover: 'switched over as planned',
};
