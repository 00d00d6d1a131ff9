/** The lab itself: cuts cut, in the direction and between whom they should; and the checker finds a second speaker. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { testFolder } from '../../helpers/bare-process.ts';
import { EdgeCapture, assertOneSpeaker, oneSpeaker } from '../../helpers/edge.ts';
import { skipWithoutLab } from '../../helpers/netns-machine.ts';
import { CLIENT_ADDRESS, Lab } from '../../helpers/netns.ts';
import { Talker } from './lab-talker.ts';

test(
  'cables are cut, one way and both, between two and from all; they lose, are slow, and heal',
  { skip: skipWithoutLab() },
  async (t) => {
    const lab = await Lab.make(t, { hosts: ['a', 'b', 'c'], hasArbiter: true });
    const talkers = new Map<string, Talker>();
    await Promise.all(
      ['a', 'b', 'c', 'arbiter'].map(async (member) => talkers.set(member, await Talker.start(lab, member))),
    );
    /** Of `count` datagrams on `pair`; a marker on `beat`, which is in order, comes after them. */
    const heard = async (from: string, to: string, count = 20, bytes = 100): Promise<number> => {
      const told = talkers.get(to)!.line();
      await talkers.get(from)!.send(lab.address(to, 'pair'), count, bytes, lab.address(to, 'beat'));
      return Number((await told).split(' ')[1]);
    };
    // Neighbours are found before anything is counted.
    const pairs = [
      ['a', 'b'],
      ['b', 'a'],
      ['a', 'c'],
      ['c', 'a'],
      ['b', 'c'],
      ['c', 'b'],
      ['a', 'arbiter'],
      ['arbiter', 'a'],
    ] as const;
    for (const [from, to] of pairs) await heard(from, to, 1);
    assert.equal(await heard('a', 'b'), 20);
    assert.equal(await heard('arbiter', 'a'), 20);

    await lab.cut('a', 'pair');
    assert.equal(await heard('a', 'b'), 0);
    assert.equal(await heard('b', 'a'), 0);
    assert.equal(await heard('c', 'b'), 20);
    await lab.heal('a', 'pair');
    assert.equal(await heard('a', 'b'), 20);

    await lab.cutOneWay('a', 'pair', 'out');
    assert.deepEqual([await heard('a', 'b'), await heard('b', 'a')], [0, 20]);
    await lab.heal();
    await lab.cutOneWay('a', 'pair', 'in');
    assert.deepEqual([await heard('a', 'b'), await heard('b', 'a')], [20, 0]);
    await lab.heal();

    await lab.cutBetween('a', 'b', 'pair');
    assert.deepEqual([await heard('a', 'b'), await heard('b', 'a'), await heard('a', 'c')], [0, 0, 20]);
    await lab.heal();
    assert.equal(await heard('a', 'b'), 20);

    await lab.lose('a', 'pair', 50);
    const some = await heard('a', 'b', 400);
    assert.ok(some > 100 && some < 300, `${some} of 400`);
    await lab.heal();

    await lab.slow('a', 'pair', 100);
    const few = await heard('a', 'b', 200, 1000);
    assert.ok(few < 100, `${few} of 200 at once`);
    await lab.slow('a', 'pair', 0);
    assert.equal(await heard('a', 'c'), 20);
  },
);

test('a user-space cable delays frames and puts them out of order', { skip: skipWithoutLab() }, async (t) => {
  const lab = await Lab.make(t, { hosts: ['a', 'b'], wires: [['a', 'pair']] });
  const [a, b] = await Promise.all([Talker.start(lab, 'a'), Talker.start(lab, 'b')]);
  const send = async (): Promise<string> => {
    const told = b.line();
    await a.send(lab.address('b', 'pair'), 50, 100);
    return told;
  };
  assert.match(await send(), /^heard 50 /);
  await lab.wire('a', 'pair', { delayMs: 5, jitterMs: 30 });
  assert.equal(await send(), 'heard 50 out of order');
});

const MAC = '52:54:00:12:34:56';

test(
  'the edge tells who spoke for a guest, and a second speaker is found',
  { skip: skipWithoutLab() },
  async (t) => {
    const lab = await Lab.make(t, { hosts: ['a', 'b'] });
    const folder = await testFolder(t);
    for (const host of ['a', 'b']) {
      // A copy of a guest on each.
      await lab.run(host, 'ip', ...'link add guest type veth peer name tap'.split(' '));
      await lab.run(host, 'ip', ...`link set guest address ${MAC} up`.split(' '));
      await lab.run(host, 'ip', ...'link set tap master br0 up'.split(' '));
      await lab.run(host, 'ip', ...'addr add 10.0.2.15/24 dev guest'.split(' '));
    }
    const [a, b, client] = await Promise.all([
      Talker.start(lab, 'a'),
      Talker.start(lab, 'b'),
      Talker.start(lab, 'client'),
    ]);
    const speak = async (talker: Talker): Promise<void> => {
      const told = client.line();
      await talker.send(CLIENT_ADDRESS, 3, 100);
      assert.equal(await told, 'heard 3 in order');
    };
    const capture = async (name: string, talk: () => Promise<void>) => {
      const edge = await EdgeCapture.start(lab, path.join(folder, name));
      await talk();
      return edge.stop();
    };

    const good = await capture('good.pcapng', async () => {
      await speak(a);
      // What is cut off has not been heard.
      await lab.cut('a', 'lan');
      await a.send(CLIENT_ADDRESS, 3, 100);
      await speak(b);
      await a.send(CLIENT_ADDRESS, 3, 100);
      await lab.heal();
      await speak(b);
    });
    const verdict = oneSpeaker(good, MAC);
    assert.deepEqual(
      verdict.turns.map(({ host }) => host),
      ['a', 'b'],
    );
    assert.ok(verdict.turns.every(({ frames }) => frames >= 3));
    assertOneSpeaker(verdict);

    const bad = await capture('bad.pcapng', async () => {
      await speak(a);
      await speak(b);
      await speak(a);
    });
    assert.match(
      oneSpeaker(bad, MAC).violations.join(),
      /^a spoke at [\d:.]+, \d+ ms after b: .*it had been replaced$/,
    );
    assert.deepEqual(oneSpeaker(bad, MAC, ['a', 'b', 'a']).violations, []);
    assert.throws(() => assertOneSpeaker(oneSpeaker(bad, MAC, ['a', 'b'])), /not its turn/);
  },
);

test('what a killed test left behind is removed by the next', { skip: skipWithoutLab() }, async (t) => {
  const gone = 'colo-lab-4194304-1-a';
  execFileSync('ip', ['netns', 'add', gone]);
  const lab = await Lab.make(t, { hosts: ['a'] });
  const names = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' });
  assert.ok(!names.includes(gone));
  assert.ok(names.includes(lab.namespace('a')));
  await lab.remove();
  assert.ok(!execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' }).includes(lab.namespace('a')));
});
