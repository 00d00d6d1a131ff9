/** The words of the buttons, and what the dialog says before it is done. */
import type { Action, VmPicture } from '../../src/dashboard/protocol.ts';

export interface ActionWords {
  readonly label: string;
  /** What will happen, for the one who decides. */
  readonly says: (vm: VmPicture) => string;
  readonly confirm: string;
  /** `harm`: done to a process as a failing host would do it. */
  readonly kind: 'plain' | 'move' | 'harm';
}

const on = (host: string | null): string => (host === null ? '' : ` on ${host}`);

export const ACTION_WORDS: Readonly<Record<Action, ActionWords>> = {
  checkpoint: {
    label: 'Checkpoint now',
    says: (vm) =>
      `The state of ${vm.name} is copied to the secondary${on(vm.secondary)} at once. The guest stands still for a few milliseconds.`,
    confirm: 'Take a checkpoint',
    kind: 'plain',
  },
  failover: {
    label: 'Planned failover',
    says: (vm) =>
      `The secondary${on(vm.secondary)} takes over ${vm.name} from ${vm.primary ?? 'the primary'}. The guest runs on; until a new secondary is ready it has no second copy.`,
    confirm: 'Fail over',
    kind: 'move',
  },
  migrate: {
    label: 'Move…',
    says: (vm) => `One copy of ${vm.name} is moved to the host that you choose. The guest runs on.`,
    confirm: 'Move',
    kind: 'move',
  },
  pause: {
    label: 'Suspend automation',
    says: (vm) =>
      `Nothing is done for ${vm.name} by itself any more: no resync, no new secondary. It runs on.`,
    confirm: 'Suspend',
    kind: 'plain',
  },
  resume: {
    label: 'Resume automation',
    says: (vm) => `${vm.name} is looked after again.`,
    confirm: 'Resume',
    kind: 'plain',
  },
  'kill-primary': {
    label: 'Kill primary',
    says: (vm) =>
      `The process of the primary${on(vm.primary)} is killed, as if its host lost power. The secondary goes on.`,
    confirm: 'Kill it',
    kind: 'harm',
  },
  'kill-secondary': {
    label: 'Kill secondary',
    says: (vm) =>
      `The process of the secondary${on(vm.secondary)} is killed. The primary goes on alone, and a new secondary is made.`,
    confirm: 'Kill it',
    kind: 'harm',
  },
  'freeze-primary': {
    label: 'Freeze primary',
    says: (vm) =>
      `The process of the primary${on(vm.primary)} is stopped: it does not answer, but it has not died either.`,
    confirm: 'Freeze it',
    kind: 'harm',
  },
  'cut-link': {
    label: 'Cut the link',
    says: () =>
      'The network between the two hosts is cut. Both copies live and cannot hear each other: one of them may go on.',
    confirm: 'Cut it',
    kind: 'harm',
  },
};
