/** Options of the `quorum` driver. Texts: docs/qemu-behaviour.md 5.6 and QEMU 7.2, asked over QMP. */
import { ParameterError } from '../../../base/errors.ts';
import type { BlockNode } from '../../node.ts';
import type { OptionReader, OptionValue } from '../../options.ts';
import type { OpenContext } from '../../registry.ts';
import { MAX_CHILDREN, QuorumDriver } from './driver.ts';

export async function openQuorum(options: OptionReader, context: OpenContext): Promise<QuorumDriver> {
  const values = childValues(options);
  const voteThreshold = options.integer('vote-threshold') ?? 0;
  const readPattern = options.string('read-pattern') ?? 'quorum';
  const blkverify = options.boolean('blkverify') ?? false;
  const rewriteCorrupted = options.boolean('rewrite-corrupted') ?? false;
  options.boolean('read-only');
  options.finish('quorum');
  if (readPattern !== 'quorum' && readPattern !== 'fifo') {
    throw new ParameterError('Please set read-pattern as fifo or quorum');
  }
  // Said before anything is opened; the constructor checks all of it.
  if (values.length < 1) throw new ParameterError('Number of provided children must be 1 or more');
  if (voteThreshold < 1) throw new ParameterError("Parameter 'vote-threshold' expects a value >= 1");
  const children: BlockNode[] = [];
  for (const [index, value] of values.entries())
    children.push(await context.openChild(`children.${index}`, value));
  return new QuorumDriver({
    nodeName: context.nodeName,
    children,
    voteThreshold,
    readPattern,
    blkverify,
    rewriteCorrupted,
    emit: (event, data) => context.emit(event, data),
    deviceName: () => {
      const users = context.find(context.nodeName)?.users ?? [];
      // A device on a node has no name (graph.ts, addDevice).
      for (const user of users) if (/^drive:\S+$/.test(user)) return user.slice('drive:'.length);
      return null;
    },
  });
}

/** children.0, children.1… without a gap. */
function childValues(options: OptionReader): OptionValue[] {
  const tree = options.node('children');
  if (tree === undefined) return [];
  if (typeof tree === 'string') throw new ParameterError('Option children is not a valid array');
  const keys = Object.keys(tree);
  if (keys.length > MAX_CHILDREN) throw new ParameterError(`More than ${MAX_CHILDREN} children`);
  return keys.map((_, index) => {
    const value = tree[String(index)];
    if (value === undefined) throw new ParameterError('Option children is not a valid array');
    return value;
  });
}
