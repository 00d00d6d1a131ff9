/** Waits until the guest has booted and serves, and shows how far it is. */
import type { QmpClient } from '../qmp/client.ts';
import { ColoError } from '../base/errors.ts';
import { LineConnection } from './line-connection.ts';
import type { Teller } from './report.ts';

/** For the bar only: a boot reads about so much from the disk, and takes about so long on a quiet machine. */
const BOOT_READ_BYTES = 19 * 1024 * 1024;
const BOOT_USUAL_MS = 15_000;

/** Throws ColoError when the guest does not serve its session port within `timeoutMs`. */
export async function waitForGuest(
  qmp: QmpClient,
  sessionPort: number,
  timeoutMs: number,
  tell: Teller,
  signal?: AbortSignal,
  host = '127.0.0.1',
): Promise<void> {
  const bar = tell.progress('boot');
  const began = performance.now();
  const deadline = began + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    try {
      const connection = await LineConnection.open(host, sessionPort, 2000);
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
    const read = Math.min(1, (stats[0]?.stats.rd_bytes ?? 0) / BOOT_READ_BYTES);
    const waited = Math.min(1, (performance.now() - began) / BOOT_USUAL_MS);
    bar.update(0.3 * read + 0.65 * waited);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  bar.done();
}
