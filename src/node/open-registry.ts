/** The registry that belongs to the arbiter of a configuration: in the same directory, or in the same etcd. */
import { loggerFor } from '../base/logger.ts';
import { etcdOptions } from '../ha/arbiter/open-arbiter.ts';
import { EtcdRegistry, FileRegistry, type Registry } from '../ha/registry/index.ts';
import type { ArbiterConfig } from '../ha/spec/node-config.ts';

const log = loggerFor('registry');

/** Asks nobody yet. Throws ParameterError for files that cannot be had. */
export async function openRegistry(config: ArbiterConfig): Promise<Registry> {
  const onTrouble = (message: string): void => log.warn(message);
  if (config.kind === 'file') return new FileRegistry(config.directory, { onTrouble });
  return new EtcdRegistry({ ...(await etcdOptions(config)), onTrouble });
}
