/** The other end of a FileProcess that starts slowly, as on a busy machine, and then answers at once. */
import { setTimeout as pause } from 'node:timers/promises';

await pause(6_000);
process.on('message', (request) => process.send?.({ answered: request }));
process.on('disconnect', () => process.exit(0));
process.send?.('listening');
