/**
 * An etcd cluster of one or three processes on loopback, in a folder of its own. Members can be killed, stopped and
 * started again. Its words of error go to ours.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** False when etcd is there, else why not: for `{ skip }`. */
export const noEtcd: string | false =
  spawnSync('etcd', ['--version']).status === 0 ? false : 'etcd is not installed (Debian: etcd-server)';

export interface EtcdTls {
  readonly ca: string;
  /** For servers and for clients: etcd's gateway uses it to call etcd. */
  readonly cert: string;
  readonly key: string;
}

export class EtcdCluster {
  readonly #dir: string;
  readonly #members: { process: ChildProcess | null; readonly args: readonly string[] }[] = [];
  readonly endpoints: string[] = [];

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** `more`: further options of etcd's. Resolves when the processes run; ask `identity()` of an arbiter to know that they have a leader. */
  static async start(size: number, tls?: EtcdTls, more: readonly string[] = []): Promise<EtcdCluster> {
    const cluster = new EtcdCluster(await mkdtemp(path.join(tmpdir(), 'etcd-')));
    const ports = await freePorts(2 * size);
    const scheme = tls ? 'https' : 'http';
    const peers = Array.from({ length: size }, (_, at) => `m${at}=http://127.0.0.1:${ports[size + at]!}`);
    for (let at = 0; at < size; at++) {
      const client = `${scheme}://127.0.0.1:${ports[at]!}`;
      const peer = peers[at]!.slice(3);
      cluster.endpoints.push(client);
      const secure = tls
        ? ['--cert-file', tls.cert, '--key-file', tls.key, '--trusted-ca-file', tls.ca, '--client-cert-auth']
        : [];
      cluster.#members.push({
        process: null,
        args: [
          ...['--name', `m${at}`, '--data-dir', path.join(cluster.#dir, `m${at}`)],
          ...['--listen-client-urls', client, '--advertise-client-urls', client],
          ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
          ...['--initial-cluster', peers.join(','), '--initial-cluster-token', cluster.#dir],
          ...['--heartbeat-interval', '50', '--election-timeout', '500', '--log-level', 'error'],
          ...secure,
          ...more,
        ],
      });
      cluster.restart(at);
    }
    try {
      await Promise.all(
        ports.slice(0, size).map((port, at) => untilOpen(port, cluster.#members[at]!.process!)),
      );
    } catch (error) {
      await cluster.remove();
      throw error;
    }
    return cluster;
  }

  get pids(): number[] {
    return this.#members.flatMap(({ process }) => process?.pid ?? []);
  }

  restart(at: number): void {
    const member = this.#members[at]!;
    member.process = spawn('etcd', member.args, { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  signal(at: number, signal: NodeJS.Signals): void {
    this.#members[at]!.process?.kill(signal);
  }

  async kill(at: number): Promise<void> {
    const { process } = this.#members[at]!;
    if (!process || process.exitCode !== null || process.signalCode !== null) return;
    const ended = once(process, 'exit');
    process.kill('SIGKILL');
    await ended;
  }

  async remove(): Promise<void> {
    for (let at = 0; at < this.#members.length; at++) await this.kill(at);
    await rm(this.#dir, { recursive: true, force: true });
  }
}

/** Below the ports that the system gives to connections: nobody takes one while a member is down. */
async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = 15_000 + Math.floor(Math.random() * 17_000);
    const server = net.createServer().listen(port, '127.0.0.1');
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('listening', () => resolve(true));
      server.once('error', () => resolve(false));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    ports.add(port);
  }
  return [...ports];
}

/** Or throws when the process ends instead. */
async function untilOpen(port: number, member: ChildProcess): Promise<void> {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    const isOpen = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    socket.destroy();
    if (isOpen) return;
    if (member.exitCode !== null || member.signalCode !== null) {
      throw new Error(
        `etcd ended (${member.exitCode ?? member.signalCode}) before its port ${port} was open`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
