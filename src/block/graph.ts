/**
 * The block graph of one process: nodes by node-name, block backends (the devices of `-drive id=`) by id, and who holds
 * whom. It opens option trees, resolves references, and closes what nobody refers to any more.
 *
 * Ownership: `BlockNode.users` holds a text for each reference: `PARENT/ROLE` for a parent node, `drive:ID` for a
 * backend, anything else for exports and jobs. A node made by `addNode` also belongs to the monitor and stays without
 * users. Whoever adds a user outside of an opener (quorum's children, exports) calls `attach` and `detach`.
 *
 * Sources: QEMU blockdev.c, block.c (texts, lookup order); docs/qemu-behaviour.md 5.7, 7.2. It knows no driver but
 * `file`, whose identity tells a backing file that is its own ancestor, `replication`, whose peer may be dead, and
 * `blkdebug`, which may hold requests.
 */
import { Gate } from '../base/async.ts';
import { ColoError, DeviceNotFoundError, ParameterError, messageOf } from '../base/errors.ts';
import { TlsCredentialsSet, type TlsLookup } from '../base/tls/objects.ts';
import { FileDriver } from './drivers/file.ts';
import { blockDrivers } from './drivers/index.ts';
import { isReplication } from './drivers/replication.ts';
import { Blkdebug } from './filters/blkdebug.ts';
import { mergeDefaults, stripDriveOptions, takeGenericOptions } from './generic-options.ts';
import type { GenericOptions, InheritedOptions } from './generic-options.ts';
import { BlockNode } from './node.ts';
import { OptionReader } from './options.ts';
import type { OptionTree, OptionValue } from './options.ts';
import { PROBE_BYTES, parseFilename, probeFormat } from './probe.ts';
import type { DriverRegistry, OpenContext } from './registry.ts';

/** A backing chain (or any nesting) deeper than this is refused. */
const MAX_DEPTH = 200;
const MAX_NODES = 10_000;
const TOP: InheritedOptions = {
  readOnly: false,
  autoReadOnly: false,
  forceShare: false,
  noFlush: false,
  unmap: false,
};

export interface BlockGraphOptions {
  readonly registry?: DriverRegistry;
  readonly emit?: (event: string, data: Record<string, unknown>) => void;
  /** Default: there are no credentials. */
  readonly tlsCredentials?: TlsLookup;
}

/** A device's view on the graph: `-drive id=`, or that of a device of the guest directly on a node. */
export interface BlockBackend {
  /** For a device on a node no drive's id: addDevice. */
  readonly id: string;
  /** The node that guest requests go to. A job that pivots may replace it. */
  root: BlockNode;
  /** Guest requests wait here, in front of the root, while a job replaces it. */
  readonly gate: Gate;
}

export interface OpenImageOptions {
  /** The format; missing: probed from the content. */
  readonly format?: string;
  readonly readOnly?: boolean;
  /** Open although somebody else writes the image (read-only only). */
  readonly forceShare?: boolean;
  readonly nodeName?: string;
  /** A node to be its backing node, whatever its header says. */
  readonly backing?: string;
}

/** A node that is being opened. */
interface Frame {
  readonly name: string;
  readonly parent: Frame | null;
  readonly depth: number;
  readonly generic: InheritedOptions;
  readonly opened: BlockNode[];
  identity: string | null;
}

/** What the id of a device without a name begins with. */
const ANONYMOUS = 'device on ';

/** What monitors call a device: its drive's id; empty for one on a node. */
export function deviceName({ id }: BlockBackend): string {
  return id.startsWith(ANONYMOUS) ? '' : id;
}

/** The text under which a parent node refers to a child. Node names hold no slash. */
export function parentUser(parentName: string, role: string): string {
  return `${parentName}/${role}`;
}

export class BlockGraph {
  readonly #registry: DriverRegistry;
  readonly #emit: (event: string, data: Record<string, unknown>) => void;
  readonly #tlsCredentials: TlsLookup;
  readonly #nodes = new Map<string, BlockNode>();
  readonly #monitorOwned = new Set<BlockNode>();
  readonly #drives = new Map<string, BlockBackend>();
  readonly #reserved = new Set<string>();
  #nextAutoName = 100;

  constructor(options: BlockGraphOptions = {}) {
    this.#registry = options.registry ?? blockDrivers;
    this.#emit = options.emit ?? (() => undefined);
    this.#tlsCredentials = options.tlsCredentials ?? new TlsCredentialsSet().find;
  }

  /** `-drive id=ID,…` or `drive_add 0 …`. A string `file` is a file name here. Throws ColoError. */
  async addDrive(id: string, options: OptionTree): Promise<BlockBackend> {
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) throw new ParameterError(`Invalid drive ID '${id}'`);
    if (this.#drives.has(id)) throw new ColoError(`Device with id '${id}' already exists`);
    if (this.#nodes.has(id)) throw new ColoError(`Device name '${id}' conflicts with an existing node name`);
    const tree = stripDriveOptions(options);
    const gate = new Gate();
    this.#drives.set(id, { id, root: RESERVED, gate });
    try {
      const root = await this.#open(withNamedFile(tree), TOP, null, 'format');
      this.attach(root, `drive:${id}`);
      const backend: BlockBackend = { id, root, gate };
      this.#drives.set(id, backend);
      return backend;
    } catch (error) {
      this.#drives.delete(id);
      throw error;
    }
  }

  /**
   * A device of the guest on a node (`-device …,drive=NODE`). It has no name for monitors (QEMU: an anonymous block
   * backend), so its id here is one that no drive can have. Null: there is no such node.
   */
  addDevice(nodeName: string): BlockBackend | null {
    const root = this.findNode(nodeName);
    if (!root) return null;
    const backend: BlockBackend = { id: `${ANONYMOUS}${nodeName}`, root, gate: new Gate() };
    this.#drives.set(backend.id, backend);
    this.attach(root, `drive:${backend.id}`);
    return backend;
  }

  /** `blockdev-add`, `drive_add -n`: a node that belongs to the monitor. Throws ColoError. */
  async addNode(options: OptionTree): Promise<BlockNode> {
    if (options['node-name'] === undefined) throw new ParameterError("'node-name' needs to be specified");
    const node = await this.#open(options, TOP, null, 'format');
    this.#monitorOwned.add(node);
    return node;
  }

  /** Opens an image by name (path, nbd://, json:) for a tool. `release` it with the user `tool` when done. */
  async openImage(name: string, options: OpenImageOptions = {}): Promise<BlockNode> {
    const named = parseFilename(name);
    // A protocol name stands for a file whose format is chosen above it; json: names the whole tree.
    const tree: OptionTree = name.startsWith('json:') ? named : { file: named };
    if (options.format !== undefined) tree['driver'] = options.format;
    if (options.nodeName !== undefined) tree['node-name'] = options.nodeName;
    if (options.backing !== undefined) tree['backing'] = options.backing;
    const inherited = {
      ...TOP,
      unmap: true,
      readOnly: options.readOnly ?? false,
      forceShare: options.forceShare ?? false,
    };
    const node = await this.#open(tree, inherited, null, 'format');
    this.attach(node, 'tool');
    return node;
  }

  /** Ends what `openImage` began. */
  async closeImage(node: BlockNode): Promise<void> {
    await this.detach(node, 'tool');
  }

  /** A device's root node, else the node of that name. */
  find(name: string): BlockNode | null {
    return this.findBackend(name)?.root ?? this.findNode(name);
  }

  findNode(name: string): BlockNode | null {
    return this.#nodes.get(name) ?? null;
  }

  findBackend(id: string): BlockBackend | null {
    const backend = this.#drives.get(id);
    return backend && backend.root !== RESERVED ? backend : null;
  }

  /** As `find`, with QEMU's text when there is none. */
  require(name: string): BlockNode {
    const node = this.find(name);
    if (!node) throw new ColoError(`Cannot find device='${name}' nor node-name='${name}'`);
    return node;
  }

  /** `drive_del NODE`, `blockdev-del`. Throws DeviceNotFoundError, ColoError. */
  async removeNode(name: string): Promise<void> {
    const node = this.#nodes.get(name);
    if (!node) throw new DeviceNotFoundError(`Device '${name}' not found`);
    if ([...node.users].some((user) => user.startsWith('drive:')))
      throw new ColoError(`Node ${name} is in use`);
    refuseIfBlocked(node, 'drive-del');
    if (!this.#monitorOwned.has(node)) throw new ColoError(`Node ${name} is not owned by the monitor`);
    if (node.users.size > 0) throw new ColoError(`Block device ${name} is in use`);
    this.#monitorOwned.delete(node);
    // Whoever gives a replication target up does not wait for the host that it is on.
    if (isReplication(node.driver)) node.driver.breakOff();
    await this.#closeNode(node);
  }

  /** `drive_del DEVICE`: the backend goes, and its tree as far as nobody else uses it. */
  async removeDrive(id: string): Promise<void> {
    const backend = this.findBackend(id);
    if (!backend) throw new DeviceNotFoundError(`Device '${id}' not found`);
    refuseIfBlocked(backend.root, 'drive-del');
    const others = [...backend.root.users].filter((user) => user !== `drive:${id}`);
    if (others.length > 0) throw new ColoError(`Block device ${id} is in use`);
    this.#drives.delete(id);
    await this.detach(backend.root, `drive:${id}`);
  }

  /** Notes that `user` refers to `node`. */
  attach(node: BlockNode, user: string): void {
    node.users.add(user);
  }

  /** Ends a reference; closes the node when that was the last one and the monitor does not own it. */
  async detach(node: BlockNode, user: string): Promise<void> {
    node.users.delete(user);
    await this.#closeIfUnused(node);
  }

  /** Makes a backend show another node (a job's pivot). The old root stays with whoever else uses it. */
  async replaceRoot(id: string, root: BlockNode): Promise<void> {
    const backend = this.findBackend(id);
    if (!backend) throw new DeviceNotFoundError(`Device '${id}' not found`);
    const old = backend.root;
    if (old === root) return;
    this.attach(root, `drive:${id}`);
    backend.root = root;
    await this.detach(old, `drive:${id}`);
  }

  /** The devices and every node, for query-block and query-named-block-nodes. */
  list(): { backends: BlockBackend[]; nodes: BlockNode[] } {
    const backends = [...this.#drives.values()].filter(({ root }) => root !== RESERVED);
    return { backends, nodes: [...this.#nodes.values()] };
  }

  /** The device ids whose root is `node`. */
  backendsOf(node: BlockNode): string[] {
    return [...node.users]
      .filter((user) => user.startsWith('drive:'))
      .map((user) => user.slice('drive:'.length));
  }

  /** Closes everything, parents before children. Throws the first failure after all was tried. */
  async closeAll(): Promise<void> {
    let failure: { error: unknown } | null = null as { error: unknown } | null;
    const attempt = async (close: Promise<void>): Promise<void> => {
      await close.catch((error: unknown) => (failure ??= { error }));
    };
    this.#monitorOwned.clear();
    // Closing waits for what is in flight, and nobody will end a breakpoint any more.
    for (const { driver } of this.#nodes.values()) if (driver instanceof Blkdebug) driver.letGo();
    for (const { id, root } of this.list().backends) {
      this.#drives.delete(id);
      await attempt(this.detach(root, `drive:${id}`));
    }
    for (const node of [...this.#nodes.values()]) await attempt(this.#closeIfUnused(node));
    // What is left is held by exports or jobs that did not let go.
    for (const node of [...this.#nodes.values()].reverse()) {
      if (this.#nodes.has(node.nodeName)) await attempt(this.#closeNode(node));
    }
    if (failure) throw asError(failure.error);
  }

  async #open(
    options: OptionTree,
    inherited: InheritedOptions,
    parent: Frame | null,
    level: 'format' | 'protocol',
  ): Promise<BlockNode> {
    const generic = takeGenericOptions(
      level === 'protocol' ? withProtocolDriver(options) : options,
      inherited,
    );
    const name = this.#reserveName(generic.nodeName);
    const frame: Frame = {
      name,
      parent,
      depth: (parent?.depth ?? 0) + 1,
      generic,
      opened: [],
      identity: null,
    };
    try {
      if (frame.depth > MAX_DEPTH) throw new ColoError(`Block nodes are nested deeper than ${MAX_DEPTH}`);
      const driverName = generic.driver ?? (await this.#probe(frame, generic.rest));
      const opener = this.#registry.get(driverName);
      if (!opener) throw new ParameterError(`Unknown driver '${driverName}'`);
      const driver = await opener(new OptionReader(driverOptions(driverName, generic)), this.#context(frame));
      const { unmap, noFlush, detectZeroes } = generic;
      const node = new BlockNode(name, driver, { unmap, noFlush, detectZeroes });
      this.#nodes.set(name, node);
      return node;
    } catch (error) {
      for (const child of frame.opened.reverse()) {
        this.#dropUsers(child, name);
        await this.#closeIfUnused(child).catch(() => undefined); // the first error is the one to tell
      }
      throw error;
    } finally {
      this.#reserved.delete(name);
    }
  }

  #context(frame: Frame): OpenContext {
    return {
      nodeName: frame.name,
      openChild: (role, value, defaults) => this.#openChild(frame, role, value, defaults),
      find: (name) => this.find(name),
      findLater: (name) => () => this.find(name),
      tlsCredentials: this.#tlsCredentials,
      emit: (event, data) => this.#emit(event, data),
    };
  }

  async #openChild(
    frame: Frame,
    role: string,
    value: OptionValue,
    defaults?: OptionTree,
  ): Promise<BlockNode> {
    let child: BlockNode;
    if (typeof value === 'string') {
      child = this.require(value);
    } else {
      // A backing file is written to by nobody but who says so (QEMU: bdrv_backing_options).
      const inherited = {
        ...frame.generic,
        // A format sends no discard that it does not mean.
        unmap: true,
        readOnly: role === 'backing' || frame.generic.readOnly,
      };
      const isFile = role === 'file' || role === 'image';
      const level = isFile && isProtocolTree(value) ? 'protocol' : 'format';
      child = await this.#open(mergeDefaults(value, defaults), inherited, frame, level);
    }
    this.attach(child, parentUser(frame.name, role));
    frame.opened.push(child);
    if (role === 'file' && child.driver instanceof FileDriver) {
      frame.identity = child.driver.identity;
      for (let above = frame.parent; above; above = above.parent) {
        if (above.identity !== frame.identity) continue;
        throw new ColoError(`Backing file '${child.driver.filename}' creates an infinite loop.`);
      }
    }
    return child;
  }

  /** Opens the file below to see what format it has; puts a reference to it in place of its options. */
  async #probe(frame: Frame, rest: OptionTree): Promise<string> {
    const filename = rest['filename'];
    if (typeof filename === 'string' && rest['file'] === undefined) {
      delete rest['filename'];
      rest['file'] = parseFilename(filename);
    }
    const file = rest['file'];
    if (file === undefined) throw new ParameterError('Must specify either driver or file');
    const node = await this.#openChild(frame, 'file', file);
    rest['file'] = node.nodeName;
    const head = new Uint8Array(Math.min(PROBE_BYTES, node.lengthBytes));
    await node.read(0, head);
    return probeFormat(head);
  }

  #reserveName(wanted: string | undefined): string {
    if (this.#nodes.size + this.#reserved.size >= MAX_NODES)
      throw new ColoError(`There are already ${MAX_NODES} block nodes`);
    const name = wanted ?? `#block${this.#nextAutoName++}`;
    if (wanted !== undefined) {
      if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(wanted))
        throw new ParameterError(`Invalid node-name: '${wanted}'`);
      if (wanted.length > 31) throw new ParameterError('Node name too long');
      if (this.#drives.has(wanted))
        throw new ColoError(`node-name=${wanted} is conflicting with a device id`);
    }
    if (this.#nodes.has(name) || this.#reserved.has(name)) {
      throw new ColoError(`Duplicate nodes with node-name='${name}'`);
    }
    this.#reserved.add(name);
    return name;
  }

  async #closeIfUnused(node: BlockNode): Promise<void> {
    if (node.users.size > 0 || this.#monitorOwned.has(node)) return;
    if (this.#nodes.get(node.nodeName) !== node) return;
    await this.#closeNode(node);
  }

  async #closeNode(node: BlockNode): Promise<void> {
    this.#nodes.delete(node.nodeName);
    const below = [...node.driver.children().values()];
    let failure: unknown;
    await node.close().catch((error: unknown) => (failure = error));
    // A driver may have taken in nodes under roles of its own, or have let go of some: users decide.
    for (const other of this.#heldBy(node.nodeName, below)) {
      this.#dropUsers(other, node.nodeName);
      await this.#closeIfUnused(other).catch((error: unknown) => (failure ??= error));
    }
    if (failure !== undefined) throw asError(failure);
  }

  /** `below` and every node that names the parent as its user. */
  #heldBy(parentName: string, below: readonly BlockNode[]): BlockNode[] {
    const prefix = parentUser(parentName, '');
    const held = below.filter((other) => this.#nodes.get(other.nodeName) === other);
    for (const other of this.#nodes.values()) {
      if (other.users.size === 0 || held.includes(other)) continue;
      for (const user of other.users) {
        if (!user.startsWith(prefix)) continue;
        held.push(other);
        break;
      }
    }
    return held;
  }

  #dropUsers(child: BlockNode, parentName: string): void {
    const prefix = parentUser(parentName, '');
    for (const user of [...child.users]) if (user.startsWith(prefix)) child.users.delete(user);
  }
}

/** Stands for the root of a drive that is being opened, so that its id is taken. */
const RESERVED = Object.freeze({}) as BlockNode;

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(messageOf(thrown));
}

function refuseIfBlocked(node: BlockNode, operation: string): void {
  const reason = node.blockers.get(operation) ?? node.blockers.get('*');
  if (reason !== undefined) throw new ColoError(`Node '${node.nodeName}' is busy: ${reason}`);
}

/** `{filename: X}` without a driver below a format: the protocol that X's prefix names. */
function withProtocolDriver(options: OptionTree): OptionTree {
  const filename = options['filename'];
  if (options['driver'] !== undefined || typeof filename !== 'string') return options;
  const named = parseFilename(filename);
  const others: OptionTree = { ...options };
  delete others['filename'];
  return mergeDefaults(others, named);
}

function isProtocolTree(value: OptionTree): boolean {
  return (
    value['driver'] === undefined &&
    typeof value['filename'] === 'string' &&
    !value['filename'].startsWith('json:')
  );
}

/** A string `file` of `-drive` is a file name; a `json:` name stands for a whole tree rather than for a file. */
function withNamedFile(options: OptionTree): OptionTree {
  const file = options['file'];
  if (typeof file !== 'string') return options;
  if (!file.startsWith('json:')) return { ...options, file: parseFilename(file) };
  const others: OptionTree = { ...options };
  delete others['file'];
  return mergeDefaults(others, parseFilename(file));
}

function driverOptions(driver: string, generic: GenericOptions): OptionTree {
  const options = { ...generic.rest };
  if (generic.readOnly) options['read-only'] = 'on';
  if (driver === 'file' || driver === 'host_device') {
    if (generic.autoReadOnly) options['auto-read-only'] = 'on';
    if (generic.forceShare) options['force-share'] = 'on';
  }
  return options;
}
