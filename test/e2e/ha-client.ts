/**
 * The client that must not notice (src/demo/workload.ts), as a process in a network namespace. Argument: the guest's
 * address. Standard input: `reply` (says `replied MS` when an existing connection has answered a request that was sent
 * after it), `stop` (says `report JSON` and ends). Says `trouble TEXT` at once.
 */
import { createInterface } from 'node:readline';
import { LineConnection } from '../../src/demo/line-connection.ts';
import { Workload } from '../../src/demo/workload.ts';

const [, , host = ''] = process.argv;
const [LEDGER_PORT, SESSION_PORT] = [7000, 7001];

/** The guest is there when its service answers. */
for (;;) {
  try {
    const connection = await LineConnection.open(host, SESSION_PORT, 3000);
    await connection.request('hello', 3000);
    connection.close();
    break;
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
const workload = new Workload({
  host,
  sessionPort: SESSION_PORT,
  ledgerPort: LEDGER_PORT,
  intervalMs: 20,
  patienceMs: 120_000,
  onTrouble: (what) => console.log(`trouble ${what}`),
});
workload.start();
console.log('started');

async function obey(line: string): Promise<void> {
  if (line === 'reply') {
    const asked = performance.now();
    console.log(`replied ${Math.round((await workload.firstReplyAfter(asked)) - asked)}`);
  }
  if (line === 'stop') {
    console.log(`report ${JSON.stringify(await workload.stop())}`);
    process.exit();
  }
}
createInterface({ input: process.stdin })
  .on('line', (line) => void obey(line))
  .on('close', () => process.exit());
