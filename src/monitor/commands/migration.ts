/** Migration and COLO (QEMU qapi/migration.json). */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';
import { MAX_INTERVAL_MS, MAX_PATIENCE_MS, MIN_INTERVAL_MS } from '../../checkpoint/heartbeat.ts';
import type { HeartbeatSettings } from '../../checkpoint/heartbeat.ts';
import { MAX_RUN_SHARE } from '../../checkpoint/mismatch-floor.ts';
import type { AnnounceTimes } from '../../net/announcer.ts';
import { CAPABILITIES, requireCapability } from '../../vm/migration.ts';
import type { MigrationTlsParameters } from '../../vm/migration.ts';
import { ANNOUNCE_TIMES, requireAnnounceTime } from '../announce-times.ts';
import { command, noArguments, uint32, uint64 } from '../registry.ts';

const RUN_SHARE = 'x-mismatch-run-share';
const [INTERVAL, PATIENCE] = ['x-colo-heartbeat-interval', 'x-colo-heartbeat-patience'] as const;
/** QEMU takes null for none, too. */
const tlsText = z.string().max(256).nullable().optional();
const parameters = z.looseObject({
  'x-checkpoint-delay': uint32.optional(),
  [RUN_SHARE]: uint32.optional(),
  [INTERVAL]: uint32.optional(),
  [PATIENCE]: uint32.optional(),
  'tls-creds': tlsText,
  'tls-hostname': tlsText,
  'announce-initial': uint64.optional(),
  'announce-max': uint64.optional(),
  'announce-rounds': uint64.optional(),
  'announce-step': uint64.optional(),
});
const SUPPORTED = new Set(Object.keys(parameters.shape));

/** QEMU's other parameters (7.2): known by name, so that their refusal is not taken for a typing error. */
const FOREIGN_PARAMETERS = new Set(
  ['block-incremental'].concat(
    [
      'block-bitmap-mapping',
      'compress-level',
      'compress-threads',
      'compress-wait-thread',
      'cpu-throttle-increment',
    ],
    [
      'cpu-throttle-initial',
      'cpu-throttle-tailslow',
      'decompress-threads',
      'downtime-limit',
      'max-bandwidth',
    ],
    [
      'max-cpu-throttle',
      'max-postcopy-bandwidth',
      'multifd-channels',
      'multifd-compression',
      'multifd-zlib-level',
    ],
    ['multifd-zstd-level', 'throttle-trigger-threshold', 'tls-authz', 'xbzrle-cache-size'],
  ),
);

export const migrationCommands = [
  command(
    'migrate-set-capabilities',
    z.strictObject({
      capabilities: z.array(z.strictObject({ capability: z.string(), state: z.boolean() })),
    }),
    (vm, { capabilities }) => {
      vm.migration.setCapabilities(
        capabilities.map(({ capability, state }) => ({ capability: requireCapability(capability), state })),
      );
    },
  ),
  command('query-migrate-capabilities', noArguments, (vm) =>
    CAPABILITIES.map((capability) => ({
      capability,
      state: vm.migration.capabilities.get(capability) === true,
    })),
  ),
  command('migrate-set-parameters', parameters, (vm, args) => {
    for (const name of Object.keys(args)) {
      if (SUPPORTED.has(name)) continue;
      throw new ParameterError(
        FOREIGN_PARAMETERS.has(name)
          ? `Parameter '${name}' is not supported; x-checkpoint-delay, ${RUN_SHARE}, x-colo-heartbeat-*, tls-creds, tls-hostname and announce-* are`
          : `Parameter '${name}' is unexpected`,
      );
    }
    const share = args[RUN_SHARE];
    if (share !== undefined) requireRange(RUN_SHARE, share, 0, MAX_RUN_SHARE);
    const heartbeat = heartbeatOf(vm.migration.heartbeat, args);
    vm.migration.announceTimes = announceTimes(vm.migration.announceTimes, args);
    vm.migration.tls = tlsOf(vm.migration.tls, args);
    if (heartbeat !== null) vm.migration.heartbeat = heartbeat;
    if (share !== undefined) vm.migration.mismatchRunShare = share;
    const delayMs = args['x-checkpoint-delay'];
    if (delayMs !== undefined) vm.migration.checkpointDelayMs = delayMs;
  }),
  command('query-migrate-parameters', noArguments, (vm) => ({
    'x-checkpoint-delay': vm.migration.checkpointDelayMs,
    [RUN_SHARE]: vm.migration.mismatchRunShare,
    [INTERVAL]: vm.migration.heartbeat.intervalMs,
    [PATIENCE]: vm.migration.heartbeat.patienceMs,
    'tls-creds': vm.migration.tls.creds,
    'tls-hostname': vm.migration.tls.hostname,
    ...Object.fromEntries(
      ANNOUNCE_TIMES.map((name) => [`announce-${name}`, vm.migration.announceTimes[name]]),
    ),
  })),
  command(
    'migrate',
    z.strictObject({
      uri: z.string(),
      detach: z.boolean().optional(),
      blk: z.literal(false).optional(),
      inc: z.literal(false).optional(),
    }),
    (vm, { uri }) => {
      requireProtocol(uri);
      vm.migration.migrate(uri);
    },
  ),
  command('migrate-incoming', z.strictObject({ uri: z.string() }), (vm, { uri }) =>
    vm.listenForMigration(uri),
  ),
  command('migrate_cancel', noArguments, (vm) => vm.migration.cancel()),
  command('query-migrate', noArguments, (vm) => vm.migration.queryMigrate()),
  command('query-colo-status', noArguments, (vm) => vm.migration.queryColoStatus()),
  command('x-colo-lost-heartbeat', noArguments, (vm) => vm.migration.lostHeartbeat()),
  command('x-colo-checkpoint', noArguments, (vm) => vm.migration.requestCheckpoint('request')),
  command('query-colo-checkpoints', z.strictObject({ after: uint64.optional() }), (vm, { after }) => {
    const { count, byCause, records, loadsMs } = vm.migration.stats;
    const answer = { count, 'by-cause': byCause };
    if (after === undefined) return { ...answer, records, 'loads-ms': loadsMs };
    requireRange('after', after, 0, Number.MAX_SAFE_INTEGER);
    return { ...answer, records: vm.migration.recordsAfter(after) };
  }),
];

/** Throws ParameterError, with QEMU's text for what is no protocol at all. */
function requireProtocol(uri: string): void {
  const protocol = /^(\w+):/.exec(uri)?.[1] ?? '';
  if (protocol === 'tcp' || protocol === 'unix') return;
  throw new ParameterError(
    ['exec', 'fd', 'rdma', 'vsock'].includes(protocol)
      ? `Migration protocol '${protocol}' is not supported; use tcp:HOST:PORT or unix:PATH`
      : "Parameter 'uri' expects a valid migration protocol",
  );
}

/** Throws ParameterError with QEMU's text. */
function requireRange(name: string, value: number, min: number, max: number): void {
  if (value >= min && value <= max) return;
  throw new ParameterError(`Parameter '${name}' expects an integer in the range of ${min} to ${max}`);
}

/** `now` with what is given. */
function tlsOf(now: MigrationTlsParameters, args: z.infer<typeof parameters>): MigrationTlsParameters {
  const { 'tls-creds': creds = now.creds, 'tls-hostname': hostname = now.hostname } = args;
  return { creds: creds ?? '', hostname: hostname ?? '' };
}

/** `now` with what is given, or null: nothing is. Throws ParameterError. */
function heartbeatOf(now: HeartbeatSettings, args: z.infer<typeof parameters>): HeartbeatSettings | null {
  const { [INTERVAL]: intervalMs = now.intervalMs, [PATIENCE]: patienceMs = now.patienceMs } = args;
  requireRange(INTERVAL, intervalMs, MIN_INTERVAL_MS, MAX_INTERVAL_MS);
  requireRange(PATIENCE, patienceMs, 0, MAX_PATIENCE_MS);
  return intervalMs === now.intervalMs && patienceMs === now.patienceMs ? null : { intervalMs, patienceMs };
}

/** Those of `now` with what is given. Throws ParameterError with QEMU's texts. */
function announceTimes(now: AnnounceTimes, args: z.infer<typeof parameters>): AnnounceTimes {
  const times = { ...now };
  for (const name of ANNOUNCE_TIMES) {
    const given = args[`announce-${name}`];
    if (given === undefined) continue;
    const shown = `announce_${name}`;
    requireAnnounceTime(name, given, shown);
    // QEMU's text says 0.
    if (name === 'step' && given === 0) requireAnnounceTime(name, -1, shown);
    times[name] = given;
  }
  return times;
}
