/**
 * The demo as the dashboard sees it: two hosts that are two loopback addresses, one VM, and what may be done to it. Knows
 * the keeper and its copies, and nothing of pages.
 */
import os from 'node:os';
import type { Duplex } from 'node:stream';
import type { EventLog } from '../api/events.ts';
import type { EventQuery } from '../api/service.ts';
import { ColoError, ParameterError } from '../base/errors.ts';
import type { Action, Copy, VmPicture } from '../dashboard/protocol.ts';
import type { AskPrimary, DashboardSource } from '../dashboard/source.ts';
import { NoSuchVmError } from '../ha/errors.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { VIEW_VERSION } from '../ha/views.ts';
import type { CopyRole, CopyView, HaEvent, HostView, VmState } from '../ha/views.ts';
import type { DemoCopy } from './copy.ts';
import type { PairKeeper } from './keeper.ts';
import { BLOWS, OFFERS } from './offers.ts';
import type { Blow } from './offers.ts';
import { HOSTS } from './pair.ts';

/** A question to a primary that is frozen is not waited for longer. */
const ANSWER_MS = 2_000;
const MIB = 1024 * 1024;

export interface PageSourceOptions {
  readonly software: string;
  readonly spec: Pick<VmSpec, 'name' | 'memoryMiB' | 'engine'>;
  /** In the story nobody else kills. */
  readonly isHandsOn: boolean;
}

type Keeper = Pick<
  PairKeeper,
  | 'life'
  | 'generation'
  | 'primary'
  | 'secondary'
  | 'resync'
  | 'lastFailover'
  | 'checkpoints'
  | 'strike'
  | 'checkpoint'
  | 'switchOver'
>;

export class DemoPageSource implements DashboardSource {
  readonly kind = 'demo';
  readonly host = null;
  readonly software: string;
  readonly #keeper: Keeper;
  readonly #events: Pick<EventLog, 'read'>;
  readonly #options: PageSourceOptions;

  constructor(keeper: Keeper, events: Pick<EventLog, 'read'>, options: PageSourceOptions) {
    this.software = options.software;
    this.#keeper = keeper;
    this.#events = events;
    this.#options = options;
  }

  hosts(): Promise<readonly HostView[]> {
    return Promise.resolve(HOSTS.map((name) => this.#hostView(name)));
  }

  async vms(): Promise<readonly VmPicture[]> {
    const { primary, life } = this.#keeper;
    if (primary && life.state === 'protected') await this.#keeper.checkpoints.look(primary.qmp);
    return [this.#picture()];
  }

  events(query: EventQuery): AsyncIterable<HaEvent> {
    return this.#events.read(query);
  }

  primary(vm: string): Promise<AskPrimary> {
    const { qmp } = this.#copy(vm, 'primary');
    return Promise.resolve((command, args = {}) => qmp.execute(command, args, { timeoutMs: ANSWER_MS }));
  }

  act(vm: string, action: Action): Promise<string> {
    this.#requireVm(vm);
    if (!this.#actions().includes(action)) {
      const { state } = this.#keeper.life;
      const why = this.#options.isHandsOn
        ? `not while the VM is ${state}`
        : 'colo demo kills by itself; begin it with --hands-on to do it here';
      throw new ParameterError(`'${action}' cannot be done now: ${why}`);
    }
    if (action === 'checkpoint') return this.#keeper.checkpoint();
    if (action === 'failover') return this.#keeper.switchOver();
    if (isBlow(action)) return this.#keeper.strike(action);
    throw new ParameterError(`'${action}' is nothing that the demo can do`);
  }

  console(vm: string, copy: Copy): Promise<Duplex> {
    return this.#copy(vm, copy).console(copy === 'secondary');
  }

  screen(vm: string, copy: Copy): Promise<Duplex> {
    return this.#copy(vm, copy).screen();
  }

  #picture(): VmPicture {
    const { life, generation, primary, secondary, lastFailover, checkpoints } = this.#keeper;
    const { spec } = this.#options;
    const { view } = checkpoints;
    return {
      version: VIEW_VERSION,
      name: spec.name,
      ...{ state: life.state, reason: life.reason, sinceMs: life.sinceMs, epoch: generation },
      primary: primary?.host ?? null,
      secondary: isPair(life.state) ? (secondary?.host ?? null) : null,
      copies: this.#copies(),
      isWanted: true,
      isPaused: false,
      memoryMiB: spec.memoryMiB,
      engine: spec.engine,
      ...(view ? { checkpoints: view } : {}),
      ...(lastFailover ? { lastFailover } : {}),
      actions: this.#actions(),
      screens: { primary: screensOf(primary), secondary: screensOf(secondary) },
    };
  }

  #copies(): CopyView[] {
    const { life, primary, secondary, resync } = this.#keeper;
    const isWhole = isPair(life.state);
    const role: CopyRole = life.state === 'starting' ? 'starting' : isWhole ? 'primary' : 'alone';
    return [
      ...(primary ? [{ host: primary.host, role, pid: pidOf(primary) }] : []),
      ...(secondary
        ? [
            {
              host: secondary.host,
              role: isWhole ? ('secondary' as const) : ('joining' as const),
              pid: pidOf(secondary),
              ...(resync ? { resync } : {}),
            },
          ]
        : []),
    ];
  }

  #actions(): readonly Action[] {
    const offered = OFFERS[this.#keeper.life.state] ?? [];
    return this.#options.isHandsOn ? offered : offered.filter((action) => action === 'checkpoint');
  }

  #hostView(name: string): HostView {
    const { primary, secondary } = this.#keeper;
    return {
      version: VIEW_VERSION,
      ...{ name, api: name, heartbeat: name, software: this.software },
      ...{ isAlive: true, isInMaintenance: false },
      ...{ memoryMiB: Math.floor(os.totalmem() / MIB), freeMemoryMiB: Math.floor(os.freemem() / MIB) },
      vms: {
        primary: primary?.host === name ? 1 : 0,
        secondary: secondary?.host === name ? 1 : 0,
      },
    };
  }

  #copy(vm: string, copy: Copy): DemoCopy {
    this.#requireVm(vm);
    const { primary, secondary } = this.#keeper;
    const found = copy === 'primary' ? primary : secondary;
    if (!found?.isAlive) throw new ColoError(`there is no ${copy} at the moment`);
    return found;
  }

  #requireVm(name: string): void {
    if (name !== this.#options.spec.name) throw new NoSuchVmError(name);
  }
}

/** States in which there are two running copies. */
function isPair(state: VmState): boolean {
  return state === 'protecting' || state === 'protected' || state === 'suspect' || state === 'dissolving';
}

function screensOf(copy: DemoCopy | null): { readonly serial: boolean; readonly vnc: boolean } {
  return { serial: copy?.hasConsole ?? false, vnc: copy?.hasScreen ?? false };
}

function pidOf({ isAlive, pid }: DemoCopy): number | null {
  return isAlive ? pid : null;
}

function isBlow(action: Action): action is Blow {
  return (BLOWS as readonly Action[]).includes(action);
}
