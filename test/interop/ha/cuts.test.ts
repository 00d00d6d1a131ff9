/**
 * Three hosts on two networks, in namespaces: which cable is cut and who is dead is told apart, from one side and from the
 * other, and what is healed is heard again.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { withDeadline } from '../../../src/base/async.ts';
import { skipWithoutLab } from '../../helpers/netns-machine.ts';
import { Lab } from '../../helpers/netns.ts';
import type { Question, Setup } from './beat-daemon.ts';
import { STEP_MS, ToldLog } from './told.ts';

const DAEMON = fileURLToPath(new URL('beat-daemon.ts', import.meta.url));
const HOSTS = ['a', 'b', 'c'] as const;
const [BEAT_PORT, API_PORT] = [7701, 7700];

class Host {
  readonly name: string;
  readonly log = new ToldLog();
  readonly child: ChildProcess;
  readonly #lab: Lab;

  constructor(lab: Lab, name: string) {
    this.#lab = lab;
    this.name = name;
    const setup: Setup = {
      host: name,
      address: lab.address(name, 'beat'),
      port: BEAT_PORT,
      api: { address: lab.address(name, 'pair'), port: API_PORT },
      peers: HOSTS.filter((other) => other !== name).map((other) => ({
        host: other,
        address: lab.address(other, 'beat'),
        port: BEAT_PORT,
      })),
    };
    this.child = lab.spawn(name, process.execPath, ['--import', 'tsx', DAEMON, JSON.stringify(setup)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    createInterface({ input: this.child.stdout! }).on('line', (line) =>
      this.log.add(JSON.parse(line) as { event: string }),
    );
  }

  /** What it makes of a peer whose checkpoint channel is as given. */
  async judge(
    peer: string,
    checkpoint: Question['checkpoint'] = 'silent',
    silentMs = 10_000,
  ): Promise<unknown> {
    const api = { address: this.#lab.address(peer, 'pair'), port: API_PORT };
    const question: Question = { peer, api, checkpoint, silentMs };
    this.child.stdin!.write(`${JSON.stringify(question)}\n`);
    return (await this.log.next('diagnosis'))['kind'];
  }
}

test('cut cables, frozen and dead hosts are told apart', { skip: skipWithoutLab() }, async (t) => {
  const lab = await Lab.make(t, { hosts: HOSTS });
  const [a, b, c] = HOSTS.map((name) => new Host(lab, name)) as [Host, Host, Host];
  const all = async (event: string, ...pairs: (readonly [Host, Host])[]): Promise<void> => {
    await Promise.all(pairs.map(([host, peer]) => host.log.next(event, peer.name)));
  };
  // One after the other: what came before is gone with it.
  for (const host of [a, b, c]) await host.log.next('listening');
  await withDeadline(
    (async () => {
      for (const [host, peer] of [
        [a, b],
        [a, c],
        [b, a],
        [b, c],
        [c, a],
        [c, b],
      ] as const)
        while ((await host.judge(peer.name, 'none')) !== 'well')
          await new Promise((done) => setTimeout(done, 50));
    })(),
    STEP_MS,
    'everybody hears everybody',
  );

  // The pair's network: the heartbeat's is another.
  await lab.cut('b', 'pair');
  assert.equal(await a.judge('b'), 'link-cut');
  assert.equal(await b.judge('a'), 'link-cut');
  await lab.heal();

  // The heartbeat's network: the copy answers.
  await lab.cut('b', 'beat');
  await all('silent', [a, b], [b, a]);
  assert.equal(await a.judge('b', 'ok'), 'well');
  await lab.heal();
  await all('back', [a, b], [b, a]);

  // One way only is no way.
  await lab.cutOneWay('b', 'beat', 'out');
  await all('silent', [a, b], [b, a]);
  await lab.heal();
  await all('back', [a, b], [b, a]);

  // All cables of b: b knows that it is its own, the others that nobody hears it.
  await Promise.all([lab.cut('b', 'pair'), lab.cut('b', 'beat')]);
  await all('silent', [a, b], [c, b], [b, a], [b, c]);
  assert.equal(await b.judge('a'), 'i-am-cut-off');
  await untilIs(a, 'b', 'host-dead');
  await lab.heal();
  await all('back', [a, b], [c, b], [b, a], [b, c]);

  // Everything between a and b, and c hears both.
  await Promise.all([lab.cutBetween('a', 'b', 'pair'), lab.cutBetween('a', 'b', 'beat')]);
  await all('silent', [a, b], [b, a]);
  assert.equal(await a.judge('b'), 'network-cut');
  assert.equal(await b.judge('a'), 'network-cut');
  await lab.heal();
  await all('back', [a, b], [b, a]);

  // Every process of b stands still.
  b.child.kill('SIGSTOP');
  await all('silent', [a, b], [c, b]);
  assert.equal(await a.judge('b'), 'host-frozen');
  b.log.forget();
  b.child.kill('SIGCONT');
  await all('back', [a, b], [c, b]);
  await b.log.next('stood-still');
  assert.equal(b.log.has('silent'), false, 'who stood still blames nobody');

  // The daemon and its VM are killed: the kernel says so. Then the power is gone too.
  const gone = once(b.child, 'exit');
  b.child.kill('SIGKILL');
  await all('closed', [a, b], [c, b]);
  await gone;
  assert.equal(await a.judge('b', 'closed'), 'host-dead');
  assert.equal(await a.judge('b', 'silent'), 'process-frozen');
  await Promise.all([lab.cut('b', 'pair'), lab.cut('b', 'beat')]);
  assert.equal(await a.judge('b', 'silent'), 'host-dead');
});

/** What others say of a host comes with their beats. */
async function untilIs(host: Host, peer: string, kind: string): Promise<void> {
  const look = async (): Promise<void> => {
    while ((await host.judge(peer)) !== kind) await new Promise((done) => setTimeout(done, 50));
  };
  await withDeadline(look(), STEP_MS, `${host.name} says ${kind} of ${peer}`);
}
