/** What bench/compare.ts subtracts: a device that compares nothing, `primary_in` straight to `outdev`. */
import net from 'node:net';

const [folder = '.'] = process.argv.slice(2);
const sides = new Map<string, net.Socket>();
for (const name of ['p', 's', 'o']) {
  net
    .createServer((socket) => {
      socket.on('error', () => undefined);
      sides.set(name, socket);
      if (name === 's') socket.resume();
      const [primary, out] = [sides.get('p'), sides.get('o')];
      if (!primary || !out || name === 's') return;
      primary.on('data', (chunk) => out.write(chunk));
      for (const end of [primary, out]) {
        end.on('close', () => {
          sides.clear();
        });
      }
    })
    .listen(`${folder}/${name}`);
}
