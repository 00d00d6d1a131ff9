/**
 * What Prometheus is told (docs/metrics.md): states, epochs, checkpoints and resyncs of the VMs that this host looks
 * after, its own memory, the arbiter's answers, the silence of heartbeats. Views are turned into samples by pure functions
 * at each scrape; counters that have no view are counted as things happen.
 *
 * The caller gives the VMs of its own host: a cluster's worth from every host would be the same numbers N times.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { VM_STATES, type HaEvent, type HostView, type VmView } from '../ha/views.ts';

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What a scrape reads. */
export interface MetricsSource {
  readonly vms: () => readonly VmView[] | Promise<readonly VmView[]>;
  /** This host; null: not registered yet. */
  readonly host: () => HostView | null | Promise<HostView | null>;
}

interface Metric<View> {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly type: 'gauge' | 'counter';
  readonly samples: (view: View) => readonly Sample[];
}

const vmLabels = (vm: VmView, more: Record<string, string> = {}): Record<string, string> => ({
  vm: vm.name,
  ...more,
});
const one = (vm: VmView, value: number): Sample[] => [{ labels: vmLabels(vm), value }];
const isHere = (value: boolean): number => (value ? 1 : 0);

export const VM_METRICS: readonly Metric<VmView>[] = [
  {
    name: 'colo_vm_state',
    help: '1 for the state that the VM is in, 0 for the others.',
    labels: ['vm', 'state'],
    type: 'gauge',
    samples: (vm) =>
      VM_STATES.map((state) => ({ labels: vmLabels(vm, { state }), value: isHere(vm.state === state) })),
  },
  {
    name: 'colo_vm_state_since_seconds',
    help: "When the VM came into its state, seconds since 1970 by the host's clock.",
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) => one(vm, vm.sinceMs / 1000),
  },
  {
    name: 'colo_vm_epoch',
    help: "Epoch of the arbiter's record; it rises with every change of who may be heard.",
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) => one(vm, vm.epoch),
  },
  {
    name: 'colo_vm_paused',
    help: '1: automatic actions are suspended.',
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) => one(vm, isHere(vm.isPaused)),
  },
  {
    name: 'colo_vm_memory_bytes',
    help: "The guest's memory.",
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) => one(vm, vm.memoryMiB * 1024 * 1024),
  },
  {
    name: 'colo_vm_checkpoints_total',
    help: 'Checkpoints of the pair by what asked for them.',
    labels: ['vm', 'cause'],
    type: 'counter',
    samples: (vm) =>
      Object.entries(vm.checkpoints?.byCause ?? {}).map(([cause, value]) => ({
        labels: vmLabels(vm, { cause }),
        value,
      })),
  },
  {
    name: 'colo_vm_checkpoint_pause_seconds',
    help: 'How long the guest stood still for its newest checkpoint.',
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) =>
      typeof vm.checkpoints?.lastPauseMs === 'number' ? one(vm, vm.checkpoints.lastPauseMs / 1000) : [],
  },
  {
    name: 'colo_vm_checkpoint_timestamp_seconds',
    help: 'When the newest checkpoint was complete, seconds since 1970.',
    labels: ['vm'],
    type: 'gauge',
    samples: (vm) =>
      typeof vm.checkpoints?.lastAtMs === 'number' ? one(vm, vm.checkpoints.lastAtMs / 1000) : [],
  },
  {
    name: 'colo_vm_resync_bytes',
    help: 'Disk bytes of the resync that is under way: done, and altogether.',
    labels: ['vm', 'part'],
    type: 'gauge',
    samples: (vm) =>
      vm.copies.flatMap(({ resync }) =>
        resync
          ? [
              { labels: vmLabels(vm, { part: 'done' }), value: resync.doneBytes },
              { labels: vmLabels(vm, { part: 'total' }), value: resync.totalBytes },
            ]
          : [],
      ),
  },
];

const host = (value: (view: HostView) => number): Metric<HostView>['samples'] => {
  return (view) => [{ labels: { host: view.name }, value: value(view) }];
};

export const HOST_METRICS: readonly Metric<HostView>[] = [
  {
    name: 'colo_host_info',
    help: 'Always 1; the labels say who this is.',
    labels: ['host', 'software'],
    type: 'gauge',
    samples: ({ name, software }) => [{ labels: { host: name, software }, value: 1 }],
  },
  {
    name: 'colo_host_maintenance',
    help: '1: nothing new is placed here.',
    labels: ['host'],
    type: 'gauge',
    samples: host(({ isInMaintenance }) => isHere(isInMaintenance)),
  },
  {
    name: 'colo_host_registered',
    help: "1: this host's registration is kept up.",
    labels: ['host'],
    type: 'gauge',
    samples: host(({ isAlive }) => isHere(isAlive)),
  },
  {
    name: 'colo_host_memory_bytes',
    help: 'Memory for guests, altogether.',
    labels: ['host'],
    type: 'gauge',
    samples: host(({ memoryMiB }) => memoryMiB * 1024 * 1024),
  },
  {
    name: 'colo_host_free_memory_bytes',
    help: 'Memory for guests that none has.',
    labels: ['host'],
    type: 'gauge',
    samples: host(({ freeMemoryMiB }) => freeMemoryMiB * 1024 * 1024),
  },
  {
    name: 'colo_host_vms',
    help: 'Copies of VMs on this host by what they are.',
    labels: ['host', 'role'],
    type: 'gauge',
    samples: ({ name, vms }) => [
      { labels: { host: name, role: 'primary' }, value: vms.primary },
      { labels: { host: name, role: 'secondary' }, value: vms.secondary },
    ],
  },
];

/** Outcomes of a question to the arbiter. */
export type ArbiterOutcome = 'ok' | 'lost' | 'unreachable';

/** Seconds; the arbiter is asked over a network or a file system. */
const ARBITER_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export class NodeMetrics {
  readonly registry = new Registry();
  readonly #failovers: Counter<'vm'>;
  readonly #events: Counter<'type'>;
  readonly #arbiterRequests: Counter<'operation' | 'outcome'>;
  readonly #arbiterSeconds: Histogram<'operation'>;
  readonly #silence: Gauge<'peer'>;
  readonly #source: MetricsSource;
  readonly #silences: () => ReadonlyMap<string, number>;
  readonly #views: {
    readonly vm: readonly [Metric<VmView>, Counter | Gauge][];
    readonly host: readonly [Metric<HostView>, Counter | Gauge][];
  };

  /** `silences`: of every host whose heartbeats are listened to, for how many milliseconds nothing has come. */
  constructor(
    source: MetricsSource,
    options: { readonly silences?: () => ReadonlyMap<string, number>; readonly isProcessTold?: boolean } = {},
  ) {
    this.#source = source;
    this.#silences = options.silences ?? (() => new Map());
    const registers = [this.registry];
    this.#failovers = new Counter({
      name: 'colo_vm_failovers_total',
      help: 'Failovers of VMs to this host, planned ones included, since the daemon started.',
      labelNames: ['vm'],
      registers,
    });
    this.#events = new Counter({
      name: 'colo_events_total',
      help: "Events of this host's daemon since it started.",
      labelNames: ['type'],
      registers,
    });
    this.#arbiterRequests = new Counter({
      name: 'colo_arbiter_requests_total',
      help: 'Questions to the arbiter: answered, answered by no, or not answered.',
      labelNames: ['operation', 'outcome'],
      registers,
    });
    this.#arbiterSeconds = new Histogram({
      name: 'colo_arbiter_request_seconds',
      help: "Time to the arbiter's answer.",
      labelNames: ['operation'],
      buckets: ARBITER_BUCKETS,
      registers,
    });
    this.#silence = new Gauge({
      name: 'colo_beat_silence_seconds',
      help: 'For how long no heartbeat of a host has come.',
      labelNames: ['peer'],
      registers,
    });
    const made = <View>(metrics: readonly Metric<View>[]): [Metric<View>, Counter | Gauge][] =>
      metrics.map((metric) => {
        const { name, help, labels, type } = metric;
        const options = { name, help, labelNames: [...labels], registers };
        return [metric, type === 'counter' ? new Counter(options) : new Gauge(options)];
      });
    this.#views = { vm: made(VM_METRICS), host: made(HOST_METRICS) };
    if (options.isProcessTold !== false) collectDefaultMetrics({ register: this.registry });
  }

  /** Every event of the host's log is one. A `failover` event names the VM. */
  observe(event: HaEvent): void {
    this.#events.inc({ type: event.type });
    if (event.type === 'failover' && event.vm !== undefined) this.#failovers.inc({ vm: event.vm });
  }

  arbiterAsked(operation: string, outcome: ArbiterOutcome, seconds: number): void {
    this.#arbiterRequests.inc({ operation, outcome });
    this.#arbiterSeconds.observe({ operation }, seconds);
  }

  /** Prometheus's text format. Rejects when the views cannot be had. */
  async text(): Promise<string> {
    const [vms, host] = await Promise.all([this.#source.vms(), this.#source.host()]);
    fill(this.#views.vm, vms);
    fill(this.#views.host, host ? [host] : []);
    this.#silence.reset();
    for (const [peer, silenceMs] of this.#silences()) this.#silence.set({ peer }, silenceMs / 1000);
    return this.registry.metrics();
  }
}

/** A VM that is gone leaves no series behind. */
function fill<View>(metrics: readonly [Metric<View>, Counter | Gauge][], views: readonly View[]): void {
  for (const [metric, series] of metrics) {
    series.reset();
    for (const view of views) {
      for (const { labels, value } of metric.samples(view)) series.inc(labels, value);
    }
  }
}
