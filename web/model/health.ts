/**
 * How the two copies are, as the picture draws them: from the VM's state (src/ha/views.ts, docs/states/life.md), its copies,
 * and what this page remembers of a copy that is gone.
 */
import type { Copy, VmPicture } from '../../src/dashboard/protocol.ts';
import type { CopyView, VmState } from '../../src/ha/views.ts';
import { clock, percent } from './format.ts';
import type { Loss } from './state.ts';

export type Mood = 'running' | 'following' | 'joining' | 'starting' | 'silent' | 'lost' | 'absent';
export type Tone = 'good' | 'wait' | 'bad' | 'idle';

export interface CopyHealth {
  readonly copy: Copy;
  readonly host: string | null;
  readonly mood: Mood;
  readonly tone: Tone;
  /** One or two words, and a little more. */
  readonly word: string;
  readonly note: string;
  readonly pid: number | null;
  /** Of its disks, 0 to 1. */
  readonly resync: number | null;
}

export interface PairHealth {
  readonly primary: CopyHealth;
  readonly secondary: CopyHealth;
  /** Frames and writes pass between the copies; disks alone do while syncing. */
  readonly between: 'all' | 'disks' | 'none';
}

export const STATE_WORDS: Readonly<Record<VmState, { readonly word: string; readonly tone: Tone }>> = {
  down: { word: 'Down', tone: 'idle' },
  starting: { word: 'Starting', tone: 'wait' },
  unprotected: { word: 'Unprotected', tone: 'wait' },
  syncing: { word: 'Copying disks', tone: 'wait' },
  protecting: { word: 'First checkpoint', tone: 'wait' },
  protected: { word: 'Protected', tone: 'good' },
  suspect: { word: 'Other copy silent', tone: 'wait' },
  dissolving: { word: 'Taking over', tone: 'bad' },
  'backing-off': { word: 'Unprotected, waiting', tone: 'wait' },
  blocked: { word: 'Blocked', tone: 'bad' },
  stopping: { word: 'Stopping', tone: 'idle' },
};

const MOODS: Readonly<Record<Mood, { readonly word: string; readonly tone: Tone }>> = {
  running: { word: 'running', tone: 'good' },
  following: { word: 'in step', tone: 'good' },
  joining: { word: 'joining', tone: 'wait' },
  starting: { word: 'starting', tone: 'wait' },
  silent: { word: 'silent', tone: 'wait' },
  lost: { word: 'lost', tone: 'bad' },
  absent: { word: 'none', tone: 'idle' },
};

export function pairHealth(vm: VmPicture, loss: Loss | null): PairHealth {
  const first = vm.copies.find((copy) => copy.host === vm.primary);
  const second =
    vm.copies.find((copy) => copy.host === vm.secondary) ??
    vm.copies.find((copy) => copy.host !== vm.primary && copy.role === 'joining');
  const [primaryMood, secondaryMood] = moods(vm, first, second);
  const primary = copyHealth('primary', vm.primary, primaryMood, first, vm);
  const gone = secondaryMood === 'absent' && loss !== null && loss.host !== vm.primary;
  const secondary = gone
    ? { ...copyHealth('secondary', loss.host, 'lost', undefined, vm), note: `gone since ${clock(loss.atMs)}` }
    : copyHealth('secondary', vm.secondary ?? second?.host ?? null, secondaryMood, second, vm);
  return { primary, secondary, between: between(vm.state) };
}

function between(state: VmState): PairHealth['between'] {
  if (state === 'protected') return 'all';
  return state === 'syncing' || state === 'protecting' ? 'disks' : 'none';
}

const isThere = (copy: CopyView | undefined): boolean => copy !== undefined && copy.role !== 'idle';

function moods(vm: VmPicture, first: CopyView | undefined, second: CopyView | undefined): [Mood, Mood] {
  switch (vm.state) {
    case 'protected':
      return ['running', 'following'];
    case 'suspect':
      return isThere(first) ? ['running', 'silent'] : ['silent', 'following'];
    case 'dissolving':
      if (!isThere(first)) return ['lost', 'following'];
      return ['running', isThere(second) ? 'silent' : 'lost'];
    case 'syncing':
    case 'protecting':
      return ['running', 'joining'];
    case 'unprotected':
    case 'backing-off':
      return ['running', second?.role === 'joining' ? 'joining' : 'absent'];
    case 'starting':
      return ['starting', 'absent'];
    case 'stopping':
      return [isThere(first) ? 'running' : 'absent', isThere(second) ? 'following' : 'absent'];
    case 'blocked':
    case 'down':
      return ['absent', 'absent'];
  }
}

function copyHealth(
  copy: Copy,
  host: string | null,
  mood: Mood,
  view: CopyView | undefined,
  vm: VmPicture,
): CopyHealth {
  const resync = mood === 'joining' ? resyncShare(view) : null;
  const isAlone = copy === 'primary' && mood === 'running' && between(vm.state) === 'none';
  const word = isAlone && vm.state !== 'suspect' ? 'alone' : MOODS[mood].word;
  return {
    copy,
    host: mood === 'absent' && copy === 'secondary' ? null : host,
    mood,
    tone: word === 'alone' ? 'wait' : MOODS[mood].tone,
    word,
    note: resync === null ? '' : `disks ${percent(resync)}`,
    pid: view?.pid ?? null,
    resync,
  };
}

export function resyncShare(view: CopyView | undefined): number | null {
  if (view?.resync === undefined) return null;
  const { doneBytes, totalBytes } = view.resync;
  return totalBytes > 0 ? Math.min(1, doneBytes / totalBytes) : 1;
}

/** The picture in one paragraph, for those who do not see it. */
export function describePair(vm: VmPicture, health: PairHealth): string {
  const said = ({ copy, host, word, note }: CopyHealth): string =>
    `The ${copy}${host === null ? '' : ` on ${host}`} is ${word === 'none' ? 'not there' : word}${note === '' ? '' : ` (${note})`}.`;
  const flows = {
    all: 'Frames, disk writes and checkpoints pass between the two.',
    disks: 'Disk writes pass to the secondary.',
    none: 'Nothing passes between two copies.',
  }[health.between];
  return `${vm.name}: ${STATE_WORDS[vm.state].word}, epoch ${vm.epoch}. ${said(health.primary)} ${said(health.secondary)} ${flows}`;
}
