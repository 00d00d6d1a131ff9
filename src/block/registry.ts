/**
 * Which driver opens which options. A driver registers an opener under its name; openers open their own children
 * through the context, so that the graph (graph.ts) alone knows names and lifetimes.
 */
import type { TlsLookup } from '../base/tls/objects.ts';
import type { BlockDriver } from './driver.ts';
import type { BlockNode } from './node.ts';
import type { OptionReader, OptionTree, OptionValue } from './options.ts';

/** What an opener may ask of the graph. */
export interface OpenContext {
  /** The options' own node-name, for messages. */
  readonly nodeName: string;
  /** Opens a child from a subtree, or finds an existing node or device when `value` is a string (a reference). */
  openChild(role: string, value: OptionValue, defaults?: OptionTree): Promise<BlockNode>;
  /** Finds a node by node-name or by device (block backend) name. */
  find(name: string): BlockNode | null;
  /**
   * The root node that a name stands for when I/O happens, for references that point upwards (replication's top-id)
   * and are not there yet while this node is being opened.
   */
  findLater(name: string): () => BlockNode | null;
  /** The TLS credentials of an id (`tls-creds=`). Throws ColoError. Missing: there are none. */
  readonly tlsCredentials?: TlsLookup;
  /** Emits a QMP event (QUORUM_REPORT_BAD…). */
  emit(event: string, data: Record<string, unknown>): void;
}

export type DriverOpener = (options: OptionReader, context: OpenContext) => Promise<BlockDriver>;

/** Driver name → opener. Filled by drivers/index.ts. */
export type DriverRegistry = ReadonlyMap<string, DriverOpener>;
