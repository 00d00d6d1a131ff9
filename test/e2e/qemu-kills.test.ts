/**
 * A protected guest on stock QEMUs, and the death of each process that it takes, at random moments of checkpoints: one
 * running copy is left, with every connection and every acknowledged line, and no QEMU stays behind. COLO_CHAOS and
 * COLO_CHAOS_SEED as in test/chaos.
 */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { stockQemu } from '../../src/demo/platform.ts';
import { until } from '../helpers/colo.ts';
import { killInCheckpoint, random } from './kill-in-checkpoint.ts';
import { PairRig, STEP_MS, whyNoGuest } from './pair-rig.ts';
import type { Member } from './pair-rig.ts';

const PLATFORM = stockQemu({ accelerator: 'tcg', vcpus: 1 });
const skip = whyNoGuest(PLATFORM);
const ROUNDS = Number(process.env['COLO_CHAOS'] ?? 1);
const SEED = Number(process.env['COLO_CHAOS_SEED'] ?? 1);

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The QEMUs of a `colo vm`, oldest first: the one that runs the guest, then the one that waits. */
function qemusOf(vmPid: number): number[] {
  const found: { pid: number; began: number }[] = [];
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      // proc(5): the name is in brackets and may hold anything; the parent is field 4, the start field 22.
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(fields[1]) === vmPid) found.push({ pid: Number(name), began: Number(fields[19]) });
    } catch {
      // Gone meanwhile.
    }
  }
  return found.sort((a, b) => a.began - b.began).map(({ pid }) => pid);
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/**
 * SIGKILL for the QEMU that runs the guest; its `colo vm` ends by itself then. In a load it may have been about to go
 * anyway, for the one that waited: then that one is next.
 */
async function killQemu({ vm }: Member): Promise<void> {
  await until(`${vm.name} ends`, STEP_MS, () => {
    const [runner] = qemusOf(vm.pid);
    if (runner !== undefined) killIfThere(runner);
    return !vm.isAlive;
  });
}

describe('a protected guest on QEMU', { skip, timeout: 600_000 }, () => {
  let rig: PairRig;
  let close = (): Promise<void> => Promise.resolve();
  const next = random(SEED);

  before(async () => {
    if (skip !== false) return;
    rig = await PairRig.boot(PLATFORM);
    close = () => rig.close();
  });

  after(() => close());

  for (let round = 1; round <= ROUNDS; round++) {
    for (const side of ['primary', 'secondary'] as const) {
      it(`survives the death of its ${side}, which leaves no QEMU behind (round ${round})`, async (t) => {
        let qemus: number[] = [];
        const kill = async ({ vm }: Member): Promise<void> => {
          qemus = qemusOf(vm.pid);
          await vm.kill();
        };
        t.diagnostic(await killInCheckpoint(rig, next, { side, kill }));
        assert.notDeepEqual(qemus, []);
        await until('its QEMUs are gone', STEP_MS, () => !qemus.some(isThere));
      });

      it(`survives the death of its ${side}'s QEMU (round ${round})`, async (t) => {
        t.diagnostic(await killInCheckpoint(rig, next, { side, kill: killQemu }));
      });
    }
  }

  it('stays protected when the QEMU that waits for the next checkpoint dies', async () => {
    await rig.protect();
    const secondary = rig.secondary!.vm;
    await until('a QEMU waits', STEP_MS, () => qemusOf(secondary.pid).length === 2);
    process.kill(qemusOf(secondary.pid)[1]!, 'SIGKILL');
    const { qmp } = rig.primary.vm;
    const count = async (): Promise<number> =>
      ((await qmp.execute('query-colo-checkpoints')) as { count: number }).count;
    const before = await count();
    await until('two more checkpoints', STEP_MS, async () => (await count()) >= before + 2);
    await rig.answered(5);
    assert.equal(((await qmp.execute('query-colo-status')) as { mode: string }).mode, 'primary');
    await rig.loseSecondary();
  });

  it('lost nothing in all that', async () => {
    await rig.assertNothingLost();
  });
});
