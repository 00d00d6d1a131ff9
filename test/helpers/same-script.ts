/**
 * The same monitor lines typed to our program and to QEMU 7.2, and their answers compared. A line whose answer differs
 * on purpose carries the reason; it has to differ indeed, so that the reasons stay true. Order of members and of lists
 * means nothing in the replies concerned and is not compared.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { STEP_MS, emptyImages, qemuVersion, startBare, testFolder } from './bare-process.ts';
import type { BareProcess } from './bare-process.ts';
import { until } from './colo.ts';

/** A pair: the reply differs from QEMU 7.2's, on purpose, for the reason given. */
export type ScriptLine = string | readonly [line: string, reason: string];

export interface SameScript {
  /** Words of both command lines; `DIR` is the program's folder. */
  readonly line?: string;
  readonly lines: readonly ScriptLine[];
  /** Makes the images; default: empty raw ones. */
  readonly prepare?: (home: string) => Promise<void>;
  /** Takes out of a reply what no two runs have in common, or what differs in every reply for one reason. */
  readonly mask?: (reply: unknown, whose: 'colo' | 'qemu') => unknown;
  /** Events of QEMU's that have a reason not to come here. */
  readonly without?: readonly string[];
  /** At least so many of our answers are successes, and so many errors: a script that has gone astray proves nothing. */
  readonly atLeast: { readonly good: number; readonly bad: number };
}

/** Ours alone where QEMU 7.2 is not installed. The last line of the script is `quit`. */
export async function compareScript(t: TestContext, script: SameScript): Promise<void> {
  const folder = await testFolder(t);
  const run = async (program: 'colo' | 'qemu'): Promise<{ bare: BareProcess; replies: string[] }> => {
    const home = path.join(folder, program);
    const bare = await startBare(t, program, home, script.line ?? '', script.prepare ?? emptyImages);
    const replies: string[] = [];
    for (const entry of script.lines) {
      const line = typeof entry === 'string' ? entry : entry[0];
      replies.push(await answer(bare, line, (reply) => script.mask?.(reply, program) ?? reply));
    }
    await until(`${program} ends`, STEP_MS, () => bare.child.exitCode !== null);
    return { bare, replies };
  };
  const ours = await run('colo');
  assert.equal(ours.bare.child.exitCode, 0);
  assert.equal(ours.bare.stderr(), '');
  const good = ours.replies.filter(isGood).length;
  const bad = ours.replies.length - good;
  assert.ok(good >= script.atLeast.good && bad >= script.atLeast.bad, `${good} good, ${bad} bad replies`);
  if (qemuVersion?.startsWith('7.2') !== true) {
    t.diagnostic(`not compared: QEMU 7.2 is not installed (found: ${qemuVersion ?? 'none'})`);
    return;
  }
  const theirs = await run('qemu');
  const differences = script.lines.flatMap((entry, at) => {
    const [line, reason] = typeof entry === 'string' ? [entry, null] : entry;
    const same = ours.replies[at] === theirs.replies[at];
    if (same === (reason === null)) return [];
    return same
      ? [`no difference any more: ${line}`]
      : [`${line}${difference(theirs.replies[at]!, ours.replies[at]!)}`];
  });
  assert.equal(differences.join('\n'), '');
  const events = ({ qmp, home }: BareProcess): string[] =>
    qmp.events
      .filter(({ event }) => script.without?.includes(event) !== true)
      .map(({ event, data }) => `${event} ${JSON.stringify(normalise(data))}`.replaceAll(home, 'DIR'));
  assert.deepEqual(events(ours.bare), events(theirs.bare));
}

/**
 * For replies about nodes: names that nobody gave are alike, `json:` names are parsed (their members are in no order),
 * and members called `without` are left out.
 */
export function maskNodes(reply: unknown, without: readonly string[] = []): unknown {
  if (Array.isArray(reply)) return reply.map((element) => maskNodes(element, without));
  if (typeof reply === 'object' && reply !== null) {
    const kept = Object.entries(reply).filter(([key]) => !without.includes(key));
    return Object.fromEntries(kept.map(([key, member]) => [key, maskNodes(member, without)]));
  }
  if (typeof reply !== 'string') return reply;
  if (reply.startsWith('json:{')) return { json: JSON.parse(reply.slice(5)) as unknown };
  return reply.replace(/^#block\d+$/, '#block');
}

/** Both replies; of long ones the members that differ. */
function difference(qemu: string, colo: string): string {
  if (isGood(qemu) && isGood(colo)) {
    const found: string[] = [];
    compareMembers(JSON.parse(qemu), JSON.parse(colo), '', found);
    return found.slice(0, 10).join('');
  }
  return `\n  QEMU: ${qemu.slice(0, 2000)}\n  colo: ${colo.slice(0, 2000)}`;
}

function compareMembers(qemu: unknown, colo: unknown, where: string, found: string[]): void {
  const [theirs, ours] = [JSON.stringify(qemu), JSON.stringify(colo)];
  if (theirs === ours) return;
  if (typeof qemu === 'object' && typeof colo === 'object' && qemu !== null && colo !== null) {
    for (const key of new Set([...Object.keys(qemu), ...Object.keys(colo)])) {
      const member = (of: object): unknown => (of as Record<string, unknown>)[key];
      compareMembers(member(qemu), member(colo), `${where}.${key}`, found);
    }
  } else found.push(`\n  ${where}: QEMU: ${theirs}, colo: ${ours}`);
}

const isGood = (reply: string): boolean => /^["[{]/.test(reply);

/** What the monitor answers to a line: `return` as text with sorted members, or `Class: description`. */
async function answer(bare: BareProcess, line: string, mask: (reply: unknown) => unknown): Promise<string> {
  const reply = await bare.type(line).then(
    (value) => JSON.stringify(normalise(mask(value))),
    (error: unknown) => (error as Error).message,
  );
  return reply.replaceAll(bare.home, 'DIR');
}

/** Members by name, lists of things by their text. */
function normalise(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(normalise).toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  }
  if (typeof value !== 'object' || value === null) {
    // QEMU 8 and later begin a failure in the human monitor's answer so; 7.2 does not.
    return typeof value === 'string' ? value.replace(/^Error: /, '') : value;
  }
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, member]) => [key, normalise(member)]),
  );
}
