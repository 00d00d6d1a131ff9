/**
 * Can a fresh TCP connection to an address be made? The kernel over there answers, even where every process is stopped:
 * `yes` says that the host and the network live, `refused` that they do and nobody listens, `timeout` that nothing came
 * back.
 */
import net from 'node:net';
import { codeOf } from '../../chardev/system-errors.ts';

export type Probe = 'yes' | 'refused' | 'timeout';

/** Never rejects. `timeout` also for what the own kernel says of the way there (no route, network down). */
export function probe(address: string, port: number, deadlineMs: number): Promise<Probe> {
  return new Promise((resolve) => {
    const socket = net.connect({ host: address, port });
    const timer = setTimeout(() => done('timeout'), deadlineMs);
    const done = (result: Probe): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(result);
    };
    socket.once('connect', () => done('yes'));
    socket.on('error', (error) => done(isRefusal(error) ? 'refused' : 'timeout'));
  });
}

export function isRefusal(error: unknown): boolean {
  return ['ECONNREFUSED', 'ECONNRESET'].includes(codeOf(error));
}
