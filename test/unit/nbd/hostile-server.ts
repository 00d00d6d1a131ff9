/**
 * A server in a process of its own, for the test that measures what hostile clients cost it. Prints its port, then a
 * line of memory counts for each line of standard input; ends with it. The source is slow to answer where it is told
 * to, and has extents as small as they come.
 */
import { createInterface } from 'node:readline';
import { createTlsCredentials } from '../../../src/base/tls/objects.ts';
import type { NbdExportSource, NbdExtent } from '../../../src/nbd/export.ts';
import { NbdServer } from '../../../src/nbd/index.ts';

const GIB = 2 ** 30;

/** Holds nothing: reads are zeros, writes are forgotten. */
const source: NbdExportSource = {
  lengthBytes: 4 * GIB,
  readOnly: false,
  read: (_offset, target) => {
    target.fill(0x5a);
    return Promise.resolve();
  },
  // The upper half of the disk is stuck: its writes never end, and their payloads stay.
  write: (offset) => (offset < 2 * GIB ? Promise.resolve() : new Promise(() => undefined)),
  flush: () => Promise.resolve(),
  writeZeroes: () => Promise.resolve(),
  discard: () => Promise.resolve(),
  blockStatus: (offset, length) => {
    const extents: NbdExtent[] = [];
    const end = Math.min(offset + length, offset + 4096 * 262_144);
    for (let at = offset; at < end; at += 4096) {
      const data = (at / 4096) % 2 === 0;
      extents.push({ offset: at, length: 4096, data, zero: !data });
    }
    return Promise.resolve(extents);
  },
};

const [dir] = process.argv.slice(2);
const tls = dir === undefined ? null : createTlsCredentials('tls-creds-psk', { dir, endpoint: 'server' });
const server = new NbdServer({ tls });
server.addExport({ name: '', source, writable: true });
const address = await server.listen({ host: '127.0.0.1', port: 0 });
process.stdout.write(`${'port' in address ? address.port : 0}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'collect') globalThis.gc?.();
  const { rss, external, arrayBuffers, heapUsed } = process.memoryUsage();
  process.stdout.write(
    `${JSON.stringify({ rss, external, arrayBuffers, heapUsed, clients: server.clientCount })}\n`,
  );
}
process.exit();
