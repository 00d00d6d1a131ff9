/**
 * Three hosts on loopback as an operator has them: a switch at the edge, a `colo node` each, and nothing but the `colo`
 * command line to drive and to look at them, beside `kill`. A client that must not notice talks to the guest meanwhile.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { LoopbackHost, prepareArbiter } from '../../bench/loopback-host.ts';
import { withDeadline } from '../../src/base/async.ts';
import { freePorts } from '../../src/demo/free-ports.ts';
import { LineConnection } from '../../src/demo/line-connection.ts';
import { Workload } from '../../src/demo/workload.ts';
import type { HaEvent, VmView } from '../../src/ha/views.ts';
import { COLO, ColoProcess, until } from '../helpers/colo.ts';

// Daemons and the VMs that they start: the built program, which is what would be installed.
process.env['COLO_PROGRAM'] ??= COLO;

const NAMES = ['a', 'b', 'c'];
/** Any single step; generous, as the machine may be loaded. */
export const STEP_MS = 120_000;
const BOOT_MS = 300_000;

export interface Ran {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

export class Operator {
  readonly folder: string;
  readonly hosts: readonly LoopbackHost[];
  readonly metricsPorts: readonly number[];
  readonly troubles: string[] = [];
  readonly #sessionPort: number;
  readonly #ledgerPort: number;

  private constructor(folder: string, hosts: readonly LoopbackHost[], ports: readonly number[]) {
    this.folder = folder;
    this.hosts = hosts;
    this.metricsPorts = ports.slice(2);
    this.#sessionPort = ports[0]!;
    this.#ledgerPort = ports[1]!;
  }

  /** With daemons that know each other, and no VM. `arbiter`: of node.yaml; default: a directory of its own. */
  static async start(t: TestContext, arbiter?: string): Promise<Operator> {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'colo-ops-'));
    const ports = await freePorts(2 + NAMES.length, ['127.0.0.1']);
    const forwards = [`${ports[0]!}-10.0.2.15:7001`, `${ports[1]!}-10.0.2.15:7000`];
    const edge = new ColoProcess(
      ...['switch', '--listen', `unix:${folder}/switch.sock`, '--nat'],
      ...forwards.flatMap((forward) => ['--hostfwd', `tcp:127.0.0.1:${forward}`]),
    );
    t.after(() => edge.kill());
    await edge.untilOutput(/ready/);
    const directory = path.join(folder, 'arbiter');
    if (arbiter === undefined) await prepareArbiter(directory);
    const hosts = NAMES.map(
      (name, at) =>
        new LoopbackHost({
          name,
          address: `127.0.0.${at + 1}`,
          folder,
          arbiter: arbiter ?? `{ file: ${directory} }`,
          // What a busy machine does not get done in time is no failure here; a death is noticed at once anyway.
          more: [
            'heartbeat: { port: 0, patience: 3s }',
            'memory: 1G',
            `metrics: 127.0.0.1:${ports[2 + at]!}`,
          ],
        }),
    );
    const operator = new Operator(folder, hosts, ports);
    t.after(async () => {
      for (const host of hosts) await host.end('SIGKILL');
      for (const host of hosts) await host.killGuests();
      // Last: whom to kill is written in it.
      await rm(folder, { recursive: true, force: true });
    });
    await Promise.all(hosts.map((host) => host.start()));
    for (const { name } of hosts) await operator.untilAllAlive(name);
    return operator;
  }

  host(name: string | null): LoopbackHost {
    const found = this.hosts.find((host) => host.name === name);
    assert.ok(found, `no host '${name ?? ''}'`);
    return found;
  }

  /** The host that is none of these. */
  other(...names: readonly (string | null)[]): LoopbackHost {
    const found = this.hosts.find(({ name }) => !names.includes(name));
    assert.ok(found, `no host but ${names.join(', ')}`);
    return found;
  }

  /** `colo WORDS`, asked of that host's daemon. */
  async run(on: string, ...words: readonly string[]): Promise<Ran> {
    const args = [COLO, ...words, '--node', this.host(on).node];
    return new Promise((resolve) => {
      execFile(
        process.execPath,
        args,
        { maxBuffer: 1 << 26, timeout: STEP_MS, killSignal: 'SIGKILL' },
        (error, out, err) => {
          const code = error?.code;
          resolve({ status: error === null ? 0 : typeof code === 'number' ? code : -1, out, err });
        },
      );
    });
  }

  /** The same, which has to end well. Its standard output. */
  async colo(on: string, ...words: readonly string[]): Promise<string> {
    let ran = await this.run(on, ...words);
    // On a busy machine a registry that is a folder may not answer in time.
    while (ran.status !== 0 && ran.err.includes('a call hangs in the file system'))
      ran = await this.run(on, ...words);
    const { status, out, err } = ran;
    assert.equal(status, 0, `colo ${words.join(' ')} on ${on}: ${err}${out}`);
    return out;
  }

  async json<T>(on: string, ...words: readonly string[]): Promise<T> {
    return JSON.parse(await this.colo(on, ...words, '--json')) as T;
  }

  async untilAllAlive(on: string): Promise<void> {
    await until(`${on} knows all hosts`, STEP_MS, async () => {
      const hosts = await this.json<{ isAlive: boolean }[]>(on, 'hosts');
      return hosts.filter(({ isAlive }) => isAlive).length === NAMES.length;
    });
  }

  /** The first view that `colo status --watch` prints from now on and `isSo` likes. On a failure all that was told. */
  async untilStatus(
    on: string,
    vm: string,
    what: string,
    isSo: (view: VmView) => boolean,
    ms = STEP_MS,
  ): Promise<VmView> {
    const watch = new ColoProcess('status', vm, '--json', '--watch', '0.2', '--node', this.host(on).node);
    let last = '';
    const look = async (): Promise<VmView> => {
      for await (const line of createInterface({ input: watch.child.stdout })) {
        const seen = JSON.parse(line) as VmView | { readonly error: string };
        last = line;
        if (!('error' in seen) && isSo(seen)) return seen;
      }
      throw new Error(`colo status ended: ${watch.stderr}`);
    };
    try {
      return await withDeadline(look(), ms, `${vm}: ${what}`);
    } catch (cause) {
      throw new Error(`${vm} on ${on}: not ${what}: ${last}\n${await this.story()}`, { cause });
    } finally {
      await watch.kill();
    }
  }

  /** Protected in an epoch after that one. */
  untilProtected(on: string, vm: string, afterEpoch = 0): Promise<VmView> {
    return this.untilStatus(
      on,
      vm,
      `protected after epoch ${afterEpoch}`,
      ({ state, epoch, primary, secondary }) =>
        state === 'protected' && epoch > afterEpoch && primary !== null && secondary !== null,
    );
  }

  async events(on: string, after = 0): Promise<HaEvent[]> {
    const text = await this.colo(on, 'events', '--json', '--after', String(after));
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as HaEvent);
  }

  async lastEvent(on: string): Promise<number> {
    return (await this.events(on)).at(-1)?.sequence ?? 0;
  }

  /** The first event that `colo events --follow` prints and `isSo` likes. */
  async untilEvent(
    on: string,
    after: number,
    what: string,
    isSo: (event: HaEvent) => boolean,
  ): Promise<HaEvent> {
    const node = this.host(on).node;
    const follow = new ColoProcess('events', '-f', '--json', '--after', String(after), '--node', node);
    const look = async (): Promise<HaEvent> => {
      for await (const line of createInterface({ input: follow.child.stdout })) {
        const event = JSON.parse(line) as HaEvent;
        if (isSo(event)) return event;
      }
      throw new Error(`colo events ended: ${follow.stderr}`);
    };
    try {
      return await withDeadline(look(), STEP_MS, what);
    } catch (cause) {
      throw new Error(`${on} does not tell: ${what}\n${await this.story()}`, { cause });
    } finally {
      await follow.kill();
    }
  }

  /** Types on a VM's console until it shows what is waited for. */
  async type(on: string, vm: string, text: string, expected: RegExp): Promise<void> {
    const terminal = new ColoProcess('console', vm, '--node', this.host(on).node);
    try {
      terminal.child.stdin.write(text);
      await withDeadline(terminal.untilOutput(expected), STEP_MS, `${expected.source} on ${vm}'s console`);
      terminal.child.stdin.end();
    } finally {
      await terminal.kill();
    }
  }

  async write(file: string, lines: readonly string[]): Promise<string> {
    const at = path.join(this.folder, file);
    await writeFile(at, `${lines.join('\n')}\n`);
    return at;
  }

  /** Waits for the guest's services, then talks to them. */
  async connect(): Promise<Workload> {
    const isServing = async (): Promise<boolean> => {
      try {
        const connection = await LineConnection.open('127.0.0.1', this.#sessionPort, 3000);
        await connection.request('hello', 3000);
        connection.close();
        return true;
      } catch {
        return false;
      }
    };
    await until('the guest serves', BOOT_MS, isServing);
    const workload = new Workload({
      host: '127.0.0.1',
      sessionPort: this.#sessionPort,
      ledgerPort: this.#ledgerPort,
      intervalMs: 50,
      patienceMs: STEP_MS,
      onTrouble: (what) => this.troubles.push(what),
    });
    workload.start();
    return workload;
  }

  /** Lines of those that the guest does not have, or has otherwise. Asked on a new connection. */
  async missingLines(acknowledged: ReadonlyMap<number, string>): Promise<string[]> {
    const reader = await LineConnection.open('127.0.0.1', this.#ledgerPort, STEP_MS);
    const missing: string[] = [];
    for (const [number, text] of acknowledged) {
      const reply = await reader.request(`read ${number}`, STEP_MS);
      if (reply !== `line ${text}`) missing.push(`${number}: '${reply}' instead of '${text}'`);
    }
    reader.close();
    return missing;
  }

  /** For a failure: what the daemons have told and logged. */
  async story(): Promise<string> {
    const parts = this.hosts.map(async (host) => {
      const { out } = await this.run(host.name, 'events');
      const log = (await host.log()).split('\n').slice(-40).join('\n');
      return `== ${host.name}\n${out}\n-- log\n${log}`;
    });
    return (await Promise.all(parts)).join('\n');
  }
}
