/**
 * A few hosts in network namespaces, for tests that are root: each host has a port on three networks, `pair` (links of
 * pairs, API, arbiter), `beat` (heartbeats) and `lan` (guests' edge: a bridge `br0` in the host, for TAP devices, whose
 * uplink it is). A client lives on the lan, an arbiter on pair and beat. The networks are bridges in namespaces of their
 * own; nothing of it touches the machine's.
 *
 * Cables can be cut, in one direction or both, made to lose, and made slow (nftables' egress hook, tc tbf); for delay and
 * disorder the cable has to be a user-space one (frame-wire.ts), named when the lab is made.
 *
 * Names carry the number of the test's process: what a test left behind that was killed is removed by the next one.
 */
import { execFile, spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { withDeadline } from '../../src/base/async.ts';
import { PREFIX, removeAll, removeStale, rulesFor } from './netns-machine.ts';

const run = promisify(execFile);
const WIRE = fileURLToPath(new URL('frame-wire.ts', import.meta.url));
const STEP_MS = 60_000;

export const NETWORKS = ['pair', 'beat', 'lan'] as const;
export type Network = (typeof NETWORKS)[number];
export type Direction = 'out' | 'in';

const SUBNET: Readonly<Record<Network, string>> = { pair: '10.77.0', beat: '10.78.0', lan: '10.0.2' };
export const CLIENT_ADDRESS = '10.0.2.2';
let labs = 0;

export interface LabOptions {
  readonly hosts: readonly string[];
  readonly hasArbiter?: boolean;
  /** Cables that are user-space ones. */
  readonly wires?: readonly (readonly [host: string, network: Network])[];
}

export interface WireState {
  readonly delayMs?: number;
  /** Up to so much more, for each frame by itself: they overtake each other. */
  readonly jitterMs?: number;
}

/** What happens to frames at the sending end of a cable. */
interface Fault {
  isCut: boolean;
  lossPercent: number;
}

export class Lab {
  readonly #base: string;
  readonly #hosts: readonly string[];
  readonly #members: readonly string[];
  readonly #wires = new Map<string, { readonly child: ChildProcess; readonly lines: Interface }>();
  readonly #wired: ReadonlySet<string>;
  readonly #faults = new Map<string, Fault>();
  readonly #children = new Set<ChildProcess>();

  private constructor(options: LabOptions) {
    this.#base = `${PREFIX}-${process.pid}-${++labs}`;
    this.#hosts = options.hosts;
    this.#members = [...options.hosts, ...(options.hasArbiter ? ['arbiter'] : []), 'client'];
    this.#wired = new Set((options.wires ?? []).map(([host, network]) => `${host}-${network}`));
  }

  /** It is taken down when the test ends. */
  static async make(t: Pick<TestContext, 'after'>, options: LabOptions): Promise<Lab> {
    await removeStale();
    const lab = new Lab(options);
    t.after(() => lab.remove());
    await lab.#build();
    return lab;
  }

  /** Name of a member's namespace (`a`, …, `arbiter`, `client`), or of the networks' (`net`; `edge`, the lan's). */
  namespace(member: string): string {
    return `${this.#base}-${member}`;
  }

  /** Of a host or the arbiter on `pair` or `beat`. */
  address(member: string, network: Exclude<Network, 'lan'>): string {
    return `${SUBNET[network]}.${10 + this.#members.indexOf(member)}`;
  }

  spawn(member: string, command: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.namespace(member), command, ...args], options);
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /** Runs to its end; resolves with standard output. */
  async run(member: string, command: string, ...args: string[]): Promise<string> {
    const { stdout } = await run('ip', ['netns', 'exec', this.namespace(member), command, ...args], {
      maxBuffer: 1 << 26,
    });
    return stdout;
  }

  /** Pulls the cable. */
  async cut(host: string, network: Network): Promise<void> {
    await this.#fault(host, network, ['out', 'in'], { isCut: true });
  }

  /** `out`: what the host sends is lost; `in`: what is sent to it. */
  async cutOneWay(host: string, network: Network, direction: Direction): Promise<void> {
    await this.#fault(host, network, [direction], { isCut: true });
  }

  async lose(host: string, network: Network, percent: number): Promise<void> {
    await this.#fault(host, network, ['out', 'in'], { lossPercent: percent });
  }

  /** Between two members only; both reach all others. */
  async cutBetween(one: string, other: string, network: Network): Promise<void> {
    for (const [from, to] of [
      [one, other],
      [other, one],
    ] as const) {
      const rule = `iifname "${from}-${network}" oifname "${to}-${network}" drop`;
      await this.#nft(homeOf(network), `add rule bridge lab ways ${rule}`);
    }
  }

  /** Both directions; 0: as fast as it goes. */
  async slow(host: string, network: Network, kbitPerSecond: number): Promise<void> {
    for (const [member, device] of this.#ends(host, network)) {
      const words =
        kbitPerSecond === 0
          ? `qdisc del dev ${device} root`
          : `qdisc replace dev ${device} root tbf rate ${kbitPerSecond}kbit burst 16kb latency 200ms`;
      await this.run(member, 'tc', ...words.split(' ')).catch((error: unknown) => {
        if (kbitPerSecond !== 0) throw error;
      });
    }
  }

  /** Of a cable that was named in `wires`. */
  async wire(host: string, network: Network, state: WireState): Promise<void> {
    const wire = this.#wires.get(`${host}-${network}`);
    if (!wire) throw new Error(`the cable of ${host} to ${network} is no user-space one`);
    const done = once(wire.lines, 'line');
    wire.child.stdin!.write(`${JSON.stringify(state)}\n`);
    await withDeadline(done, STEP_MS, 'a user-space cable');
  }

  /** Cuts and losses of one cable, or all there are. */
  async heal(host?: string, network?: Network): Promise<void> {
    for (const key of this.#faults.keys()) {
      const [member = '', net = '', direction = ''] = key.split(' ');
      if ((host ?? member) !== member || (network ?? net) !== net) continue;
      await this.#fault(member, net as Network, [direction as Direction], { isCut: false, lossPercent: 0 });
    }
    if (host !== undefined) return;
    for (const home of HOMES) await this.#nft(home, 'flush chain bridge lab ways');
  }

  /** Processes in a member's namespace. */
  async pids(member: string): Promise<number[]> {
    const { stdout } = await run('ip', ['netns', 'pids', this.namespace(member)]);
    return stdout
      .split('\n')
      .filter((line) => line !== '')
      .map(Number);
  }

  /** Hosts by the interface index of their port of the lan. */
  async edgePorts(): Promise<ReadonlyMap<number, string>> {
    const ports = new Map<number, string>();
    for (const line of (await this.run('edge', 'ip', '-o', 'link')).split('\n')) {
      const [, index, host] = /^(\d+): (\w+)-lan[@:]/.exec(line) ?? [];
      if (host !== undefined && this.#hosts.includes(host)) ports.set(Number(index), host);
    }
    return ports;
  }

  async remove(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    await removeAll((name) => name.startsWith(`${this.#base}-`));
  }

  async #fault(
    host: string,
    network: Network,
    directions: readonly Direction[],
    change: Partial<Fault>,
  ): Promise<void> {
    for (const direction of directions) {
      const key = `${host} ${network} ${direction}`;
      const fault = Object.assign(this.#faults.get(key) ?? { isCut: false, lossPercent: 0 }, change);
      this.#faults.set(key, fault);
      const [member, device] = this.#ends(host, network)[direction === 'out' ? 0 : 1]!;
      const rules = fault.isCut
        ? ['drop']
        : fault.lossPercent > 0
          ? [`numgen random mod 1000 < ${Math.round(fault.lossPercent * 10)} drop`]
          : [];
      await this.#nft(member, rulesFor(device, rules));
    }
  }

  /** Where what a host sends enters the cable, and where what is sent to it does. */
  #ends(host: string, network: Network): readonly (readonly [member: string, device: string])[] {
    return [
      [host, network],
      [homeOf(network), `${host}-${network}`],
    ];
  }

  async #nft(member: string, rules: string): Promise<void> {
    await this.run(member, 'nft', rules);
  }

  async #ip(member: string, lines: readonly string[]): Promise<void> {
    const child = execFile('ip', ['-n', this.namespace(member), '-batch', '-']);
    const done = new Promise<void>((resolve, reject) => {
      let text = '';
      child.stderr?.on('data', (chunk: string) => (text += chunk));
      child.once('error', reject);
      child.once('close', (code) => (code === 0 ? resolve() : reject(new Error(`${member}: ip: ${text}`))));
    });
    child.stdin?.end(lines.join('\n'));
    await done;
  }

  async #build(): Promise<void> {
    for (const member of [...HOMES, ...this.#members]) {
      await run('ip', ['netns', 'add', this.namespace(member)]);
      // Nobody speaks who was not asked to.
      await this.run(
        member,
        'sh',
        '-c',
        'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6',
      );
      await this.#ip(member, ['link set lo up']);
    }
    for (const network of NETWORKS) {
      await this.#ip(homeOf(network), [`link add ${network} ${BRIDGE}`, `link set ${network} up`]);
    }
    for (const home of HOMES) {
      await this.#nft(
        home,
        'add table bridge lab; add chain bridge lab ways { type filter hook forward priority 0; }',
      );
    }
    for (const member of this.#members) {
      for (const network of NETWORKS) {
        if (network === 'lan' ? member === 'arbiter' : member === 'client') continue;
        await this.#plug(member, network);
      }
    }
    for (const host of this.#hosts) {
      await this.#ip(host, [`link add br0 ${BRIDGE}`, 'link set br0 up', 'link set lan master br0']);
    }
    await this.#ip('client', [`addr add ${CLIENT_ADDRESS}/24 dev lan`]);
  }

  async #plug(member: string, network: Network): Promise<void> {
    const port = `${member}-${network}`;
    if (this.#wired.has(port)) await this.#plugWire(member, network);
    else {
      const to = this.namespace(member);
      await this.#ip(homeOf(network), [`link add ${port} type veth peer name ${network} netns ${to}`]);
    }
    await this.#ip(homeOf(network), [`link set ${port} master ${network} up`]);
    const address = network === 'lan' ? [] : [`addr add ${this.address(member, network)}/24 dev ${network}`];
    await this.#ip(member, [`link set ${network} up`, ...address]);
  }

  async #plugWire(member: string, network: Network): Promise<void> {
    const port = `${member}-${network}`;
    const other = `${port}-w`;
    const child = this.spawn(homeOf(network), process.execPath, ['--import', 'tsx', WIRE, port, other], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: child.stdout! });
    this.#wires.set(port, { child, lines });
    const ready = new Promise<void>((resolve, reject) => {
      lines.once('line', () => resolve());
      child.once('exit', (code) => reject(new Error(`frame-wire ended with ${code ?? 'a signal'}`)));
    });
    await withDeadline(ready, STEP_MS, 'a user-space cable');
    await this.#ip(homeOf(network), [`link set ${other} name ${network} netns ${this.namespace(member)}`]);
  }
}

/** Where the networks are. */
const HOMES = ['net', 'edge'] as const;

function homeOf(network: Network): (typeof HOMES)[number] {
  return network === 'lan' ? 'edge' : 'net';
}

/** A frame passes as soon as the port is up; nothing of the bridge's own is sent. */
const BRIDGE = 'type bridge stp_state 0 forward_delay 0 mcast_snooping 0';
