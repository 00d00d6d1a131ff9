/**
 * Three hosts on one machine for benchmarks: 127.0.0.1 to .3, each with its `colo node`, an arbiter in a directory, and a
 * switch with NAT as the world. What was started is ended by `close`, guests included.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { NodeClient } from '../src/api/http-client.ts';
import { withDeadline } from '../src/base/async.ts';
import { freePorts } from '../src/demo/free-ports.ts';
import type { HaEvent } from '../src/ha/index.ts';
import { parseVmFile } from '../src/ha/spec/vm-file.ts';
import { startSwitch } from '../src/switch/index.ts';
import type { RunningSwitch } from '../src/switch/index.ts';
import { LoopbackHost, prepareArbiter } from './loopback-host.ts';

const HOSTS = ['a', 'b', 'c'] as const;
const VM = 'web';
const DOWN_MS = 60_000;

export interface Seen {
  /** performance.now() when it was heard here. */
  readonly at: number;
  readonly event: HaEvent;
}

export class ThreeHosts {
  readonly folder: string;
  readonly sessionPort: number;
  readonly ledgerPort: number;
  readonly seen: Seen[] = [];
  readonly #network: RunningSwitch;
  readonly #nodes: { readonly host: LoopbackHost; readonly client: NodeClient }[] = [];
  readonly #stop = new AbortController();
  #wakes: (() => void)[] = [];

  private constructor(folder: string, network: RunningSwitch, ports: readonly number[]) {
    this.folder = folder;
    this.#network = network;
    this.sessionPort = ports[0]!;
    this.ledgerPort = ports[1]!;
  }

  /** With the VM started on the first host. `more`: lines for vm.yaml. */
  static async start(folder: string, image: string, memoryMiB: number, more = ''): Promise<ThreeHosts> {
    const ports = await freePorts(2, ['127.0.0.1']);
    const listen = `unix:${path.join(folder, 'switch.sock')}`;
    const network = await startSwitch({
      listen: [listen],
      nat: {
        hostForwards: [
          `tcp:127.0.0.1:${ports[0]!}-10.0.2.15:7001`,
          `tcp:127.0.0.1:${ports[1]!}-10.0.2.15:7000`,
        ],
      },
    });
    const hosts = new ThreeHosts(folder, network, ports);
    try {
      await hosts.#startNodes();
      const text = `name: ${VM}\nimage: ${image}\nmemory: ${memoryMiB}M\nhosts: [a, b, c]\nnetwork: { switch: "${listen}" }\n${more}`;
      await hosts.#nodes[0]!.client.up(parseVmFile(text, { file: 'vm.yaml', folder }));
      return hosts;
    } catch (error) {
      await hosts.close();
      throw error;
    }
  }

  /** Pid of the copy that is heard, and its host. */
  async primary(): Promise<{ readonly host: string; readonly pid: number }> {
    const { primary } = await this.#nodes[0]!.client.vm(VM);
    if (primary === null) throw new Error('nobody is heard');
    const pid = (await this.#nodes.find(({ host }) => host.name === primary)?.host.vmPid(VM)) ?? null;
    if (pid === null) throw new Error(`${primary} has no process of ${VM}`);
    return { host: primary, pid };
  }

  /** The first event after `since` that `accepts` likes. Throws after `patienceMs`. */
  async event(since: number, accepts: (event: HaEvent) => boolean, patienceMs: number): Promise<Seen> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      const found = this.seen.find(({ at, event }) => at >= since && accepts(event));
      if (found) return found;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error(`not told within ${patienceMs} ms:\n${this.story(since)}`);
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wakes.push(resolve);
        timer = setTimeout(resolve, leftMs);
      });
      clearTimeout(timer);
    }
  }

  /** What the hosts have told since then, a line each. */
  story(since: number): string {
    return this.seen
      .filter(({ at }) => at >= since)
      .map(({ at, event: { host, type, from, to, reason } }) =>
        [`+${(at - since).toFixed(0)} ms`, host, type, from ?? '', to ?? '', reason].join(' '),
      )
      .join('\n');
  }

  async close(): Promise<void> {
    this.#stop.abort();
    const down = this.#nodes[0]?.client.down(VM, { purge: false }) ?? Promise.resolve();
    await withDeadline<unknown>(down, DOWN_MS, 'colo down').catch((error: unknown) => console.error(error));
    for (const { host, client } of this.#nodes) {
      await client.close();
      await host.end();
    }
    await this.#network.close();
    // What did not go down.
    for (const { host } of this.#nodes) await host.killGuests();
    await rm(this.folder, { recursive: true, force: true });
  }

  async #startNodes(): Promise<void> {
    const arbiter = path.join(this.folder, 'arbiter');
    await prepareArbiter(arbiter);
    for (const [at, name] of HOSTS.entries()) {
      const host = new LoopbackHost({
        name,
        address: `127.0.0.${at + 1}`,
        folder: this.folder,
        arbiter: `{ file: ${arbiter} }`,
        more: ['heartbeat: { port: 0 }', 'memory: 4G', 'metrics: false'],
      });
      const client = new NodeClient(host.node);
      this.#nodes.push({ host, client });
      await host.start();
      void this.#follow(client);
    }
  }

  async #follow(client: NodeClient): Promise<void> {
    try {
      for await (const event of client.events({ follow: true, signal: this.#stop.signal })) {
        this.seen.push({ at: performance.now(), event });
        for (const wake of this.#wakes.splice(0)) wake();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) throw error;
    }
  }
}
