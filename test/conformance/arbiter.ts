/**
 * What every arbiter must do (src/ha/arbiter/arbiter.ts), whatever it is made of. `open` gives another client of the same
 * arbiter each time, as the two sides of a pair are.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ParameterError } from '../../src/base/errors.ts';
import { ArbiterUnreachableError, type Arbiter, type Proposal } from '../../src/ha/arbiter/arbiter.ts';

export interface ArbiterUnderTest {
  open(): Arbiter;
  remove(): Promise<void>;
}

export const next = (nonce: string, holder: string | null = 'a', members = ['a', 'b']): Proposal => ({
  nonce,
  holder,
  members,
  data: { note: 'ä' },
});

let names = 0;
export const newName = (): string => `vm ${process.pid}/${++names} é.%`;

export function arbiterSuite(
  title: string,
  make: () => Promise<ArbiterUnderTest>,
  skip: string | false = false,
): void {
  describe(`arbiter contract: ${title}`, { skip }, () => {
    let made: ArbiterUnderTest;
    let one: Arbiter;
    let other: Arbiter;
    before(async () => {
      made = await make();
      one = made.open();
      other = made.open();
    });
    after(async () => {
      await one.close();
      await other.close();
      await made.remove();
    });

    test('both sides see the same arbiter', async () => {
      assert.equal(await one.identity(), await other.identity());
    });

    test('a record is made once, replaced, and read by the other', async () => {
      const vm = newName();
      assert.equal(await one.read(vm), null);
      const made1 = await one.create(vm, next('n1'));
      assert.deepEqual(made1, {
        outcome: 'won',
        record: { version: 1, vm, epoch: 1, ...next('n1') },
      });
      const again = await other.create(vm, next('n2'));
      assert.equal(again.outcome === 'lost' && again.current?.nonce, 'n1');
      const swapped = await other.swap(vm, { epoch: 1, nonce: 'n1' }, next('n3', null));
      assert.equal(swapped.outcome, 'won');
      assert.deepEqual(await one.read(vm), { version: 1, vm, epoch: 2, ...next('n3', null) });
    });

    test('a swap that is tried again is the same swap, until the record has moved on', async () => {
      const vm = newName();
      await one.create(vm, next('n1'));
      assert.equal((await one.create(vm, next('n1'))).outcome, 'won');
      const from = { epoch: 1, nonce: 'n1' };
      assert.equal((await one.swap(vm, from, next('n2'))).outcome, 'won');
      assert.equal((await one.swap(vm, from, next('n2'))).outcome, 'won');
      assert.equal((await other.swap(vm, from, next('n3'))).outcome, 'lost');
      assert.equal((await other.swap(vm, { epoch: 2, nonce: 'n2' }, next('n4', 'b'))).outcome, 'won');
      const late = await one.swap(vm, from, next('n2'));
      assert.equal(late.outcome === 'lost' && late.current?.nonce, 'n4');
    });

    test('the epoch alone does not tell a record: another nonce loses', async () => {
      const vm = newName();
      await one.create(vm, next('n1'));
      const result = await other.swap(vm, { epoch: 1, nonce: 'other' }, next('n2'));
      assert.equal(result.outcome === 'lost' && result.current?.nonce, 'n1');
      assert.equal((await other.swap(vm, { epoch: 7, nonce: 'n1' }, next('n3'))).outcome, 'lost');
      const none = await other.swap(newName(), { epoch: 1, nonce: 'n1' }, next('n4'));
      assert.deepEqual(none, { outcome: 'lost', current: null });
    });

    test('of many that swap at once, one wins, and all others are told who', async () => {
      const vm = newName();
      await one.create(vm, next('n'));
      let from = { epoch: 1, nonce: 'n' };
      for (let round = 0; round < 4; round++) {
        const results = await Promise.all(
          Array.from({ length: 6 }, (_, at) =>
            (at % 2 ? one : other).swap(vm, from, next(`${round}-${at}`, at % 2 ? 'a' : 'b')),
          ),
        );
        const won = results.filter(({ outcome }) => outcome === 'won');
        assert.equal(won.length, 1);
        const { record } = won[0] as Extract<(typeof won)[0], { outcome: 'won' }>;
        for (const result of results) {
          if (result.outcome === 'lost') assert.equal(result.current?.nonce, record.nonce);
        }
        from = record;
      }
      assert.equal((await one.read(vm))?.epoch, 5);
    });

    test('many epochs later the record is the last, and nobody who slept wins', async () => {
      const vm = newName();
      await one.create(vm, next('0'));
      for (let epoch = 1; epoch < 20; epoch++) {
        const from = { epoch, nonce: String(epoch - 1) };
        assert.equal((await one.swap(vm, from, next(String(epoch)))).outcome, 'won');
      }
      for (let epoch = 1; epoch < 20; epoch++) {
        const from = { epoch, nonce: String(epoch - 1) };
        assert.equal((await other.swap(vm, from, next(`late ${epoch}`))).outcome, 'lost');
      }
      assert.equal((await other.create(vm, next('late'))).outcome, 'lost');
      assert.equal((await other.read(vm))?.epoch, 20);
    });

    test('a watcher is told sooner or later', async () => {
      const vm = newName();
      await one.create(vm, next('n1'));
      let end = (): void => undefined;
      const told = new Promise<void>((resolve) => {
        end = other.watch(vm, (record) => {
          if (record?.nonce === 'n2') resolve();
        });
      });
      await one.swap(vm, { epoch: 1, nonce: 'n1' }, next('n2'));
      // A hint may be missed by one that has not looked yet; it sees the change after that.
      for (let epoch = 2, isTold = false; !isTold; epoch++) {
        isTold = await Promise.race([
          told.then(() => true),
          new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 300)),
        ]);
        if (isTold) break;
        const record = (await one.read(vm))!;
        const other1 = await one.swap(vm, record, next(epoch % 2 === 0 ? 'n1' : 'n2'));
        assert.equal(other1.outcome, 'won');
      }
      end();
    });

    test('what is no record is refused before anything is sent', async () => {
      const vm = newName();
      const bad: unknown[] = [
        { ...next('n'), members: [] },
        { ...next('n'), holder: 'c' },
        { ...next('') },
        { ...next('n'), data: { x: 'y'.repeat(2000) } },
        { ...next('n'), members: Array.from({ length: 17 }, (_, at) => `m${at}`) },
      ];
      for (const value of bad) await assert.rejects(one.create(vm, value as Proposal), ParameterError);
      for (const name of ['', 'x'.repeat(65), 'a\0b', '\ud800']) {
        await assert.rejects(one.read(name), ParameterError);
      }
      assert.equal(await other.read(vm), null);
    });

    test('a closed one says that nothing has happened', async () => {
      const third = made.open();
      await third.close();
      await third.close();
      await assert.rejects(
        third.swap(newName(), { epoch: 1, nonce: 'n' }, next('m')),
        (error) => error instanceof ArbiterUnreachableError && !error.mayHaveHappened,
      );
    });
  });
}
