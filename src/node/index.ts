/**
 * The daemon of one host. `daemon.ts` composes it; `controller.ts` looks after one VM, with `side-driver.ts` (who may go on
 * alone), `protection.ts` with `protecting.ts` and `next-secondary.ts`, and `standby.ts` with `joining.ts` (a new pair, from
 * its two ends), `peer-watch.ts` (when the other copy counts as lost), `own-beats.ts` (what other hosts hear of this one's),
 * `vm-link.ts` (its process), `wishes.ts` (may it be started), `take-over.ts` (going on alone), `giving-way.ts` (a
 * switch-over in order), `steps.ts` (QEMU's procedure); `node-service.ts` answers people and other hosts.
 */
import { ServiceManager } from '../api/service-manager.ts';
import { loggerFor } from '../base/logger.ts';
import type { NodeConfig } from '../ha/spec/node-config.ts';
import { Daemon } from './daemon.ts';

export { Daemon, SOFTWARE } from './daemon.ts';

/** Until `signal`. `onReady` hears the API's address. Throws ParameterError, BusyError. */
export async function runNode(
  config: NodeConfig,
  signal: AbortSignal,
  onReady: (address: string) => void,
): Promise<void> {
  const daemon = await Daemon.start(config);
  loggerFor('node').info({ host: config.name, api: daemon.apiAddress }, 'the daemon is ready');
  const manager = new ServiceManager();
  manager.ready(`host ${config.name}, API at ${daemon.apiAddress}`);
  onReady(daemon.apiAddress);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
  manager.stopping();
  await daemon.close();
}
