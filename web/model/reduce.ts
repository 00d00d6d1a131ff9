/** One message, one new state. Pure; the time of day is given. */
import type { CheckpointSample, VmPicture } from '../../src/dashboard/protocol.ts';
import type { HaEvent } from '../../src/ha/views.ts';
import { ANSWERS_LIMIT, EVENTS_LIMIT, POINTS_LIMIT, SAMPLES_LIMIT } from './state.ts';
import type { Answer, Input, Loss, PageState } from './state.ts';

export function reduce(state: PageState, input: Input, nowMs: number): PageState {
  switch (input.type) {
    case 'link':
      return onLink(state, input.link, input.text ?? '');
    case 'choose':
      return input.vm === state.watched ? state : watching(state, input.vm);
    case 'asked':
      return {
        ...state,
        answers: withAnswer(state.answers, { ...input, text: null, isError: false }),
      };
    case 'dismiss':
      return { ...state, answers: state.answers.filter((answer) => answer.id !== input.id) };
    case 'hello':
      return { ...state, hello: input };
    case 'cluster':
      return onCluster({ ...state, hosts: input.hosts, hasCluster: true }, input.vms, nowMs);
    case 'pair':
      if (input.pair.vm !== state.watched) return state;
      return {
        ...state,
        pair: input.pair,
        points: [...state.points, input.pair].slice(-POINTS_LIMIT),
        skewMs: input.pair.atMs - nowMs,
      };
    case 'checkpoints':
      if (input.vm !== state.watched) return state;
      return { ...state, samples: addSamples(input.isAll ? [] : state.samples, input.samples) };
    case 'events': {
      const events = addEvents(state.events, input.events);
      return events === state.events ? state : { ...state, events };
    }
    case 'trouble':
      return { ...state, trouble: input.message };
    case 'answer':
      return { ...state, answers: answered(state.answers, input.id, input.error, input.text) };
  }
}

/** What was asked and not answered before the connection ended is not known to be done. */
function onLink(state: PageState, link: PageState['link'], text: string): PageState {
  const answers =
    link === 'open'
      ? state.answers
      : state.answers.map((answer) =>
          answer.text === null
            ? {
                ...answer,
                isError: true,
                text: 'The connection ended before the answer came: look before you ask again.',
              }
            : answer,
        );
  return { ...state, link, linkText: text, answers, trouble: link === 'open' ? null : state.trouble };
}

function onCluster(state: PageState, vms: readonly VmPicture[], nowMs: number): PageState {
  const losses = new Map<string, Loss>();
  for (const vm of vms) {
    const loss = lossOf(state, vm, nowMs);
    if (loss !== null) losses.set(vm.name, loss);
  }
  const next = { ...state, vms, losses };
  if (state.watched !== null && vms.some((vm) => vm.name === state.watched)) return next;
  return vms[0] === undefined ? { ...next, watched: null, pair: null } : watching(next, vms[0].name);
}

/** A pair that has become one copy has lost the other one. */
function lossOf(state: PageState, vm: VmPicture, nowMs: number): Loss | null {
  if (vm.secondary !== null || vm.primary === null || vm.state === 'down') return null;
  const before = state.vms.find((other) => other.name === vm.name);
  if (before?.primary && before.secondary) {
    const host = before.primary === vm.primary ? before.secondary : before.primary;
    return { host, atMs: nowMs + state.skewMs };
  }
  const known = state.losses.get(vm.name);
  if (known !== undefined) return known;
  const last = vm.lastFailover;
  return last?.to === vm.primary ? { host: last.from, atMs: last.atMs } : null;
}

const watching = (state: PageState, vm: string): PageState => ({
  ...state,
  watched: vm,
  pair: null,
  points: [],
  samples: [],
});

function addSamples(
  old: readonly CheckpointSample[],
  more: readonly CheckpointSample[],
): readonly CheckpointSample[] {
  const newest = old.at(-1)?.atMs ?? -Infinity;
  const added = more.filter((sample) => sample.atMs > newest);
  return [...old, ...added].slice(-SAMPLES_LIMIT);
}

/** After a reconnection the server tells its newest ones again. */
function addEvents(old: readonly HaEvent[], more: readonly HaEvent[]): readonly HaEvent[] {
  const known = new Set(old.map(eventKey));
  const added = more.filter((event) => !known.has(eventKey(event)));
  return added.length === 0 ? old : [...old, ...added].slice(-EVENTS_LIMIT);
}

export const eventKey = (event: HaEvent): string => `${event.host} ${event.sequence} ${event.time}`;

const withAnswer = (answers: readonly Answer[], answer: Answer): readonly Answer[] =>
  [
    ...answers,
    { id: answer.id, vm: answer.vm, title: answer.title, text: answer.text, isError: answer.isError },
  ].slice(-ANSWERS_LIMIT);

const answered = (
  answers: readonly Answer[],
  id: number,
  error: string | null,
  text: string,
): readonly Answer[] =>
  answers.map((answer) =>
    answer.id === id ? { ...answer, text: error ?? text, isError: error !== null } : answer,
  );
