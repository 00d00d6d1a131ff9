/** Keys of node.yaml that say where something listens: `ADDRESS:PORT`, a map with `address` and `port`, or `false`. */
import { textOf } from './section.ts';
import type { Problems, Section } from './section.ts';

export interface Listen {
  readonly address: string;
  readonly port: number;
}

export const MAX_PORT = 65_535;

export const ADDRESS = {
  pattern: /^(?=.{1,253}$)(?:[A-Za-z0-9][A-Za-z0-9.-]*|[0-9A-Fa-f:.]+(?:%[\w.-]+)?)$/,
  is: 'an address or a name of this host, without a port',
};

const SHORT = { pattern: /^.+:\d{1,5}$/, is: 'ADDRESS:PORT, or false' };

/**
 * Null: `false`. `section`: of a map, whose other keys, and whose end, are the caller's. What is wrong is noted; it reads
 * as `usual` then.
 */
export function readListen(
  top: Section,
  key: string,
  problems: Problems,
  usual: Listen,
): { readonly listen: Listen; readonly section: Section | undefined } | null {
  const tree = top.tree(key);
  if (!tree) return { listen: usual, section: undefined };
  if (tree.kind === 'scalar' && tree.value === false) return null;
  if (tree.kind === 'map') {
    const section = top.section(key);
    const address = section?.text('address', ADDRESS) ?? usual.address;
    const port = section?.integer('port', 0, MAX_PORT) ?? usual.port;
    return { listen: { address, port }, section };
  }
  const match = /^\[?(.+?)\]?:(\d+)$/.exec(textOf(tree, key, problems, SHORT) ?? '');
  if (!match) return { listen: usual, section: undefined };
  const [, address = '', port = ''] = match;
  if (!ADDRESS.pattern.test(address) || Number(port) > MAX_PORT) top.wrong(key, `has to be ${SHORT.is}`);
  return { listen: { address, port: Number(port) }, section: undefined };
}
