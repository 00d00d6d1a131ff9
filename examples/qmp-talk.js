// Asks a running machine how it is, stops it and lets it go on; works with QEMU and with `colo vm`:
//   colo vm -machine none -qmp unix:vm.qmp,server=on,wait=off
// node qmp-talk.js SOCKET
import { QmpClient, QmpCommandError } from 'colo-ft/qmp';

const path = process.argv[2];
if (path === undefined) throw new Error('usage: node qmp-talk.js SOCKET');

const client = await QmpClient.connect({ path }, { timeoutMs: 5000 });
const { major, minor } = client.greeting.QMP.version.qemu;
console.log(`QMP of version ${major}.${minor}`);

client.onEvent(({ event }) => console.log(`event ${event}`));
console.log(await client.execute('query-status'));
// Whoever waits for an event begins before the command that causes it.
const stopped = client.waitFor('STOP');
await client.execute('stop');
await stopped;
await client.execute('cont');

try {
  await client.execute('block_resize', { 'node-name': 'nowhere', size: 512 });
} catch (error) {
  if (!(error instanceof QmpCommandError)) throw error;
  console.log(`${error.class}: ${error.desc}`);
}

const gone = client.waitFor('SHUTDOWN');
await client.execute('quit');
await gone;
client.close();
