/**
 * Walks breadth first through every state that a world (ha-world.ts) can reach, and looks at each. Then, backwards from
 * the states in which somebody serves the world, whether every other one leads to such a state by moves in which nothing
 * fails any more. A fault comes with the shortest way to it.
 */
import { sameRecord } from '../../src/ha/arbiter/arbiter.ts';
import type { Rules } from '../../src/ha/side.ts';
import {
  WorldRules,
  fault,
  firstWorld,
  isServed,
  textOf,
  tidy,
  type Bounds,
  type Judge,
  type World,
} from './ha-world.ts';

export interface Explored {
  readonly states: number;
  readonly moves: number;
  readonly fault: { readonly what: string; readonly way: readonly string[] } | null;
}

const BENIGN = 1;
const START = 2;

export function explore(bounds: Bounds, rules: Rules, judge?: Judge, first = tidy(firstWorld())): Explored {
  const world = new WorldRules(bounds, rules, judge);
  const index = new Map<string, number>();
  let frontier: World[] = [];
  const cameFrom: number[] = [];
  const cameBy: string[] = [];
  const from: number[] = [];
  const into: number[] = [];
  const flags: number[] = [];
  const isGood: boolean[] = [];
  const mustServe: boolean[] = [];

  const wayTo = (at: number): string[] => {
    const way: string[] = [];
    for (let now = at; now > 0; now = cameFrom[now]!) way.unshift(cameBy[now]!);
    return way;
  };
  const visit = (state: World, before: number, name: string): number => {
    const text = textOf(state);
    const known = index.get(text);
    if (known !== undefined) return known;
    const at = index.size;
    index.set(text, at);
    cameFrom.push(before);
    cameBy.push(name);
    isGood.push(isServed(state));
    mustServe.push(isLoneHeir(state));
    frontier.push(state);
    return at;
  };
  const result = (what: string | null, at: number): Explored => ({
    states: index.size,
    moves: from.length,
    fault: what === null ? null : { what, way: wayTo(at) },
  });

  visit(first, 0, 'start');
  for (let done = 0; frontier.length > 0;) {
    const layer = frontier;
    frontier = [];
    for (const state of layer) {
      const at = done++;
      const what = fault(state);
      if (what !== null) return result(what, at);
      for (const move of world.moves(state)) {
        const next = visit(move.after, at, move.name);
        if (next === at) continue;
        from.push(at);
        into.push(next);
        flags.push((move.isBenign ? BENIGN : 0) | (move.isStart ? START : 0));
      }
    }
  }

  const recovers = reachBack(isGood, from, into, (edge) => (flags[edge]! & BENIGN) !== 0);
  const stuck = recovers.findIndex((yes) => !yes);
  if (stuck >= 0) return result('nobody will ever serve the world again', stuck);
  const alone = reachBack(isGood, from, into, (edge) => flags[edge] === BENIGN);
  const silent = mustServe.findIndex((must, at) => must && !alone[at]!);
  if (silent >= 0) return result('a survivor that could go on alone never does', silent);
  return result(null, 0);
}

/** One side is dead, the other whole, the record that of the pair, and no swap of the dead one's is on its way. */
function isLoneHeir(world: World): boolean {
  const at = world.hosts.findIndex(({ side }) => side.phase === 'idle');
  const heir = world.hosts[1 - at];
  return (
    at >= 0 &&
    heir !== undefined &&
    heir.side.known !== null &&
    world.record.holder === null &&
    sameRecord(heir.side.known, world.record) &&
    (heir.side.phase === 'primary' || heir.side.phase === 'secondary') &&
    !world.requests.some(({ by }) => by === at)
  );
}

function reachBack(
  good: readonly boolean[],
  from: readonly number[],
  into: readonly number[],
  counts: (edge: number) => boolean,
): boolean[] {
  const first = new Int32Array(good.length).fill(-1);
  const next = new Int32Array(from.length).fill(-1);
  for (let edge = 0; edge < from.length; edge++) {
    if (!counts(edge)) continue;
    next[edge] = first[into[edge]!]!;
    first[into[edge]!] = edge;
  }
  const reached = [...good];
  const queue = good.flatMap((yes, at) => (yes ? [at] : []));
  for (let at = queue.pop(); at !== undefined; at = queue.pop()) {
    for (let edge = first[at]!; edge >= 0; edge = next[edge]!) {
      const before = from[edge]!;
      if (reached[before]) continue;
      reached[before] = true;
      queue.push(before);
    }
  }
  return reached;
}
