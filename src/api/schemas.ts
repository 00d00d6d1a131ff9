/**
 * What may come in over the API, member by member, before anything is done with it: requests at the server, answers at
 * the client. Requests are strict (a member that is not known would be a wish that is not heard), save for a VM's
 * specification, which vm-json.ts reads; answers are loose, as views.ts asks, because a neighbouring version may say more.
 */
import { z } from 'zod';
import { messageOf, ParameterError } from '../base/errors.ts';
import { parseVmSpec } from '../ha/spec/vm-json.ts';
import { HOST_NAME, MAX_DISKS, MAX_NICS, VM_NAME } from '../ha/spec/vm-limits.ts';
import type { VmSpec } from '../ha/spec/vm-spec.ts';
import { VIEW_VERSION, type Finding, type HaEvent, type HostView, type VmView } from '../ha/views.ts';
import { API_VERSION, COPIES } from './service.ts';
import type { CopyReport, Health, JoinAnswer, JoinRequest } from './service.ts';

/** Of any text in a request. */
export const MAX_TEXT = 4096;

/** Neighbouring versions understand each other. */
const apiVersion = z
  .int()
  .min(API_VERSION - 1)
  .max(API_VERSION + 1) as unknown as z.ZodType<typeof API_VERSION>;
const viewVersion = z
  .int()
  .min(VIEW_VERSION - 1)
  .max(VIEW_VERSION + 1) as unknown as z.ZodType<typeof VIEW_VERSION>;

const text = z.string().max(MAX_TEXT);
const count = z.int().min(0);
const port = z.int().min(0).max(65535);
const nonce = z.string().min(1).max(128);
const epoch = z.int().min(0);

export const vmName = z.string().regex(VM_NAME.pattern, `has to be ${VM_NAME.is}`);
export const hostName = z.string().regex(HOST_NAME.pattern, `has to be ${HOST_NAME.is}`);
const partId = z.string().regex(/^[a-z][a-z0-9_-]{0,31}$/, 'not an id');

/** The registry's JSON and this one's are the same: vm-json.ts. */
export const vmSpec = z.unknown().transform((value, context): VmSpec => {
  try {
    return parseVmSpec(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: messageOf(error) });
    return z.NEVER;
  }
});

const pairNics = z.array(z.strictObject({ id: partId, mirrorPort: port, comparePort: port })).max(MAX_NICS);
const record = z.strictObject({ epoch, nonce });

/** Every request says which version of the API it speaks; a person with curl need not. */
const versioned = { version: apiVersion.optional() };

export const requests = {
  nothing: z.strictObject(versioned),
  spec: z.strictObject({ ...versioned, spec: vmSpec }),
  down: z.strictObject({ ...versioned, purge: z.boolean().default(false) }),
  migrate: z.strictObject({ ...versioned, host: hostName }),
  paused: z.strictObject({ ...versioned, isPaused: z.boolean() }),
  maintenance: z.strictObject({ ...versioned, isOn: z.boolean(), drain: z.boolean().default(false) }),
  qmp: z.strictObject({
    ...versioned,
    command: z.string().min(1).max(256),
    arguments: z.record(z.string(), z.unknown()).optional(),
  }),
  join: z.strictObject({
    version: apiVersion,
    spec: vmSpec,
    from: hostName,
    primaryHost: text.min(1),
    nics: pairNics,
    sizes: z.array(z.strictObject({ id: partId, sizeBytes: count })).max(MAX_DISKS),
    bitmapSince: record.nullable(),
  }) satisfies z.ZodType<JoinRequest>,
  pairing: z.strictObject({ ...versioned, epoch, nonce }),
  reason: z.strictObject({ ...versioned, reason: text }),
};

/** A query's values are text. */
const flag = z
  .enum(['0', '1', 'true', 'false'])
  .default('0')
  .transform((value) => value === '1' || value === 'true');
const number = z
  .string()
  .regex(/^\d{1,15}$/, 'not a number')
  .transform(Number);

/** Lines of a log that may be asked for at a time. */
export const MAX_LOG_LINES = 100_000;

export const queries = {
  nothing: z.strictObject({}),
  events: z.strictObject({ after: number.optional(), vm: vmName.optional(), follow: flag }),
  copy: z.strictObject({ copy: z.enum(COPIES).optional() }),
  logs: z.strictObject({ lines: number.default(100).pipe(z.int().max(MAX_LOG_LINES)), follow: flag }),
};

const word = z.string().max(64);

export const vmView = z.looseObject({
  version: viewVersion,
  name: vmName,
  state: word,
  reason: z.string(),
  sinceMs: z.number(),
  epoch,
  primary: z.string().nullable(),
  secondary: z.string().nullable(),
  copies: z.array(
    z.looseObject({
      host: z.string(),
      role: word,
      pid: z.number().nullable(),
      resync: z.looseObject({ doneBytes: z.number(), totalBytes: z.number() }).exactOptional(),
    }),
  ),
  isWanted: z.boolean(),
  isPaused: z.boolean(),
  memoryMiB: z.number(),
  engine: z.string(),
  display: word.exactOptional(),
  checkpoints: z
    .looseObject({
      count: z.number(),
      perSecond: z.number(),
      byCause: z.record(z.string(), z.number()),
      lastPauseMs: z.number().nullable(),
      lastAtMs: z.number().nullable(),
    })
    .exactOptional(),
  lastFailover: z
    .looseObject({ atMs: z.number(), from: z.string(), to: z.string(), reason: z.string() })
    .exactOptional(),
});

export const hostView = z.looseObject({
  version: viewVersion,
  name: z.string(),
  api: z.string(),
  heartbeat: z.string(),
  software: z.string(),
  isAlive: z.boolean(),
  isInMaintenance: z.boolean(),
  memoryMiB: z.number(),
  freeMemoryMiB: z.number(),
  vms: z.looseObject({ primary: z.number(), secondary: z.number() }),
  labels: z.record(z.string(), z.string()).exactOptional(),
}) satisfies z.ZodType<HostView>;

export const haEvent = z.looseObject({
  version: viewVersion,
  sequence: count,
  time: z.string(),
  host: z.string(),
  vm: z.string().exactOptional(),
  type: word,
  from: word.exactOptional(),
  to: word.exactOptional(),
  reason: z.string(),
  data: z.record(z.string(), z.unknown()).exactOptional(),
});

/** A neighbour's newer state is shown as it is written. */
export const answers = {
  health: z.looseObject({
    version: apiVersion,
    software: z.string(),
    host: z.string(),
    isHealthy: z.boolean(),
    troubles: z.array(z.string()),
    dashboard: z
      .looseObject({
        url: z.string().nullable(),
        reason: z.string().nullable(),
        tokenFile: z.string().nullable(),
      })
      .exactOptional(),
  }) satisfies z.ZodType<Health>,
  vm: vmView as unknown as z.ZodType<VmView>,
  vms: z.array(vmView) as unknown as z.ZodType<VmView[]>,
  host: hostView as z.ZodType<HostView>,
  hosts: z.array(hostView) as z.ZodType<HostView[]>,
  spec: vmSpec,
  findings: z.array(
    z.looseObject({
      severity: z.enum(['error', 'warning']),
      host: z.string().nullable(),
      path: z.string(),
      message: z.string(),
    }),
  ) as z.ZodType<Finding[]>,
  event: haEvent as unknown as z.ZodType<HaEvent>,
  /** Checked by parseHostFacts. */
  facts: z.unknown(),
  copy: z.looseObject({
    host: z.string(),
    phase: word,
    known: z.looseObject({ epoch, nonce }).nullable(),
    isProcessAlive: z.boolean(),
    disks: z.enum(['none', 'whole', 'stale', 'replica', 'merging', 'syncing']),
  }) as z.ZodType<CopyReport>,
  join: z.looseObject({
    version: apiVersion,
    links: z.looseObject({
      primaryHost: z.string(),
      secondaryHost: z.string(),
      nics: pairNics,
      nbdPort: port,
      migrationPort: port,
      tlsFolder: z.string().exactOptional(),
    }),
    isBitmapEnough: z.boolean(),
  }) as z.ZodType<JoinAnswer>,
  /** The answer carries nothing. */
  done: z.unknown().transform((): void => undefined),
  anything: z.unknown(),
};

/** `value` as `schema` has it. Throws ParameterError that names the first member that is wrong. */
export function read<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue?.path.map(String).join('.') ?? '';
  throw new ParameterError(`${what}${path === '' ? '' : `: ${path}`}: ${issue?.message ?? 'not valid'}`);
}
