/** Takes the lock `argv[2]` and says when it is in and when it is out, in the file `argv[3]`. Begins when it is told to. */
import { appendFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { withLock } from '../../src/guest/lock.ts';

const [, , lock = '', file = ''] = process.argv;
process.once('message', () => {
  void withLock(lock, async () => {
    appendFileSync(file, 'in\n');
    await sleep(20);
    appendFileSync(file, 'out\n');
  }).finally(() => process.disconnect());
});
process.send?.('ready');
