/**
 * Replication as a foreign manager drives it (xen-set-replication and its kin), in every stage and in the wrong order:
 * the same script in QEMU 7.2 and in ours, answers and the guest's reads and writes compared.
 */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { until } from '../../helpers/colo.ts';
import { inFolder, tool } from '../qcow2/helpers.ts';
import { Program, STEP_MS, missingQemu } from './program.ts';
import type { Whose } from './program.ts';

const QUORUM = '-drive if=none,id=colo-disk0,driver=quorum,read-pattern=fifo,vote-threshold=1';
const SECONDARY =
  '-drive if=none,id=parent0,driver=raw,file.filename=secondary.raw ' +
  '-drive if=none,id=childs0,driver=replication,mode=secondary,file.driver=qcow2,top-id=colo-disk0,' +
  'file.file.filename=active.qcow2,file.backing.driver=qcow2,file.backing.file.filename=hidden.qcow2,' +
  `file.backing.backing=parent0 ${QUORUM},children.0=childs0`;
const PRIMARY =
  `${QUORUM},children.0.driver=raw,children.0.file.filename=primary.raw,children.1.driver=replication,` +
  'children.1.mode=primary,children.1.file.driver=raw,children.1.file.file.filename=secondary.raw';

/** One step of a script: a verb in short, or a request to the disk. */
type Step = string;
/** A step that differs on purpose, and why. */
type Different = readonly [step: Step, reason: string];

const VERBS: Readonly<Record<string, readonly [command: string, args?: object]>> = {
  'start primary': ['xen-set-replication', { enable: true, primary: true }],
  'start secondary': ['xen-set-replication', { enable: true, primary: false }],
  'start failover': ['xen-set-replication', { enable: true, primary: false, failover: true }],
  'start no failover': ['xen-set-replication', { enable: true, primary: true, failover: false }],
  'stop primary': ['xen-set-replication', { enable: false, primary: true }],
  'stop secondary': ['xen-set-replication', { enable: false, primary: false }],
  'stop no failover': ['xen-set-replication', { enable: false, primary: false, failover: false }],
  'failover secondary': ['xen-set-replication', { enable: false, primary: false, failover: true }],
  'failover primary': ['xen-set-replication', { enable: false, primary: true, failover: true }],
  nonsense: ['xen-set-replication', { enable: true }],
  status: ['query-xen-replication-status'],
  checkpoint: ['xen-colo-do-checkpoint'],
  jobs: ['query-jobs'],
};
const READ = 'read -P 0 0 512';
const WRITE = 'write -P 5 0 512';
const DROPPED = 'QEMU has given its backup job up by then, so it cannot empty the overlays and says so';

const SCRIPTS: Readonly<Record<string, { line: string; steps: readonly (Step | Different)[] }>> = {
  'without a replicated disk': {
    line: '',
    steps: [
      'status',
      'checkpoint',
      'start primary',
      'start secondary',
      'stop primary',
      'failover secondary',
    ].concat(['start failover', 'start no failover', 'stop no failover', 'nonsense']),
  },
  'a secondary, in the wrong order and then in the right one': {
    line: SECONDARY,
    steps: [
      ...[
        'status',
        'checkpoint',
        'stop secondary',
        'failover secondary',
        READ,
        WRITE,
        'start primary',
        'status',
      ],
      ...[
        'start secondary',
        'status',
        'start secondary',
        'start primary',
        'checkpoint',
        WRITE,
        'read -P 5 0 512',
      ],
      ...['checkpoint', READ, 'jobs', 'status', WRITE],
      ...['failover secondary', 'until merged', 'status', 'checkpoint', 'start secondary', 'start primary'],
      ...['stop primary', 'failover secondary', 'status', 'read -P 5 0 512', 'write -P 6 512 512', 'jobs'],
    ],
  },
  'a secondary that is stopped': {
    line: SECONDARY,
    steps: [
      ...['start secondary', WRITE],
      ['stop primary', DROPPED],
      ['status', DROPPED],
      ...['checkpoint', 'start secondary', 'stop secondary', 'failover secondary'],
    ],
  },
  'a primary': {
    line: PRIMARY,
    steps: [
      ...[
        'status',
        'checkpoint',
        WRITE,
        'stop primary',
        'failover primary',
        'start secondary',
        'start primary',
      ],
      ...['status', 'checkpoint', 'start primary', 'start secondary', WRITE, 'read -P 5 0 512'],
      ...[
        'failover primary',
        'status',
        'checkpoint',
        'start primary',
        'stop primary',
        WRITE,
        'read -P 5 0 512',
      ],
    ],
  },
};

async function run(
  t: Pick<TestContext, 'after'>,
  whose: Whose,
  top: string,
  line: string,
  steps: readonly (Step | Different)[],
): Promise<string[]> {
  const folder = path.join(top, whose);
  await mkdir(folder);
  for (const name of ['primary.raw', 'secondary.raw', 'active.qcow2', 'hidden.qcow2']) {
    const format = name.endsWith('raw') ? 'raw' : 'qcow2';
    await tool('qemu-img', 'create', '-q', '-f', format, path.join(folder, name), '1M');
  }
  const program = await Program.start(t, whose, folder, line);
  const told: string[] = [];
  for (const entry of steps) {
    const step = typeof entry === 'string' ? entry : entry[0];
    const verb = VERBS[step];
    if (step === 'until merged') {
      // QEMU tells of an I/O error as long as the merge runs; on the disk it shows a little earlier than at its end.
      await until('the merge', STEP_MS, async () => {
        const { error } = (await program.execute('query-xen-replication-status')) as { error: boolean };
        return !error && (await program.io('parent0', 'read -P 5 0 512')).startsWith('read');
      });
    } else if (verb) {
      told.push(`${step}: ${sortedMembers(await program.outcome(...verb))}`);
    } else told.push(`${step}: ${await program.io('colo-disk0', step)}`);
  }
  await program.quit();
  return told;
}

function sortedMembers(json: string): string {
  return json.replace('{"desc":"', '{"error":true,"desc":"').replace(',"error":true}', '}');
}

describe('replication by verbs, as QEMU does', { skip: missingQemu }, () => {
  for (const [name, { line, steps }] of Object.entries(SCRIPTS)) {
    it(name, async (t) => {
      await inFolder(async (folder) => {
        const ours = await run(t, 'colo', folder, line, steps);
        const theirs = await run(t, 'qemu', folder, line, steps);
        const compared = steps.filter((step) => step !== 'until merged');
        assert.equal(ours.length, compared.length);
        for (const [at, step] of compared.entries()) {
          if (typeof step === 'string') assert.equal(ours[at], theirs[at], ours.slice(0, at + 1).join('\n'));
          else assert.notEqual(ours[at], theirs[at], `no difference any more: ${step.join(': ')}`);
        }
      });
    });
  }
});
