// A program that is driven by QMP: one command, one event, and an error for everything else.
// node qmp-serve.js SOCKET
import { CommandNotFoundError, QmpClient, QmpServer } from 'colo-ft/qmp';

const path = process.argv[2];
if (path === undefined) throw new Error('usage: node qmp-serve.js SOCKET');

let rounds = 0;
const server = new QmpServer({
  version: { qemu: { major: 7, minor: 2, micro: 0 }, package: 'example' },
  execute: (command, args) => {
    if (command !== 'turn') throw new CommandNotFoundError(`The command ${command} has not been found`);
    rounds += typeof args['times'] === 'number' ? args['times'] : 1;
    server.emit('TURNED', { rounds });
    return { rounds };
  },
});
await server.listen({ path });

const client = await QmpClient.connect({ path });
const turned = client.waitFor('TURNED');
console.log('reply', await client.execute('turn', { times: 3 }));
console.log('event', (await turned).data);
try {
  await client.execute('fly');
} catch (error) {
  console.log(String(error));
}
client.close();
await server.close();
