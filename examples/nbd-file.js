// Serves a file over NBD and reads it back with a client, as `qemu-nbd` and `nbdcopy` would.
// node nbd-file.js FILE
import { NbdClient, NbdServer, openFile } from 'colo-ft/nbd';

const path = process.argv[2];
if (path === undefined) throw new Error('usage: node nbd-file.js FILE');

const file = await openFile(path, { readOnly: true });
const server = new NbdServer({ maxConnections: 4 });
server.addExport({ name: 'disk', source: file, writable: false });
// Port 0 takes any free one.
const address = await server.listen({ host: '127.0.0.1', port: 0 });
console.log(server.address, server.exportNames);

const client = await NbdClient.connect(address, { exportName: 'disk' });
const bytes = new Uint8Array(Math.min(client.lengthBytes, 64));
await client.read(0, bytes);
console.log(`${client.lengthBytes} bytes, read-only: ${client.readOnly}`);
console.log(`begins with ${JSON.stringify(Buffer.from(bytes).toString('latin1'))}`);
for (const { offset, length, data } of await client.blockStatus(0, client.lengthBytes)) {
  console.log(`${offset} + ${length}: ${data ? 'data' : 'hole'}`);
}

await client.close();
await server.close();
await file.close();
