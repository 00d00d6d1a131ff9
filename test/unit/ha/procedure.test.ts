// Which lines a monitor gets, in which order; what they do is tested with real processes in test/e2e/many-disks.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ColoError } from '../../../src/base/errors.ts';
import {
  addPrimaryChardevs,
  exportSecondaryDisks,
  failoverPrimary,
  failoverSecondary,
  forgetResync,
  resumeReplication,
  startResync,
} from '../../../src/ha/procedure.ts';
import type { Qmp } from '../../../src/ha/procedure.ts';
import { QmpCommandError } from '../../../src/qmp/client.ts';
import { links, spec } from './pair-fixtures.ts';

/** A monitor with canned answers to queries that writes down everything else. */
class Monitor implements Qmp {
  readonly lines: string[] = [];
  mode = 'none';
  lastMode = 'none';
  status = 'running';
  objects: string[] = [];
  chardevs: string[] = [];
  jobs: Record<string, unknown>[] = [];
  nodes: string[] = [];
  exports: string[] = [];
  parameters = ['x-checkpoint-delay'];
  /** Disks with a forwarding node in them. */
  attached = new Set(['colo-disk0', 'colo-disk1']);
  /** Commands that fail. */
  readonly failing = new Map<string, string>();

  execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const answer = this.#query(command);
    if (answer !== undefined) return Promise.resolve(answer);
    this.lines.push(line(command, args));
    const failure = this.#refusal(command, args);
    if (failure !== undefined) return Promise.reject(new ColoError(failure));
    this.#act(command, args);
    return Promise.resolve(command === 'human-monitor-command' ? '' : {});
  }

  #query(command: string): unknown {
    switch (command) {
      case 'qom-list':
        return this.objects.map((name) => ({ name, type: 'child<x>' }));
      case 'query-chardev':
        return this.chardevs.map((label) => ({
          label,
          filename: `${/^(mirror|compare1)/.test(label) ? '' : 'disconnected:'}tcp:127.0.0.1:4711,server=on`,
          'frontend-open': false,
        }));
      case 'query-block-jobs':
        return this.jobs;
      case 'query-block-exports':
        return this.exports.map((id) => ({ id }));
      case 'query-named-block-nodes':
        return this.nodes.map((name) => ({ 'node-name': name }));
      case 'query-colo-status':
        return { mode: this.mode, 'last-mode': this.lastMode };
      case 'query-migrate':
        return {};
      case 'query-status':
        return { status: this.status };
      case 'query-migrate-parameters':
        return Object.fromEntries(this.parameters.map((name) => [name, 0]));
      default:
        return undefined;
    }
  }

  #act(command: string, args: Readonly<Record<string, unknown>>): void {
    const { id, device, child } = args;
    const without = (names: string[]): string[] => names.filter((name) => name !== id);
    if (command === 'x-colo-lost-heartbeat') [this.lastMode, this.mode] = [this.mode, 'none'];
    if (command === 'object-del') this.objects = without(this.objects);
    if (command === 'chardev-add') this.chardevs.push(String(id));
    if (command === 'chardev-remove') this.chardevs = without(this.chardevs);
    if (command === 'nbd-server-stop') this.exports = [];
    if (command === 'x-blockdev-change' && child !== undefined) this.attached.delete(String(args['parent']));
    if (command === 'cont') this.status = 'running';
    if (command === 'job-dismiss') this.jobs = this.jobs.filter((job) => job['device'] !== id);
    if (command === 'block-job-cancel')
      this.jobs = this.jobs.map((job) => (job['device'] === device ? { ...job, status: 'concluded' } : job));
    const deleted = /^drive_del (.*)$/.exec(line(command, args))?.[1];
    if (deleted !== undefined) this.nodes = this.nodes.filter((name) => name !== deleted);
  }

  /** As QEMU: what is not there cannot be taken away. */
  #refusal(command: string, { id, child, parent }: Readonly<Record<string, unknown>>): string | undefined {
    const failing = this.failing.get(command);
    if (failing !== undefined) return failing;
    if (command === 'x-blockdev-change' && child !== undefined && !this.attached.has(String(parent)))
      return `Node '${String(parent)}' does not have child 'children.1'`;
    if (command === 'object-del' && !this.objects.includes(String(id)))
      return `object '${String(id)}' not found`;
    if (command === 'chardev-remove' && !this.chardevs.includes(String(id))) return 'Chardev not found';
    if (command === 'nbd-server-stop' && this.exports.length === 0) return 'NBD server not running';
    if (command === 'x-colo-lost-heartbeat' && this.mode === 'none') return 'VM is not in COLO mode';
    return undefined;
  }
}

/** Short: the command and the values of its arguments. */
function line(command: string, args: Readonly<Record<string, unknown>>): string {
  if (command === 'human-monitor-command') return String(args['command-line']);
  const values = Object.values(args).map((value) =>
    typeof value === 'string' ? value : JSON.stringify(value),
  );
  return [command, ...values].join(' ');
}

/** Whoever types at it is gone behind so many commands; the last one may have been carried out. */
function dying(qmp: Qmp, after: number, isLastDone: boolean): Qmp {
  let left = after;
  return {
    execute: async (command, args) => {
      if (left-- > 0) return qmp.execute(command, args);
      if (isLastDone) await qmp.execute(command, args);
      throw new ColoError('the daemon has died');
    },
  };
}

const job = (device: string, ready = true): Record<string, unknown> => ({
  ...{ device, ready, status: ready ? 'ready' : 'running', len: 10, offset: ready ? 10 : 1 },
});

describe('the procedure’s lines', () => {
  it('let a primary be heard before anything is tidied up', async () => {
    const qmp = new Monitor();
    qmp.mode = 'primary';
    qmp.objects = ['iothread1', 'comp0', 'm0', 'redire0', 'redire1', 'iothread2', 'comp1', 'rew0'];
    qmp.nodes = ['replication0', 'replication1'];
    await failoverPrimary(qmp, spec({ disks: 2, nics: 2 }));
    assert.deepEqual(qmp.lines, [
      'x-blockdev-change colo-disk0 children.1',
      'x-blockdev-change colo-disk1 children.1',
      'x-colo-lost-heartbeat',
      ...['object-del comp0', 'object-del iothread1', 'object-del m0', 'object-del redire0'],
      ...['object-del redire1', 'object-del comp1', 'object-del iothread2'],
      ...['drive_del replication0', 'drive_del replication1'],
    ]);
  });

  it('are few when they were typed before', async () => {
    const qmp = new Monitor();
    qmp.attached.clear();
    await failoverPrimary(qmp, spec());
    assert.deepEqual(qmp.lines, ['x-blockdev-change colo-disk0 children.1']);
    qmp.failing.set('x-blockdev-change', 'Node is busy');
    await assert.rejects(failoverPrimary(qmp, spec()), /Node is busy/);
  });

  it('let a guest go on that was stopped for the end of a resync', async () => {
    const qmp = new Monitor();
    qmp.status = 'paused';
    qmp.jobs = [job('resync', false)];
    await failoverPrimary(qmp, spec());
    assert.deepEqual(qmp.lines.slice(1), ['block-job-cancel resync true', 'job-dismiss resync', 'cont']);
  });

  it('do not mind a copy that ends by itself before it is broken off', async () => {
    const qmp = new Monitor();
    qmp.jobs = [job('resync')];
    const execute = qmp.execute.bind(qmp);
    qmp.execute = async (command, args) => {
      const answer = await execute(command, args);
      if (command !== 'block-job-cancel') return answer;
      throw new QmpCommandError(
        command,
        'GenericError',
        "Job 'resync' in state 'concluded' cannot be cancelled",
      );
    };
    await forgetResync(qmp, spec());
    assert.deepEqual(qmp.jobs, []);
  });

  it('let a secondary be heard before anything is tidied up', async () => {
    const qmp = new Monitor();
    qmp.mode = 'secondary';
    qmp.exports = ['parent0', 'parent1'];
    qmp.objects = ['f1', 'f2', 'rew0'];
    qmp.chardevs = ['red0', 'red1'];
    await failoverSecondary(qmp, spec({ disks: 2 }));
    const all = [
      ...['nbd-server-stop', 'x-colo-lost-heartbeat', 'object-del f2', 'object-del f1'],
      ...['chardev-remove red1', 'chardev-remove red0'],
    ];
    assert.deepEqual(qmp.lines, all);
    // Interrupted behind the second line.
    Object.assign(qmp, { exports: [], objects: ['f1'], chardevs: ['red1'], lines: [] });
    await failoverSecondary(qmp, spec({ disks: 2 }));
    assert.deepEqual(qmp.lines, ['object-del f1', 'chardev-remove red1']);
    qmp.lastMode = 'none';
    await assert.rejects(failoverSecondary(qmp, spec()), /has no state of the guest/);
  });

  it('can be typed again by whoever was interrupted anywhere', async () => {
    const vm = spec({ disks: 2, nics: 2 });
    const primary = (): Monitor =>
      Object.assign(new Monitor(), {
        mode: 'primary',
        objects: ['comp0', 'iothread1', 'm0', 'redire0', 'redire1', 'comp1', 'iothread2', 'm1', 'rew0'],
        nodes: ['replication0', 'replication1', 'top'],
        jobs: [job('resync1')],
      });
    const secondary = (): Monitor =>
      Object.assign(new Monitor(), {
        mode: 'secondary',
        exports: ['parent0', 'parent1'],
        objects: ['f1', 'f2', 'f3', 'f4', 'rew0', 'rew1'],
        chardevs: ['red0', 'red1', 'red2', 'red3'],
      });
    for (const [make, step] of [
      [primary, failoverPrimary],
      [secondary, failoverSecondary],
    ] as const) {
      const whole = make();
      await step(whole, vm);
      const final = ({ mode, status, objects, nodes, jobs, chardevs, exports }: Monitor): unknown => ({
        ...{ mode, status, objects, nodes, jobs, chardevs, exports },
      });
      for (const isAnswered of [false, true]) {
        let isWhole = false;
        for (let after = 0; !isWhole; after++) {
          const qmp = make();
          isWhole = await step(dying(qmp, after, isAnswered), vm).then(
            () => true,
            () => false,
          );
          await step(qmp, vm);
          assert.deepEqual(final(qmp), final(whole), `after ${after}`);
          const beats = qmp.lines.filter((text) => text === 'x-colo-lost-heartbeat');
          assert.equal(beats.length, 1, `after ${after}`);
        }
      }
    }
  });

  it('begin a copy of each disk, the rate shared out, and leave alone what runs', async () => {
    const qmp = new Monitor();
    qmp.jobs = [job('resync'), { ...job('resync1'), status: 'concluded', error: 'gone' }];
    const vm = { ...spec({ disks: 3 }), resync: { bytesPerSecond: 3000 } };
    await startResync(qmp, vm, { ...links(1), secondaryHost: '::1' }, 'parted');
    const copy = (at: number): string =>
      `drive-mirror colo-disk${at} resync${at} nbd://[::1]:9999/parent${at} existing raw bitmap parted ` +
      'on-success false 1000';
    assert.deepEqual(qmp.lines, ['job-dismiss resync1', copy(1), copy(2)]);
  });

  it('stop the guest late, and cut every copy before a disk is forwarded', async () => {
    const qmp = new Monitor();
    qmp.jobs = [job('resync'), job('resync1')];
    qmp.objects = ['rew0'];
    qmp.chardevs = ['mirror0', 'compare1'];
    qmp.parameters.push('x-colo-heartbeat-interval');
    await resumeReplication(qmp, spec({ disks: 2 }), links(1));
    const [add0, add1, ...rest] = qmp.lines;
    assert.match(add0 ?? '', /^drive_add .*file\.export=parent0,node-name=replication0$/);
    assert.match(add1 ?? '', /^drive_add .*file\.export=parent1,node-name=replication1$/);
    assert.deepEqual(rest, [
      ...['stop', 'block-job-cancel resync', 'block-job-cancel resync1'],
      ...['job-dismiss resync', 'job-dismiss resync1'],
      ...['x-blockdev-change colo-disk0 replication0', 'x-blockdev-change colo-disk1 replication1'],
      'object-add filter-mirror m0 before id=rew0 hn0 tx mirror0',
      'object-add filter-redirector redire0 before id=rew0 hn0 rx compare_out',
      'object-add filter-redirector redire1 before id=rew0 hn0 rx compare0',
      'object-add iothread iothread1',
      'object-add colo-compare comp0 compare0-0 compare1 compare_out0 iothread1',
      'migrate-set-parameters 2000 100',
      'migrate-set-capabilities [{"capability":"x-colo","state":true}]',
      'migrate tcp:127.0.0.2:9998',
    ]);
  });

  it('with TLS name the credentials wherever a host is left', async () => {
    const secure = { ...links(1), tlsFolder: '/etc/colo tls' };
    const secondary = new Monitor();
    await assert.rejects(exportSecondaryDisks(secondary, spec(), secure), /too old for TLS/);
    secondary.parameters.push('tls-creds');
    secondary.lines.length = 0;
    await exportSecondaryDisks(secondary, spec(), secure);
    assert.deepEqual(secondary.lines, [
      'nbd-server-start {"type":"inet","data":{"host":"127.0.0.2","port":"9999"}} tls-server',
      'nbd-server-add parent0 true',
      'migrate-set-parameters 2000 tls-server',
      'migrate-incoming tcp:127.0.0.2:9998',
    ]);
    const primary = new Monitor();
    primary.parameters.push('tls-creds');
    await addPrimaryChardevs(primary, spec(), secure);
    assert.deepEqual(primary.lines.slice(0, 2), [
      'object-add tls-creds-x509 tls-server /etc/colo tls server',
      'object-add tls-creds-x509 tls-client /etc/colo tls client',
    ]);
    const sockets = primary.lines.slice(2);
    assert.equal(sockets.length, 6);
    assert.ok(sockets.slice(0, 2).every((text) => text.includes('"tls-creds":"tls-server"')));
    assert.ok(sockets.slice(2).every((text) => !text.includes('tls') && text.includes('127.0.0.1')));
    assert.match(sockets[3] ?? '', /compare0-0 .*"port":"4711"},?.*"server":false/);
    await startResync(primary, spec(), secure);
    const uri = 'nbds://127.0.0.2:9999/parent0?tls-certificates=%2Fetc%2Fcolo%20tls';
    assert.ok(primary.lines.at(-1)?.includes(uri), primary.lines.at(-1));
  });
});
