/**
 * `node.yaml`: what one host's daemon is told, read into a NodeConfig with every default filled in. docs/node-file.md has
 * the keys. What is wrong is told with line, column and key, all of it at once; nothing is touched.
 */
import os from 'node:os';
import path from 'node:path';
import { isLoopback } from '../../base/loopback.ts';
import { ADDRESS, MAX_PORT, readListen } from './listen-key.ts';
import { NODE_CONFIG_VERSION } from './node-config.ts';
import type { ArbiterConfig, NodeConfig, TlsFiles } from './node-config.ts';
import { Problems, Section } from './section.ts';
import { SpecFileError } from './spec-error.ts';
import { readVersion } from './vm-file.ts';
import {
  HOST_NAME,
  MAX_INTERVAL_MS,
  MAX_MEMORY_MIB,
  MAX_PATIENCE_MS,
  MIN_HEARTBEAT_MS,
} from './vm-limits.ts';
import { parseYaml, readSpecFile } from './yaml-tree.ts';
import type { Tree } from './yaml-tree.ts';

const MIB = 1024 * 1024;
/** What the host keeps for itself. */
const HOST_MIB = 1024;
const LEAST_GUEST_MIB = 64;
const MAX_ENDPOINTS = 16;
const MAX_NAMES = 16;

const ENDPOINT = {
  pattern: /^(?:https?:\/\/)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\/?$/,
  is: 'http://HOST:PORT or https://HOST:PORT',
};
const NAME = {
  pattern: /^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/,
  is: 'a name of this host, without a port',
};
const NOT_EMPTY = { pattern: /^[^\n]+$/, is: 'a path' };
const USER = { pattern: /^[^\s:]{1,64}$/, is: 'the name of an etcd user' };

/** What defaults are made of. */
export interface Surroundings {
  readonly hostname: string;
  readonly isRoot: boolean;
  readonly uid: number;
  readonly home: string;
  readonly temporary: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly memoryBytes: number;
}

export function surroundings(): Surroundings {
  const uid = process.getuid?.() ?? -1;
  return {
    ...{ hostname: os.hostname(), isRoot: uid === 0, uid, home: os.homedir(), temporary: os.tmpdir() },
    ...{ env: process.env, memoryBytes: os.totalmem() },
  };
}

export interface NodeFileOptions {
  /** For messages. */
  readonly file: string;
  /** What relative paths are relative to. */
  readonly folder: string;
  readonly surroundings?: Surroundings;
}

/** Throws SpecFileError, also when the file cannot be read. */
export async function readNodeFile(file: string): Promise<NodeConfig> {
  return parseNodeFile(await readSpecFile(file), { file, folder: path.dirname(path.resolve(file)) });
}

/** Throws SpecFileError and nothing else, whatever the text is. */
export function parseNodeFile(text: string, options: NodeFileOptions): NodeConfig {
  const tree = parseYaml(options.file, text);
  const problems = new Problems();
  const config = new NodeReader(problems, options.folder, options.surroundings ?? surroundings()).read(tree);
  if (!config || problems.list.length > 0) throw new SpecFileError(options.file, problems.list);
  return config;
}

class NodeReader {
  readonly #problems: Problems;
  readonly #folder: string;
  readonly #around: Surroundings;

  constructor(problems: Problems, folder: string, around: Surroundings) {
    this.#problems = problems;
    this.#folder = folder;
    this.#around = around;
  }

  /** Undefined only together with a note. */
  read(tree: Tree): NodeConfig | undefined {
    const top = Section.of(tree, '', this.#problems);
    if (!top) return undefined;
    readVersion(top, NODE_CONFIG_VERSION);
    const name = top.text('name', HOST_NAME) ?? this.#hostName(top);
    const address = top.text('address', ADDRESS) ?? '127.0.0.1';
    const port = top.integer('port', 0, MAX_PORT) ?? 7700;
    const heartbeat = this.#heartbeat(top, address);
    const pairPorts = this.#pairPorts(top);
    const stateFolder = this.#path(top, 'state-folder') ?? this.#stateFolder();
    const runFolder = this.#path(top, 'run-folder') ?? this.#runFolder();
    const memoryMiB = this.#memory(top);
    const arbiter = this.#arbiter(top);
    const tls = this.#tls(top);
    const metrics = this.#metrics(top);
    const dashboard = this.#dashboard(top);
    const logLevel = top.oneOf('log-level', ['debug', 'info', 'warn', 'error']) ?? 'info';
    top.end();
    if (!arbiter) return undefined;
    return {
      version: NODE_CONFIG_VERSION,
      ...{ name, address, port, heartbeat, pairPorts, stateFolder, runFolder, memoryMiB, arbiter },
      ...(tls === undefined ? {} : { tls }),
      ...{ metrics, dashboard, logLevel },
    };
  }

  #hostName(top: Section): string {
    const name = this.#around.hostname.split('.', 1)[0] ?? '';
    if (!HOST_NAME.pattern.test(name) && !top.has('name'))
      top.missing('name', `the system's host name '${name}' is none; give the host a name`);
    return name;
  }

  #stateFolder(): string {
    const { isRoot, env, home } = this.#around;
    if (isRoot) return '/var/lib/colo';
    return path.join(env['XDG_STATE_HOME'] || path.join(home, '.local', 'state'), 'colo');
  }

  #runFolder(): string {
    const { isRoot, env, uid, temporary } = this.#around;
    if (isRoot) return '/run/colo';
    const own = env['XDG_RUNTIME_DIR'];
    return own === undefined || own === '' ? path.join(temporary, `colo-${uid}`) : path.join(own, 'colo');
  }

  #memory(top: Section): number {
    const bytes = top.size('memory', {
      ...{ least: LEAST_GUEST_MIB * MIB, most: MAX_MEMORY_MIB * MIB, unit: MIB, example: '16G' },
    });
    if (bytes !== undefined) return Math.floor(bytes / MIB);
    return Math.max(LEAST_GUEST_MIB, Math.floor(this.#around.memoryBytes / MIB) - HOST_MIB);
  }

  #heartbeat(top: Section, address: string): NodeConfig['heartbeat'] {
    const section = top.section('heartbeat');
    const heartbeat = {
      address: section?.text('address', ADDRESS) ?? address,
      port: section?.integer('port', 0, MAX_PORT) ?? 7701,
      intervalMs: section?.duration('interval', MIN_HEARTBEAT_MS, MAX_INTERVAL_MS) ?? 100,
      patienceMs: section?.duration('patience', MIN_HEARTBEAT_MS, MAX_PATIENCE_MS) ?? 400,
    };
    if (heartbeat.patienceMs < 2 * heartbeat.intervalMs)
      section?.wrong('patience', `two intervals of ${heartbeat.intervalMs} ms are due at least`);
    section?.end();
    return heartbeat;
  }

  #pairPorts(top: Section): readonly [number, number] {
    const text = top.text('pair-ports', { pattern: /^\d{1,5}-\d{1,5}$/, is: 'two ports, such as 7710-7899' });
    if (text === undefined) return [7710, 7899];
    const [first = 0, last = 0] = text.split('-').map(Number);
    if (first < 1 || last > MAX_PORT || last - first < 3)
      top.wrong('pair-ports', `four ports between 1 and ${MAX_PORT} are due at least, the smaller one first`);
    return [first, last];
  }

  #arbiter(top: Section): ArbiterConfig | undefined {
    if (!top.has('arbiter')) {
      top.missing(
        'arbiter',
        'name what keeps the hosts from both going on: file: FOLDER, which every host sees, or etcd',
      );
      return undefined;
    }
    const section = top.section('arbiter');
    if (!section) return undefined;
    const directory = this.#path(section, 'file');
    const etcd = this.#etcd(section);
    if (section.has('file') === section.has('etcd')) top.wrong('arbiter', 'one of file and etcd is due');
    section.end();
    return directory === undefined ? etcd : { kind: 'file', directory };
  }

  #etcd(above: Section): ArbiterConfig | undefined {
    const section = above.section('etcd');
    if (!section) return undefined;
    const endpoints = section.texts('endpoints', MAX_ENDPOINTS, ENDPOINT);
    if (!section.has('endpoints') || endpoints.length === 0)
      section.missing('endpoints', 'give http(s)://HOST:PORT of each member');
    const user = section.text('user', USER);
    const passwordFile = this.#path(section, 'password-file');
    if ((user === undefined) !== (passwordFile === undefined))
      above.wrong('etcd', 'user and password-file belong together');
    const inner = section.section('tls');
    const ca = inner && this.#path(inner, 'ca');
    const cert = inner && this.#path(inner, 'cert');
    const key = inner && this.#path(inner, 'key');
    if (inner && ca === undefined) inner.missing('ca', 'give the certificates to trust');
    if ((cert === undefined) !== (key === undefined)) section.wrong('tls', 'cert and key belong together');
    inner?.end();
    section.end();
    const pair = cert === undefined || key === undefined ? {} : { cert, key };
    return {
      kind: 'etcd',
      endpoints,
      ...(ca === undefined ? {} : { tls: { ca, ...pair } }),
      ...(user === undefined || passwordFile === undefined ? {} : { user, passwordFile }),
    };
  }

  #tls(top: Section): TlsFiles | undefined {
    const section = top.section('tls');
    if (!section) return undefined;
    const ca = this.#path(section, 'ca');
    const cert = this.#path(section, 'cert');
    const key = this.#path(section, 'key');
    for (const [name, file] of Object.entries({ ca, cert, key })) {
      if (file === undefined && !section.has(name)) section.missing(name, 'give the path of a PEM file');
    }
    section.end();
    return ca === undefined || cert === undefined || key === undefined ? undefined : { ca, cert, key };
  }

  #metrics(top: Section): NodeConfig['metrics'] {
    const found = readListen(top, 'metrics', this.#problems, { address: '127.0.0.1', port: 7702 });
    found?.section?.end();
    return found && found.listen;
  }

  #dashboard(top: Section): NodeConfig['dashboard'] {
    const found = readListen(top, 'dashboard', this.#problems, { address: '127.0.0.1', port: 7703 });
    if (!found) return null;
    const { listen, section } = found;
    const tokenFile = section && this.#path(section, 'token-file');
    const names = section?.texts('names', MAX_NAMES, NAME) ?? [];
    if (tokenFile === undefined && !isLoopback(listen.address)) {
      const way = `${listen.address} can be reached from other machines: give the path of a file with a token of 16 letters or more`;
      if (section) section.missing('token-file', way);
      else top.wrong('dashboard', `needs a token, for ${way} (dashboard: {address, port, token-file})`);
    }
    section?.end();
    return { ...listen, names, ...(tokenFile === undefined ? {} : { tokenFile }) };
  }

  #path(section: Section, key: string): string | undefined {
    const text = section.text(key, NOT_EMPTY);
    return text === undefined ? undefined : path.resolve(this.#folder, text);
  }
}
