/** What the page knows. Everything that grows has a bound here. */
import type {
  CheckpointSample,
  PairPicture,
  ServerMessage,
  VmPicture,
} from '../../src/dashboard/protocol.ts';
import type { HaEvent, HostView } from '../../src/ha/views.ts';

/** Kept for the timeline, for the charts, and as answers on the screen. */
export const EVENTS_LIMIT = 500;
export const SAMPLES_LIMIT = 1200;
export const POINTS_LIMIT = 600;
export const ANSWERS_LIMIT = 4;

export type Hello = Extract<ServerMessage, { type: 'hello' }>;

/** `token`: the server wants one. `refused`: it will not talk to this page, and trying again is no use. */
export type Link = 'connecting' | 'open' | 'lost' | 'token' | 'refused';

export interface Answer {
  readonly id: number;
  readonly vm: string;
  readonly title: string;
  /** Null: it has not come yet. */
  readonly text: string | null;
  readonly isError: boolean;
}

/** A copy that was there and is gone: drawn until another takes its place. */
export interface Loss {
  readonly host: string;
  readonly atMs: number;
}

export interface PageState {
  readonly link: Link;
  /** Why, for people; of `lost`, `token` and `refused`. */
  readonly linkText: string;
  readonly hello: Hello | null;
  readonly hosts: readonly HostView[];
  readonly vms: readonly VmPicture[];
  readonly hasCluster: boolean;
  readonly watched: string | null;
  readonly pair: PairPicture | null;
  readonly points: readonly PairPicture[];
  readonly samples: readonly CheckpointSample[];
  readonly events: readonly HaEvent[];
  readonly trouble: string | null;
  readonly answers: readonly Answer[];
  readonly losses: ReadonlyMap<string, Loss>;
  /** The server's clock minus this machine's. */
  readonly skewMs: number;
}

export const EMPTY: PageState = {
  link: 'connecting',
  linkText: '',
  hello: null,
  hosts: [],
  vms: [],
  hasCluster: false,
  watched: null,
  pair: null,
  points: [],
  samples: [],
  events: [],
  trouble: null,
  answers: [],
  losses: new Map(),
  skewMs: 0,
};

export const watchedVm = (state: PageState): VmPicture | null =>
  state.vms.find((vm) => vm.name === state.watched) ?? null;

/** What the page itself brings about. */
export type PageInput =
  | { readonly type: 'link'; readonly link: Link; readonly text?: string }
  | { readonly type: 'choose'; readonly vm: string }
  | { readonly type: 'asked'; readonly id: number; readonly vm: string; readonly title: string }
  | { readonly type: 'dismiss'; readonly id: number };

export type Input = ServerMessage | PageInput;
