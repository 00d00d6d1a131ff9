/**
 * Views and entries at the border: what is written is checked before it is sent, what is read before it is believed. A
 * reader ignores members that it does not know, and keeps them, so that an entry which is read, changed and put back by
 * an older program loses nothing. Of versions it takes its own, older ones, and the next (src/ha/views.ts).
 */
import { z } from 'zod';
import { ParameterError, messageOf } from '../../base/errors.ts';
import { VM_ENGINES } from '../spec/vm-spec.ts';
import { VIEW_VERSION, VM_STATES, type HostView, type VmEntry, type VmView } from '../views.ts';
import { RegistryDataError } from './registry.ts';

/** Of each as JSON. */
export const MAX_ENTRY_BYTES = 32 * 1024;
export const MAX_VIEW_BYTES = 16 * 1024;
export const MAX_HOST_BYTES = 8 * 1024;
/** Of arrays in them. */
const MAX_LIST = 256;
const MAX_TEXT = 4096;

const VM_NAME = /^[a-z][a-z0-9-]{0,62}$/;
const HOST_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

const text = z.string().max(MAX_TEXT);
const vmName = z.string().regex(VM_NAME);
const hostName = z.string().regex(HOST_NAME);
const count = z.number().min(0);
const version = z
  .int()
  .min(1)
  .max(VIEW_VERSION + 1);

const edge = z.union([
  z.looseObject({ kind: z.literal('bridge'), bridge: text }),
  z.looseObject({ kind: z.literal('tap'), ifname: text }),
  z.looseObject({ kind: z.literal('switch'), address: text }),
]);

const spec = z.looseObject({
  version,
  name: vmName,
  engine: z.enum(VM_ENGINES),
  qemu: text.optional(),
  cpus: z.int().min(1),
  memoryMiB: z.int().min(1),
  disks: z
    .array(
      z.looseObject({
        id: text,
        image: text.optional(),
        sizeBytes: count.optional(),
        interface: z.enum(['ide', 'virtio', 'scsi']),
      }),
    )
    .max(MAX_LIST),
  nics: z.array(z.looseObject({ id: text, mac: text, model: text, edge })).max(MAX_LIST),
  hosts: z.array(hostName).max(MAX_LIST),
  checkpoint: z.looseObject({ maxDelayMs: count }),
  heartbeat: z.looseObject({ intervalMs: count, patienceMs: count, linkPatienceMs: count }),
  resync: z.looseObject({ bytesPerSecond: count }),
  options: z.array(text).max(MAX_LIST),
});

const entry = z.looseObject({
  version,
  spec,
  isWanted: z.boolean(),
  isPaused: z.boolean(),
  home: hostName,
  wish: z
    .looseObject({ kind: z.enum(['failover', 'migrate']), to: hostName.optional(), id: text })
    .optional(),
});

const view = z.looseObject({
  version,
  name: vmName,
  state: z.enum(VM_STATES),
  reason: text,
  sinceMs: z.number(),
  epoch: z.int().min(0),
  primary: hostName.nullable(),
  secondary: hostName.nullable(),
  copies: z
    .array(
      z.looseObject({
        host: hostName,
        role: z.enum(['alone', 'primary', 'secondary', 'joining', 'starting', 'idle']),
        pid: z.int().nullable(),
        resync: z.looseObject({ doneBytes: count, totalBytes: count }).optional(),
      }),
    )
    .max(MAX_LIST),
  isWanted: z.boolean(),
  isPaused: z.boolean(),
  memoryMiB: count,
  engine: text,
  checkpoints: z
    .looseObject({
      count,
      perSecond: count,
      byCause: z.record(z.string(), z.number()),
      lastPauseMs: z.number().nullable(),
      lastAtMs: z.number().nullable(),
    })
    .optional(),
  lastFailover: z.looseObject({ atMs: z.number(), from: text, to: text, reason: text }).optional(),
});

const host = z.looseObject({
  version,
  name: hostName,
  api: text,
  heartbeat: text,
  software: text,
  isAlive: z.boolean(),
  isInMaintenance: z.boolean(),
  memoryMiB: count,
  freeMemoryMiB: z.number(),
  vms: z.looseObject({ primary: count, secondary: count }),
  labels: z.record(z.string().max(128), z.string().max(256)).optional(),
});

/** What is kept of one kind. */
export interface Kind<T> {
  readonly word: string;
  readonly maxBytes: number;
  readonly schema: z.ZodType;
  nameOf(value: T): string;
}

export const ENTRY: Kind<VmEntry> = {
  word: 'entry',
  maxBytes: MAX_ENTRY_BYTES,
  schema: entry,
  nameOf: ({ spec: { name } }) => name,
};
export const VIEW: Kind<VmView> = {
  word: 'view',
  maxBytes: MAX_VIEW_BYTES,
  schema: view,
  nameOf: ({ name }) => name,
};
export const HOST: Kind<HostView> = {
  word: 'host',
  maxBytes: MAX_HOST_BYTES,
  schema: host,
  nameOf: ({ name }) => name,
};

/** Throws ParameterError. */
export function checkVmName(name: string): void {
  if (!VM_NAME.test(name)) {
    throw new ParameterError(
      `'${name.slice(0, 80)}' is no name of a VM: 1 to 63 of a-z, 0-9 and '-', beginning with a letter`,
    );
  }
}

/** Throws ParameterError. */
export function checkHostName(name: string): void {
  if (!HOST_NAME.test(name)) {
    throw new ParameterError(
      `'${name.slice(0, 80)}' is no name of a host: 1 to 63 of letters, digits, '.', '_' and '-'`,
    );
  }
}

/** Throws ParameterError for what may not be written. */
export function encode<T>(kind: Kind<T>, value: T): string {
  const checked = kind.schema.safeParse(value);
  if (!checked.success) {
    throw new ParameterError(`registry: this ${kind.word} is not valid: ${z.prettifyError(checked.error)}`);
  }
  const json = JSON.stringify(value);
  if (Buffer.byteLength(json) > kind.maxBytes) {
    throw new ParameterError(
      `registry: the ${kind.word} '${kind.nameOf(value)}' would have more than ${kind.maxBytes} bytes`,
    );
  }
  return json;
}

/** `where` names the file or the key. Throws RegistryDataError. */
export function decode<T>(kind: Kind<T>, json: string, name: string, where: string): T {
  if (Buffer.byteLength(json) > kind.maxBytes) throw damaged(kind, where, `more than ${kind.maxBytes} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw damaged(kind, where, messageOf(error), error);
  }
  const checked = kind.schema.safeParse(value);
  if (!checked.success) throw damaged(kind, where, z.prettifyError(checked.error), checked.error);
  const found = checked.data as T;
  if (kind.nameOf(found) !== name) throw damaged(kind, where, `it is that of '${kind.nameOf(found)}'`);
  return found;
}

function damaged(kind: Kind<never>, where: string, why: string, cause?: unknown): RegistryDataError {
  return new RegistryDataError(
    `${where}: not the ${kind.word} that it should be (${why}). Written by a newer program, or by hand?`,
    { cause },
  );
}

/** What of a view others act on; the rest are counters. */
export function outlineOf(of: VmView): string {
  const copies = of.copies.map(({ host: at, role, pid }) => [at, role, pid]);
  return JSON.stringify({ ...of, checkpoints: null, copies });
}

/** Hosts that a VM concerns. */
export function hostsOf(of: VmEntry | null, told: VmView | null): Set<string> {
  const found = new Set<string>();
  if (of) found.add(of.home);
  for (const name of [told?.primary, told?.secondary, ...(told?.copies ?? []).map(({ host: at }) => at)]) {
    if (typeof name === 'string') found.add(name);
  }
  return found;
}
