/** Options of the `replication` driver: mode, top-id, file. Texts: docs/qemu-behaviour.md 5.1. */
import { ParameterError } from '../../../base/errors.ts';
import type { EmitEvent } from '../../jobs/job.ts';
import type { OptionReader, OptionTree, OptionValue } from '../../options.ts';
import type { OpenContext } from '../../registry.ts';
import { ReplicationDriver } from './driver.ts';

export async function openReplication(
  options: OptionReader,
  context: OpenContext,
): Promise<ReplicationDriver> {
  const mode = options.string('mode');
  const topId = options.string('top-id');
  const value = options.node('file');
  options.boolean('read-only');
  options.finish('replication');
  if (value === undefined) throw new ParameterError('A block device must be specified for "file"');
  if (mode === undefined) throw new ParameterError('Missing the option mode');
  if (mode !== 'primary' && mode !== 'secondary') {
    throw new ParameterError("The option mode's value should be primary or secondary");
  }
  if (mode === 'primary') {
    if (topId !== undefined) throw new ParameterError('The primary side does not support option top-id');
    const file = await context.openChild('file', value);
    return new ReplicationDriver({
      nodeName: context.nodeName,
      mode,
      file,
      emit: (event, data) => context.emit(event, data),
    });
  }
  if (topId === undefined) throw new ParameterError('Missing the option top-id');
  const emit: EmitEvent = (event, data) => context.emit(event, data);
  const file = await context.openChild('file', value, overlayDefaults(value));
  return new ReplicationDriver({
    nodeName: context.nodeName,
    mode,
    file,
    topId,
    findTop: context.findLater(topId),
    emit,
  });
}

/**
 * The hidden disk is a backing image that is written to, so it has to be opened for that. And what both overlays copy
 * need not outlive a power failure of the host, which ends them: no write waits for the disk because of it.
 */
function overlayDefaults(value: OptionValue): OptionTree | undefined {
  if (typeof value !== 'object') return undefined;
  const backing = value['backing'];
  const noBarrier = ({ driver }: OptionTree): OptionTree =>
    driver === 'qcow2' ? { 'copy-barrier': 'off' } : {};
  return {
    ...noBarrier(value),
    ...(typeof backing === 'object' ? { backing: { 'read-only': 'off', ...noBarrier(backing) } } : {}),
  };
}
