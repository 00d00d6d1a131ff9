/**
 * What is said at the edge, and by whom: every frame that comes out of a host onto the lan of a lab (netns.ts), with the
 * host that it came from. `oneSpeaker` judges: a guest's MAC is spoken for by one host at a time, and who has been
 * replaced is never heard again, unless it has been given the turn anew.
 */
import assert from 'node:assert/strict';
import { execFile, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { withDeadline } from '../../src/base/async.ts';
import type { Lab } from './netns.ts';

const run = promisify(execFile);
const STEP_MS = 60_000;

export interface EdgeFrame {
  /** Milliseconds since 1970, by the kernel's stamp. */
  readonly atMs: number;
  /** Whose port it came out of. */
  readonly host: string;
  readonly source: string;
  readonly what: 'arp' | 'gratuitous-arp' | 'rarp' | 'other';
  /** One line for people. */
  readonly note: string;
}

/** Frames in a row that came from one host. */
export interface Turn {
  readonly host: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly frames: number;
  /** Gratuitous ARP and RARP: who tells switches where the guest is. */
  readonly announcements: number;
  readonly first: string;
}

export interface Verdict {
  /** All turns in order: each change of speaker is between two of them. */
  readonly turns: readonly Turn[];
  /** Empty: one speaker at every moment. */
  readonly violations: readonly string[];
}

/**
 * `turns`: the hosts that the arbiter has let speak, in the order of epochs. Without it a host may have one turn only.
 * A host of `turns` need not have said anything.
 */
export function oneSpeaker(frames: readonly EdgeFrame[], mac: string, allowed?: readonly string[]): Verdict {
  const turns: Turn[] = [];
  for (const frame of frames.toSorted((one, other) => one.atMs - other.atMs)) {
    if (frame.source !== mac) continue;
    const last = turns.at(-1);
    const announcements = frame.what === 'rarp' || frame.what === 'gratuitous-arp' ? 1 : 0;
    if (last?.host === frame.host) {
      turns[turns.length - 1] = {
        ...last,
        toMs: frame.atMs,
        frames: last.frames + 1,
        announcements: last.announcements + announcements,
      };
    } else {
      const { host, atMs, note } = frame;
      turns.push({ host, fromMs: atMs, toMs: atMs, frames: 1, announcements, first: note });
    }
  }
  return { turns, violations: judge(turns, allowed) };
}

/** What was said for `mac` between two moments in which nobody may. */
export function spokenIn(frames: readonly EdgeFrame[], mac: string, fromMs: number, toMs: number): string[] {
  return frames
    .filter(({ source, atMs }) => source === mac && atMs >= fromMs && atMs <= toMs)
    .map(({ host, atMs, note }) => `${host} spoke ${Math.round(atMs - fromMs)} ms into a silence: ${note}`);
}

function judge(turns: readonly Turn[], allowed: readonly string[] | undefined): string[] {
  const violations: string[] = [];
  const done = new Set<string>();
  let next = 0;
  for (const [index, turn] of turns.entries()) {
    const before = turns[index - 1];
    const change = before
      ? `${turn.host} spoke at ${stamp(turn.fromMs)}, ${Math.round(turn.fromMs - before.toMs)} ms after ${before.host}: ${turn.first}`
      : '';
    if (allowed) {
      const at = allowed.indexOf(turn.host, next);
      if (at < 0) violations.push(`${change}; it was not its turn (${allowed.join(', ')})`);
      else next = at;
    } else if (done.has(turn.host)) violations.push(`${change}; it had been replaced`);
    if (before) done.add(before.host);
  }
  return violations;
}

/** Throws with every change of speaker when there was more than one at a time. */
export function assertOneSpeaker(verdict: Verdict, message = ''): void {
  const told = verdict.turns.map(
    ({ host, fromMs, toMs, frames }) => `${host}: ${stamp(fromMs)} to ${stamp(toMs)}, ${frames} frames`,
  );
  assert.deepEqual(verdict.violations, [], [message, ...told].join('\n'));
}

const stamp = (ms: number): string => new Date(ms).toISOString().slice(11, 23);

export class EdgeCapture {
  readonly #child: ChildProcess;
  readonly #file: string;
  readonly #hosts: ReadonlyMap<number, string>;

  private constructor(child: ChildProcess, file: string, hosts: ReadonlyMap<number, string>) {
    this.#child = child;
    this.#file = file;
    this.#hosts = hosts;
  }

  /** Resolves when it sees everything from now on. `file`: where the capture is kept. */
  static async start(lab: Lab, file: string): Promise<EdgeCapture> {
    const hosts = await lab.edgePorts();
    // Of all ports at once, so that there is one order; cooked, for it says which port, and whether in or out of it.
    const words = ['-q', '-s', '256', '-i', 'any', '-y', 'LINUX_SLL2', '-w', file];
    const child = lab.spawn('edge', 'dumpcap', words, { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    const begun = new Promise<void>((resolve, reject) => {
      child.stderr!.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        if (/^File: /m.test(text)) resolve();
      });
      child.once('exit', () => reject(new Error(`dumpcap: ${text}`)));
    });
    await withDeadline(begun, STEP_MS, 'dumpcap');
    return new EdgeCapture(child, file, hosts);
  }

  /** Ends it; the frames by time. */
  async stop(): Promise<EdgeFrame[]> {
    // The kernel hands frames over in blocks, a block that is not full after 250 ms (dumpcap's read timeout).
    await new Promise((resolve) => setTimeout(resolve, 500));
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGINT');
    await withDeadline(gone, STEP_MS, 'the end of dumpcap');
    return readFrames(this.#file, this.#hosts);
  }
}

const FIELDS = [
  ...['frame.time_epoch', 'sll.ifindex', 'sll.pkttype', 'sll.src.eth', 'sll.etype', 'arp.opcode'],
  ...['arp.src.proto_ipv4', 'arp.dst.proto_ipv4', '_ws.col.Protocol', '_ws.col.Info'],
];
/** sll.pkttype of what leaves a port of the network's, towards the host. */
const OUTGOING = '4';

async function readFrames(file: string, hosts: ReadonlyMap<number, string>): Promise<EdgeFrame[]> {
  const words = ['-n', '-r', file, '-T', 'fields', ...FIELDS.flatMap((field) => ['-e', field])];
  const { stdout } = await run('tshark', words, { maxBuffer: 1 << 28 });
  const frames: EdgeFrame[] = [];
  for (const line of stdout.split('\n')) {
    const [at = '', port = '', way = '', source = '', type = '', ...rest] = line.split('\t');
    const host = hosts.get(Number(port));
    if (host === undefined || way === OUTGOING) continue;
    const [opcode = '', from = '', to = '', protocol = '', info = ''] = rest;
    const what = kindOf(Number(type), opcode, from, to);
    frames.push({ atMs: Number(at) * 1000, host, source, what, note: `${protocol} ${info}` });
  }
  return frames.sort((one, other) => one.atMs - other.atMs);
}

function kindOf(type: number, opcode: string, from: string, to: string): EdgeFrame['what'] {
  if (type === 0x8035 || (type === 0x0806 && (opcode === '3' || opcode === '4'))) return 'rarp';
  if (type === 0x0806) return from !== '' && from === to ? 'gratuitous-arp' : 'arp';
  return 'other';
}
