/**
 * Which host gets a copy of a VM. Pure: from what is known of the hosts to a choice, the next best ones, and a sentence for
 * each host that was not taken. What is known may be old, so whoever is chosen may still refuse; then the next is asked.
 *
 * Many survivors choose at once when a rack is lost, and must not all choose the same host: free memory counts in coarse
 * steps, and among hosts of one step each VM has an order of its own (a hash of both names), the same whenever it is asked.
 */
import { createHash } from 'node:crypto';
import type { VmSpec } from './spec/vm-spec.ts';
import type { HostView, VmView } from './views.ts';

/** Free memory is told apart in steps of so much of the largest host's memory, and not finer than one copy. */
const STEPS = 16;

/** A copy that is on its way to a host and not in its `freeMemoryMiB` yet. */
export interface PlannedCopy {
  readonly host: string;
  readonly memoryMiB: number;
}

export interface Choice {
  /** Null: nobody can take it. */
  readonly host: string | null;
  /** All that can, best first. */
  readonly ranked: readonly string[];
  /** One sentence for each host that was not taken; or one that says that there is none. */
  readonly why: readonly string[];
}

export interface SecondaryWish {
  /** Host of the copy that runs. */
  readonly primary: string;
  /** Has the disk of an earlier copy, of which only what has changed since has to be copied. */
  readonly oldDiskHost?: string | null;
  /** Have refused just now. */
  readonly refused?: readonly string[];
}

/** Memory that a copy takes of its host's. */
export function memoryOf(spec: VmSpec): number {
  return spec.memoryMiB;
}

/** Where a VM is made and started. */
export function chooseHome(
  spec: VmSpec,
  hosts: readonly HostView[],
  planned: readonly PlannedCopy[] = [],
): Choice {
  return choose(
    spec,
    hosts,
    planned,
    () => null,
    () => 0,
  );
}

/** Where the second copy goes. The primary's host should be among `hosts`, for its labels. */
export function chooseSecondary(
  spec: VmSpec,
  wish: SecondaryWish,
  hosts: readonly HostView[],
  planned: readonly PlannedCopy[] = [],
): Choice {
  const labels = hosts.find(({ name }) => name === wish.primary)?.labels ?? {};
  const refuses = ({ name }: HostView): string | null => {
    if (name === wish.primary) return 'the other copy is there';
    return wish.refused?.includes(name) === true ? 'it has refused just now' : null;
  };
  // The old disk's host first; then those that share least with the primary's: a rack, a room.
  const distance = (host: HostView): number =>
    host.name === wish.oldDiskHost ? -1 : sharedLabels(labels, host.labels ?? {});
  return choose(spec, hosts, planned, refuses, distance);
}

function choose(
  spec: VmSpec,
  hosts: readonly HostView[],
  planned: readonly PlannedCopy[],
  refuses: (host: HostView) => string | null,
  distance: (host: HostView) => number,
): Choice {
  const needed = memoryOf(spec);
  const onTheWay = new Map<string, number>();
  for (const { host, memoryMiB } of planned) onTheWay.set(host, (onTheWay.get(host) ?? 0) + memoryMiB);
  const step = Math.max(needed, ...hosts.map(({ memoryMiB }) => memoryMiB / STEPS));
  const able: { readonly host: HostView; readonly keys: readonly number[]; readonly order: string }[] = [];
  const why: string[] = [];
  for (const host of hosts) {
    const free = host.freeMemoryMiB - (onTheWay.get(host.name) ?? 0);
    const no = refuses(host) ?? unfit(spec, host, free, needed);
    if (no !== null) why.push(`${host.name}: ${no}`);
    else {
      const keys = [distance(host), -Math.floor((free - needed) / step)];
      able.push({ host, keys, order: orderOf(spec.name, host.name) });
    }
  }
  able.sort(
    (one, other) =>
      one.keys[0]! - other.keys[0]! || one.keys[1]! - other.keys[1]! || (one.order < other.order ? -1 : 1),
  );
  const [best, ...rest] = able;
  if (!best) return { host: null, ranked: [], why: why.length > 0 ? why : ['no host is known'] };
  for (const { host, keys } of rest) why.push(`${host.name}: ${lessGood(keys, best.keys)}`);
  return { host: best.host.name, ranked: able.map(({ host }) => host.name), why };
}

function unfit(spec: VmSpec, host: HostView, free: number, needed: number): string | null {
  if (spec.hosts.length > 0 && !spec.hosts.includes(host.name)) return "not among the VM's hosts";
  if (!host.isAlive) return 'not alive';
  if (host.isInMaintenance) return 'in maintenance';
  if (free < needed) return `${Math.max(0, Math.floor(free))} MiB are free, ${needed} MiB are needed`;
  return null;
}

function lessGood(mine: readonly number[], best: readonly number[]): string {
  if (best[0] === -1) return 'another has the old disk';
  if (mine[0] !== best[0]) return "shares more labels with the other copy's host";
  return mine[1] === best[1] ? 'as good, and next in turn' : 'has less free memory';
}

function sharedLabels(
  one: Readonly<Record<string, string>>,
  other: Readonly<Record<string, string>>,
): number {
  return Object.entries(one).filter(([key, value]) => Object.hasOwn(other, key) && other[key] === value)
    .length;
}

function orderOf(vm: string, host: string): string {
  return createHash('sha256').update(`${vm}/${host}`).digest('hex');
}

export type DrainStep =
  /** The primary is there and the secondary takes over; the new secondary goes to `then`. */
  | { readonly vm: string; readonly kind: 'failover'; readonly to: string; readonly then: string | null }
  /** The primary is there, alone. */
  | { readonly vm: string; readonly kind: 'migrate'; readonly to: string }
  /** The secondary is there. `to` null: the VM will be unprotected. */
  | { readonly vm: string; readonly kind: 'move-secondary'; readonly to: string | null }
  | { readonly vm: string; readonly kind: 'stuck'; readonly why: readonly string[] };

/** What has to be done so that nothing is on a host any more, largest VMs first. Needs every VM's spec and newest view. */
export function planDrain(
  host: string,
  vms: readonly { readonly spec: VmSpec; readonly view: VmView }[],
  hosts: readonly HostView[],
): DrainStep[] {
  const others = hosts.map((one) => (one.name === host ? { ...one, isInMaintenance: true } : one));
  const planned: PlannedCopy[] = [];
  const plan = (spec: VmSpec, primary: string): Choice => {
    const choice = chooseSecondary(spec, { primary, refused: [host] }, others, planned);
    if (choice.host !== null) planned.push({ host: choice.host, memoryMiB: memoryOf(spec) });
    return choice;
  };
  return vms
    .filter(({ view }) => view.primary === host || view.secondary === host)
    .toSorted(
      (one, other) => memoryOf(other.spec) - memoryOf(one.spec) || (one.spec.name < other.spec.name ? -1 : 1),
    )
    .map(({ spec, view }): DrainStep => {
      const vm = spec.name;
      if (view.primary !== host) {
        return { vm, kind: 'move-secondary', to: plan(spec, view.primary ?? host).host };
      }
      const { secondary } = view;
      const isTaken = secondary !== null && view.state === 'protected';
      if (isTaken && hosts.some(({ name, isAlive }) => name === secondary && isAlive)) {
        return { vm, kind: 'failover', to: secondary, then: plan(spec, secondary).host };
      }
      const choice = plan(spec, host);
      return choice.host === null
        ? { vm, kind: 'stuck', why: choice.why }
        : { vm, kind: 'migrate', to: choice.host };
    });
}
