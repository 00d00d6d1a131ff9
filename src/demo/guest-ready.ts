/** Waits until the guest has booted and serves, and shows how far it is. */
import type { QmpClient } from '../qmp/client.ts';
import { ColoError } from '../base/errors.ts';
import { LineConnection } from './line-connection.ts';
import type { Teller } from './report.ts';

/** A boot reads about so much from the disk: boot loader, kernel, initramfs, then the services. For the bar only. */
const BOOT_READ_BYTES = 16 * 1024 * 1024;

/** Throws ColoError when the guest does not serve its session port within `timeoutMs`. */
export async function waitForGuest(
  qmp: QmpClient,
  sessionPort: number,
  timeoutMs: number,
  tell: Teller,
  signal?: AbortSignal,
): Promise<void> {
  const bar = tell.progress('boot');
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    try {
      const connection = await LineConnection.open('127.0.0.1', sessionPort, 2000);
      try {
        await connection.request('hello', 2000);
        break;
      } finally {
        connection.close();
      }
    } catch (cause) {
      if (performance.now() > deadline) {
        throw new ColoError(`The guest does not serve within ${timeoutMs / 1000} s`, { cause });
      }
    }
    const stats = (await qmp.execute('query-blockstats')) as { stats: { rd_bytes: number } }[];
    bar.update(Math.min(0.95, (stats[0]?.stats.rd_bytes ?? 0) / BOOT_READ_BYTES));
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  bar.done();
}
