/**
 * The VM's objects by id (QEMU's /objects): iothreads, filters on their netdevs, comparers, TLS credentials. Creation
 * and properties are net/objects.ts's and base/tls/objects.ts's; this file owns names and lifetimes.
 */
import { ColoError, DeviceNotFoundError, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import type { CheckpointParticipant } from '../base/participant.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { isTlsCredentialsType, type TlsCredentialsSet } from '../base/tls/objects.ts';
import type { Chardev } from '../chardev/chardev.ts';
import type { Chardevs } from '../chardev/registry.ts';
import type { ColoCompare } from '../net/compare/compare.ts';
import type { CheckpointReason } from '../net/compare/options.ts';
import type { NetFilter } from '../net/filter.ts';
import type { Netdev } from '../net/netdev.ts';
import {
  createColoCompare,
  createFilter,
  isFilterType,
  setCompareProperty,
  setFilterProperty,
} from '../net/objects.ts';
import type { NetObjectContext } from '../net/objects.ts';
import type { Properties, PropertySource } from '../net/properties.ts';
import { flatten } from './command-line/keyval.ts';

const log = loggerFor('objects');

export interface ObjectsHost {
  /** What is in it already was made before the disks were opened. */
  readonly tls: TlsCredentialsSet;
  readonly chardevs: Chardevs;
  readonly netdevs: ReadonlyMap<string, Netdev>;
  /** False under `-machine none`: comparers then compare from the start, for managers behind notify_dev. */
  readonly hasGuest: boolean;
  onCheckpointRequest(): void;
  /** Told why, whoever takes the checkpoint. */
  onCompareAsked(id: string, reason: CheckpointReason): void;
}

export interface VmObject {
  readonly id: string;
  readonly typeName: string;
  properties(): Record<string, unknown>;
  /** qom-set. Throws ParameterError for what cannot be set. */
  setProperty(name: string, value: unknown): void;
  readonly participant?: CheckpointParticipant;
  close(): Promise<void>;
}

/** How long a deleted comparer's last packets may take through the loopback to the redirector behind it. */
const LAST_PACKETS_MS = 200;

export class VmObjects {
  readonly #host: ObjectsHost;
  readonly #objects = new Map<string, VmObject>();
  readonly #filterNetdevs = new Map<string, Netdev>();
  readonly #comparers = new Map<string, ColoCompare>();

  constructor(host: ObjectsHost) {
    this.#host = host;
    host.tls.hasOtherObject = (id) => this.#objects.has(id);
    for (const [id, credentials] of host.tls.all()) this.#objects.set(id, this.#tls(id, credentials));
  }

  /** `-object` (all values are strings) and object-add. Throws ParameterError, DeviceNotFoundError, ChardevInUseError. */
  add(options: Readonly<Record<string, unknown>>, source: PropertySource = 'command line'): void {
    const { 'qom-type': type, id, ...properties } = options;
    if (typeof type !== 'string') throw new ParameterError("Parameter 'qom-type' is missing");
    if (typeof id !== 'string') throw new ParameterError("Parameter 'id' is missing");
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id))
      throw new ParameterError("Parameter 'id' expects an identifier");
    if (this.#objects.has(id)) {
      throw new ColoError(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    this.#objects.set(id, this.#create(type, id, properties, source));
  }

  async remove(id: string): Promise<void> {
    const object = this.require(id);
    this.#objects.delete(id);
    await object.close();
  }

  /** Throws ColoError with QEMU's text when there is none. */
  require(id: string): VmObject {
    const object = this.#objects.get(id);
    if (!object) throw new ColoError(`object '${id}' not found`);
    return object;
  }

  /** The object that a QOM path names: `/objects/ID`, or the bare id. Throws DeviceNotFoundError with QEMU's text. */
  atPath(path: string): VmObject {
    const id = path.startsWith('/objects/') ? path.slice('/objects/'.length) : path;
    const object = this.#objects.get(id);
    if (!object) throw new DeviceNotFoundError(`Device '${path}' not found`);
    return object;
  }

  hasIothread(id: string): boolean {
    return this.#objects.get(id)?.typeName === 'iothread';
  }

  list(): VmObject[] {
    return [...this.#objects.values()];
  }

  comparers(): ColoCompare[] {
    return [...this.#comparers.values()];
  }

  participants(): CheckpointParticipant[] {
    return this.list().flatMap((object) => (object.participant ? [object.participant] : []));
  }

  async closeAll(): Promise<void> {
    const objects = this.list().reverse();
    this.#objects.clear();
    for (const object of objects) {
      try {
        await object.close();
      } catch (error) {
        log.warn({ err: error, object: object.id }, 'closing an object');
      }
    }
  }

  #create(type: string, id: string, properties: Properties, source: PropertySource): VmObject {
    if (type === 'iothread') return iothread(id, properties);
    if (type === 'colo-compare') return this.#comparer(id, properties, source);
    if (isTlsCredentialsType(type)) return this.#tls(id, this.#host.tls.add(id, type, asStrings(properties)));
    if (!isFilterType(type)) throw new ParameterError(`Parameter 'qom-type' does not accept value '${type}'`);
    const { filter, netdev, place } = createFilter(type, id, properties, this.#context(), source);
    this.#filterNetdevs.set(id, netdev);
    return {
      id,
      typeName: type,
      properties: () => ({ ...filter.properties(), ...place }),
      setProperty: (name, value) => setIfThere(filter, place, name, value),
      ...(filter.participant ? { participant: filter.participant } : {}),
      close: () => {
        this.#filterNetdevs.delete(id);
        // A filter that lets something go at its end needs its place for that.
        filter.close();
        netdev.remove(filter);
        return filter.finished ?? Promise.resolve();
      },
    };
  }

  #tls(id: string, credentials: TlsCredentials): VmObject {
    const typeName = credentials.type;
    return {
      id,
      typeName,
      properties: () => credentials.properties(),
      setProperty: (name) => {
        // QEMU takes some of these and does nothing with them: the files were read when the object was made.
        const isThere = name in credentials.properties();
        throw new ParameterError(
          `Property '${typeName}.${name}' ${isThere ? 'cannot be changed' : 'not found'}`,
        );
      },
      close: () => {
        this.#host.tls.delete(id);
        return Promise.resolve();
      },
    };
  }

  #comparer(id: string, given: Properties, source: PropertySource): VmObject {
    const properties = asStrings(given);
    const compare = createColoCompare(id, given, this.#context(), source);
    compare.onCheckpointRequest = () => this.#host.onCheckpointRequest();
    compare.onAsked = (reason) => this.#host.onCompareAsked(id, reason);
    this.#comparers.set(id, compare);
    const iothreadId = properties['iothread'] ?? '';
    const primaryIn = this.#host.chardevs.find(properties['primary_in']!);
    const outdev = this.#host.chardevs.find(properties['outdev']!);
    return {
      id,
      typeName: 'colo-compare',
      properties: () => ({ ...compare.properties(), iothread: this.#linkTo(iothreadId) }),
      setProperty: (name, value) => {
        if (!(name in compare.properties()))
          throw new ParameterError(`Property 'colo-compare.${name}' not found`);
        setCompareProperty(compare, name, value);
      },
      participant: compare,
      close: () => {
        this.#comparers.delete(id);
        return this.#retire(compare, primaryIn, outdev);
      },
    };
  }

  /**
   * Whoever deletes a comparer has decided that there is no pair: what it holds goes out (QEMU loses it, and every
   * connection waits for a retransmission). The redirector behind it is usually deleted next, so its input is awaited.
   */
  async #retire(compare: ColoCompare, primaryIn: Chardev | null, outdev: Chardev | null): Promise<void> {
    if (this.#host.hasGuest) {
      this.#letPass(primaryIn);
      compare.flush();
    }
    const stream = outdev?.connection?.outgoing;
    const written = outdev?.bytesOut ?? 0;
    compare.close();
    const reader = stream === undefined ? null : this.#findReader(stream);
    if (!reader) return;
    const deadline = performance.now() + LAST_PACKETS_MS;
    while (reader.connected && reader.bytesIn < written && performance.now() < deadline) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Redirectors that feed a comparer which is no more would swallow the guest's output until they are deleted too. */
  #letPass(primaryIn: Chardev | null): void {
    const incoming = primaryIn?.connection?.incoming;
    const sender = incoming === undefined ? null : this.#findSender(incoming);
    if (!sender) return;
    for (const object of this.#objects.values()) {
      if (object.typeName === 'filter-redirector' && object.properties()['outdev'] === sender.id) {
        object.setProperty('status', 'off');
      }
    }
  }

  /** A link's value: the path of what it leads to; empty once that is deleted, which as in QEMU is allowed. */
  #linkTo(id: string): string {
    return this.#objects.has(id) ? `/objects/${id}` : '';
  }

  #context(): NetObjectContext {
    const { chardevs, netdevs, hasGuest } = this.#host;
    return {
      netdev: (id) => netdevs.get(id) ?? null,
      chardev: (id) => chardevs.find(id),
      netdevOfFilter: (id) => this.#filterNetdevs.get(id) ?? null,
      hasIothread: (id) => this.hasIothread(id),
      findSender: (incoming) => this.#findSender(incoming),
      findOutputNetdev: (outdev) => this.#findOutputNetdev(outdev),
      bypassUntilStarted: hasGuest,
    };
  }

  #findSender(incoming: string): Chardev | null {
    return this.#host.chardevs.all().find(({ connection }) => connection?.outgoing === incoming) ?? null;
  }

  /** Where a redirector injects what comes out at the other end of `outdev`. */
  #findOutputNetdev(outdev: Chardev): string | null {
    const stream = outdev.connection?.outgoing;
    const reader = stream === undefined ? null : this.#findReader(stream);
    for (const [id, netdev] of this.#filterNetdevs) {
      if (reader && this.#objects.get(id)?.properties()['indev'] === reader.id) return netdev.id;
    }
    return null;
  }

  #findReader(outgoing: string): Chardev | null {
    return this.#host.chardevs.all().find(({ connection }) => connection?.incoming === outgoing) ?? null;
  }
}

const IOTHREAD_PROPERTIES = [
  'poll-max-ns',
  'poll-grow',
  'poll-shrink',
  'aio-max-batch',
  'thread-pool-min',
  'thread-pool-max',
];

/** An iothread runs nothing here (Node has one event loop for all objects); it exists because comparers name one. */
function iothread(id: string, properties: Properties): VmObject {
  for (const name of Object.keys(properties)) {
    if (!IOTHREAD_PROPERTIES.includes(name)) {
      throw new ParameterError(`Parameter '${name}' is unexpected`);
    }
  }
  return {
    id,
    typeName: 'iothread',
    properties: () => ({ ...properties }),
    setProperty: (name) => {
      throw new ParameterError(
        IOTHREAD_PROPERTIES.includes(name)
          ? `Property 'iothread.${name}' cannot be changed`
          : `Property 'iothread.${name}' not found`,
      );
    },
    close: () => Promise.resolve(),
  };
}

function setIfThere(filter: NetFilter, place: object, name: string, value: unknown): void {
  if (!(name in filter.properties() || name in place)) {
    throw new ParameterError(`Property '${filter.typeName}.${name}' not found`);
  }
  setFilterProperty(filter, name, value);
}

function asStrings(properties: Properties): Record<string, string> {
  const flat = Object.create(null) as Record<string, string>;
  flatten(properties, '', flat);
  return flat;
}
