/** The client that must not notice: what it counts, and that every acknowledged line is read back. */
import assert from 'node:assert/strict';
import net from 'node:net';
import { once } from 'node:events';
import { test } from 'node:test';
import { Workload } from '../../../src/demo/workload.ts';

/** The guest's two line services. `forget`: a line that is lost after it was acknowledged. */
async function guest(
  t: { after(done: () => unknown): void },
  forget?: number,
): Promise<[number, number, string[]]> {
  const ledger: string[] = [];
  const asked: string[] = [];
  let ticks = 0;
  const answer = (line: string): string => {
    asked.push(line);
    if (line === 'tick') return `session s ${++ticks}`;
    const [verb, ...rest] = line.split(' ');
    if (verb === 'append') return `ok ${ledger.push(rest.join(' '))}`;
    const number = Number(rest[0]);
    return number === forget ? 'err no such line' : `line ${ledger[number - 1] ?? ''}`;
  };
  const ports: number[] = [];
  for (let at = 0; at < 2; at++) {
    const server = net.createServer((socket) => {
      let text = '';
      socket.on('error', () => undefined);
      socket.setEncoding('latin1').on('data', (chunk: string) => {
        text += chunk;
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) socket.write(`${answer(line)}\n`);
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    ports.push((server.address() as net.AddressInfo).port);
  }
  return [ports[0]!, ports[1]!, asked];
}

for (const forget of [undefined, 2, 60]) {
  test(`a ledger of which line ${forget ?? 'none'} is lost`, async (t) => {
    const [sessionPort, ledgerPort, asked] = await guest(t, forget);
    const troubles: string[] = [];
    const workload = new Workload({
      ...{ host: '127.0.0.1', sessionPort, ledgerPort, intervalMs: 0, patienceMs: 30_000, maxUnreadLines: 5 },
      onTrouble: (what) => troubles.push(what),
    });
    workload.start();
    while (asked.filter((line) => line.startsWith('append')).length < 60) {
      await workload.firstReplyAfter(performance.now());
      assert.ok(workload.acknowledged.size <= 5);
    }
    const { requests, connectionsLost, longestWaitMs } = workload.takeNumbers();
    assert.ok(requests > 60 && longestWaitMs > 0);
    assert.equal(connectionsLost, 0);
    const report = await workload.stop();
    assert.ok(report.ledgerLines >= 60);
    assert.equal(report.ledgerLinesLost, forget === undefined ? 0 : 1);
    assert.equal(troubles.length, report.ledgerLinesLost);
    // Each was read back once.
    const read = asked.filter((line) => line.startsWith('read'));
    assert.equal(new Set(read).size, report.ledgerLines);
    assert.equal(read.length, report.ledgerLines);
  });
}
