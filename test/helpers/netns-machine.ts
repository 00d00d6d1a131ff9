/**
 * What a lab of network namespaces (netns.ts) needs of the machine, and how one is removed, by whoever: names carry the
 * number of the process that made it.
 */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { isAlive } from '../../src/base/processes.ts';
import { notOnThisMachine } from './not-here.ts';

const run = promisify(execFile);
export const PREFIX = 'colo-lab';

/** For a test's `skip`. */
export function skipWithoutLab(): string | false {
  whyNot ??= [whyNoLab()];
  const [why] = whyNot;
  if (why === null) return false;
  return why.isForGood ? notOnThisMachine(why.reason) : why.reason;
}

let whyNot: [NoLab | null] | null = null;

interface NoLab {
  readonly reason: string;
  /** No package would help. */
  readonly isForGood: boolean;
}

function whyNoLab(): NoLab | null {
  if (process.getuid?.() !== 0) return { reason: 'network namespaces need root', isForGood: true };
  for (const program of ['ip', 'tc', 'nft', 'dumpcap', 'tshark']) {
    const found = (process.env['PATH'] ?? '')
      .split(':')
      .concat('/usr/sbin', '/sbin')
      .some((folder) => existsSync(`${folder}/${program}`));
    if (!found) return { reason: `no ${program}`, isForGood: false };
  }
  if (!existsSync('/dev/net/tun')) return { reason: 'no /dev/net/tun', isForGood: true };
  const name = `${PREFIX}-${process.pid}-probe`;
  try {
    execFileSync('ip', ['netns', 'add', name], { stdio: 'ignore' });
    const inside = ['netns', 'exec', name];
    execFileSync('ip', [...inside, 'ip', 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1'], {
      stdio: 'ignore',
    });
    execFileSync('ip', [...inside, 'nft', rulesFor('v0', ['drop'])], { stdio: 'ignore' });
    return null;
  } catch {
    return { reason: 'no network namespaces, veth or nftables egress hooks in this kernel', isForGood: true };
  } finally {
    try {
      execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' });
    } catch {
      // It was never made.
    }
  }
}

/** Makes the chain if it is not there. */
export function rulesFor(device: string, rules: readonly string[]): string {
  return [
    'add table netdev lab',
    `add chain netdev lab ${device} { type filter hook egress device "${device}" priority 0; }`,
    `flush chain netdev lab ${device}`,
    ...rules.map((rule) => `add rule netdev lab ${device} ${rule}`),
  ].join('; ');
}

/** What processes left behind that are no more. */
export async function removeStale(): Promise<void> {
  await removeAll((name) => {
    const pid = new RegExp(`^${PREFIX}-(\\d+)-`).exec(name)?.[1];
    return pid !== undefined && !isAlive(Number(pid));
  });
}

export async function removeAll(isWanted: (name: string) => boolean): Promise<void> {
  const { stdout } = await run('ip', ['netns', 'list']);
  const names = stdout
    .split('\n')
    .map((line) => line.split(' ')[0] ?? '')
    .filter((name) => name !== '' && isWanted(name));
  for (const name of names) {
    const { stdout: pids } = await run('ip', ['netns', 'pids', name]);
    for (const pid of pids.split('\n').filter((line) => line !== '')) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // It has ended meanwhile.
      }
    }
    await run('ip', ['netns', 'del', name]);
  }
}
