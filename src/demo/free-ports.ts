/** Finds ports that nobody listens on right now. Another program may still take one in between; then a start fails. */
import net from 'node:net';
import { once } from 'node:events';

/** `count` different free TCP ports, each free on all of `hosts`. */
export async function freePorts(count: number, hosts: readonly string[]): Promise<number[]> {
  const servers: net.Server[] = [];
  const ports: number[] = [];
  try {
    while (ports.length < count) {
      const port = await listen(servers, 0, hosts[0]!);
      try {
        for (const host of hosts.slice(1)) await listen(servers, port, host);
        ports.push(port);
      } catch {
        // Taken on another address: the next one then.
      }
    }
  } finally {
    for (const server of servers) server.close();
  }
  return ports;
}

async function listen(servers: net.Server[], port: number, host: string): Promise<number> {
  const server = net.createServer();
  servers.push(server);
  server.listen(port, host);
  await once(server, 'listening');
  return (server.address() as net.AddressInfo).port;
}
