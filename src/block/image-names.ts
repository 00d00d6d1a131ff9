/**
 * How open nodes are called: the shortest name that opens the same content, as QEMU finds it (block.c,
 * bdrv_refresh_filename): a file's path, an NBD URI, the name of the file below a format, and where options or another
 * backing node than the header's make a difference, a `json:` name that holds them all.
 *
 * A node may have several parents, so that a graph can unfold into a tree without bound: names are made once for each
 * node, and no longer than QEMU's (asked of QEMU 7.2).
 */
import { Qcow2Driver } from './drivers/qcow2/qcow2.ts';
import type { BlockNode } from './node.ts';

/** QEMU's PATH_MAX; a longer name ends with dots there too. */
const MAX_NAME = 4095;
/** Formats that add nothing to the name of their file. */
const TRANSPARENT: ReadonlySet<string> = new Set(['raw', 'qcow2']);

/** Names of nodes as they are now; to be thrown away after one answer. */
export class ImageNames {
  readonly #exact = new Map<BlockNode, string | null>();
  readonly #json = new Map<BlockNode, string>();

  /** What QEMU calls `filename` and `file`. */
  of(node: BlockNode): string {
    return this.#exactOf(node) ?? cut(`json:${this.#jsonOf(node)}`);
  }

  #exactOf(node: BlockNode): string | null {
    const known = this.#exact.get(node);
    if (known !== undefined) return known;
    const name = this.#findExact(node);
    this.#exact.set(node, name);
    return name;
  }

  #findExact(node: BlockNode): string | null {
    const { driver } = node;
    if (driver.exactName !== undefined) return driver.exactName;
    const file = driver.children().get('file');
    if (!file || !TRANSPARENT.has(driver.driverName)) return null;
    if (Object.keys(driver.strongOptions ?? {}).length > 0 || this.#otherBacking(node) !== null) return null;
    return this.#exactOf(file);
  }

  /** The backing node's JSON (`null` for none) when it is not the one that the header names. */
  #otherBacking(node: BlockNode): string | null {
    const named = node.driver instanceof Qcow2Driver ? node.driver.namedBacking : null;
    const { backing } = node;
    if (!backing) return named === null ? null : 'null';
    return named !== null && named.fullName === this.of(backing) ? null : this.#jsonOf(backing);
  }

  #jsonOf(node: BlockNode): string {
    const known = this.#json.get(node);
    if (known !== undefined) return known;
    const text = cut(this.#makeJson(node));
    this.#json.set(node, text);
    return text;
  }

  #makeJson(node: BlockNode): string {
    const { driver } = node;
    const members = [`"driver": ${JSON.stringify(driver.driverName)}`];
    for (const [key, value] of Object.entries(driver.strongOptions ?? {})) {
      members.push(`${JSON.stringify(key)}: ${JSON.stringify(value)}`);
    }
    const listed: string[] = [];
    for (const [role, child] of driver.children()) {
      if (role.startsWith('children.')) listed.push(this.#jsonOf(child));
      else if (role !== 'backing') members.push(`${JSON.stringify(role)}: ${this.#jsonOf(child)}`);
    }
    if (listed.length > 0) members.push(`"children": [${listed.join(', ')}]`);
    const backing = this.#otherBacking(node);
    if (backing !== null) members.push(`"backing": ${backing}`);
    return `{${members.join(', ')}}`;
  }
}

function cut(name: string): string {
  return name.length <= MAX_NAME ? name : `${name.slice(0, MAX_NAME - 3)}...`;
}
