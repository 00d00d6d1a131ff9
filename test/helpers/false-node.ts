/** A NodeService and PeerService that does nothing and remembers what it was asked; single calls can be replaced. */
import { PassThrough } from 'node:stream';
import type { CopyView, Finding, HaEvent, HostView, VmView } from '../../src/ha/views.ts';
import type { HostFacts } from '../../src/ha/spec/facts.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import type { JoinAnswer, NodeService, PeerService } from '../../src/api/service.ts';

export const SPEC: VmSpec = {
  version: 1,
  name: 'web1',
  engine: 'v86',
  cpus: 1,
  memoryMiB: 128,
  disks: [{ id: 'disk0', image: '/images/web.qcow2', interface: 'ide' }],
  nics: [
    { id: 'nic0', mac: '52:54:00:12:34:56', model: 'ne2k_pci', edge: { kind: 'bridge', bridge: 'br0' } },
    { id: 'nic1', mac: '52:54:00:12:34:57', model: 'ne2k_pci', edge: { kind: 'switch', address: 'unix:/s' } },
  ],
  hosts: ['alpha', 'beta'],
  checkpoint: { maxDelayMs: 20_000 },
  heartbeat: { intervalMs: 50, patienceMs: 400, linkPatienceMs: 2_000 },
  resync: { bytesPerSecond: 0 },
  options: [],
};

const COPIES: CopyView[] = [
  { host: 'alpha', role: 'primary', pid: 4711 },
  { host: 'beta', role: 'joining', pid: 815, resync: { doneBytes: 512, totalBytes: 2048 } },
];

export const VM: VmView = {
  version: 1,
  name: 'web1',
  state: 'syncing',
  reason: "the disks are being copied to 'beta'",
  sinceMs: 1_764_000_000_000,
  epoch: 7,
  primary: 'alpha',
  secondary: 'beta',
  copies: COPIES,
  isWanted: true,
  isPaused: false,
  memoryMiB: 128,
  engine: 'v86',
  checkpoints: {
    count: 41,
    perSecond: 2.5,
    byCause: { timer: 40, mismatch: 1 },
    lastPauseMs: 12,
    lastAtMs: null,
  },
};

export const HOST: HostView = {
  version: 1,
  name: 'alpha',
  api: '127.0.0.1:7700',
  heartbeat: '127.0.0.1:7701',
  software: '0.1.0',
  isAlive: true,
  isInMaintenance: false,
  memoryMiB: 4096,
  freeMemoryMiB: 3000,
  vms: { primary: 1, secondary: 2 },
};

export function eventOf(sequence: number, more: Partial<HaEvent> = {}): HaEvent {
  const event = { version: 1, sequence, time: '2026-01-02T03:04:05.678Z', host: 'alpha' } as const;
  return {
    ...event,
    type: 'state',
    vm: 'web1',
    from: 'syncing',
    to: 'protecting',
    reason: 'copied',
    ...more,
  };
}

const FINDING: Finding = {
  severity: 'warning',
  host: 'beta',
  path: 'disks[0].image',
  message: 'not there yet',
};

const JOINED: JoinAnswer = {
  version: 1,
  links: {
    primaryHost: '10.0.0.1',
    secondaryHost: '10.0.0.2',
    nics: [{ id: 'nic0', mirrorPort: 7710, comparePort: 7711 }],
    nbdPort: 7712,
    migrationPort: 7713,
  },
  isBitmapEnough: true,
};

const isSignal = (arg: unknown): boolean => arg !== null && typeof arg === 'object' && 'signal' in arg;

export type FalseNode = NodeService & PeerService & { readonly asked: unknown[][] };

const FACTS: HostFacts = {
  version: 1,
  host: 'beta',
  software: 'colo-ft 0.1.0',
  address: '10.0.0.2',
  machine: 'boot',
  cpuModel: 'some',
  clockMs: 1,
  isSecure: false,
  tls: null,
  availableMiB: 1024,
  guestsMiB: 512,
  images: [null],
  hasDisks: false,
  state: { freeBytes: 1, trouble: null },
  run: null,
  ports: { free: 4, trouble: null },
  cables: [null],
  engine: { version: null, trouble: null, unknownModels: [] },
  arbiter: null,
};

export function falseNode(own: Partial<NodeService & PeerService> = {}): FalseNode {
  const asked: unknown[][] = [];
  const answer =
    <T>(call: string, value: T) =>
    (...args: unknown[]): Promise<T> => {
      // Signals are for the call, not for the record; what is left out is left out.
      asked.push([call, ...args.filter((arg) => arg !== undefined && !isSignal(arg))]);
      return Promise.resolve(value);
    };
  return {
    asked,
    health: answer('health', { version: 1, software: '0.1.0', host: 'alpha', isHealthy: true, troubles: [] }),
    hosts: answer('hosts', [HOST]),
    vms: answer('vms', [VM]),
    vm: answer('vm', VM),
    spec: answer('spec', SPEC),
    check: answer('check', [FINDING]),
    up: answer('up', VM),
    down: answer('down', VM),
    checkpoint: answer('checkpoint', VM),
    failover: answer('failover', VM),
    migrate: answer('migrate', VM),
    setPaused: answer('setPaused', VM),
    setMaintenance: answer('setMaintenance', HOST),
    events: async function* () {
      await Promise.resolve();
      yield eventOf(1);
      yield eventOf(2, { type: 'note', data: { bytes: 5 } });
    },
    logs: async function* () {
      await Promise.resolve();
      yield 'one';
      yield 'two';
    },
    console: () => Promise.resolve(new PassThrough()),
    screen: () => Promise.resolve(new PassThrough()),
    qmp: answer('qmp', { status: 'running' }),
    copy: answer('copy', {
      host: 'beta',
      phase: 'idle',
      known: { epoch: 3, nonce: 'n' },
      isProcessAlive: false,
      disks: 'whole',
    }),
    join: answer('join', JOINED),
    awaitCheckpoint: answer('awaitCheckpoint', undefined),
    takeOver: answer('takeOver', undefined),
    leave: answer('leave', undefined),
    purge: answer('purge', undefined),
    facts: answer('facts', FACTS),
    ...own,
  };
}
