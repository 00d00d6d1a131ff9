/**
 * A VmSpec as JSON: from the registry, from another host. It was made by this software or by a neighbour's version of it,
 * so that members which are not known are left out; what is known is checked, as everything from outside.
 */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';
import { contradictionsOf } from './rules.ts';
import {
  ABSOLUTE_PATH,
  HOST_NAME,
  IFNAME,
  MAC,
  MAX_CPUS,
  MAX_DISKS,
  MAX_DISK_BYTES,
  MAX_DURATION_MS,
  MAX_HOSTS,
  MAX_INTERVAL_MS,
  MAX_MEMORY_MIB,
  MAX_NICS,
  MAX_OPTIONS,
  MAX_PATIENCE_MS,
  MAX_RATE,
  MIN_DISK_BYTES,
  MIN_HEARTBEAT_MS,
  NIC_MODEL,
  SECTOR_BYTES,
  SWITCH_ADDRESS,
  VM_NAME,
} from './vm-limits.ts';
import type { TextRule } from './section.ts';
import { VM_DISPLAYS, VM_ENGINES, VM_SPEC_VERSION } from './vm-spec.ts';
import type { VmSpec } from './vm-spec.ts';

const text = ({ pattern, is }: TextRule) => z.string().regex(pattern, { error: `has to be ${is}` });
const plain = z
  .string()
  .min(1)
  .max(4096)
  .refine((value) => !value.includes('\0'));
const whole = (least: number, most: number) => z.number().int().min(least).max(most);
const duration = whole(0, MAX_DURATION_MS);

const edge = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('bridge'), bridge: text(IFNAME) }),
  z.object({ kind: z.literal('tap'), ifname: text(IFNAME) }),
  z.object({ kind: z.literal('switch'), address: text(SWITCH_ADDRESS) }),
]);

const vmSpec = z.object({
  version: whole(VM_SPEC_VERSION - 1, VM_SPEC_VERSION + 1),
  name: text(VM_NAME),
  engine: z.enum(VM_ENGINES),
  qemu: plain.exactOptional(),
  display: z.enum(VM_DISPLAYS).exactOptional(),
  cpus: whole(1, MAX_CPUS),
  memoryMiB: whole(1, MAX_MEMORY_MIB),
  disks: z
    .array(
      z.object({
        id: z.string(),
        image: text(ABSOLUTE_PATH).exactOptional(),
        sizeBytes: whole(MIN_DISK_BYTES, MAX_DISK_BYTES).multipleOf(SECTOR_BYTES).exactOptional(),
        interface: z.enum(['ide', 'virtio', 'scsi']),
      }),
    )
    .min(1)
    .max(MAX_DISKS),
  nics: z.array(z.object({ id: z.string(), mac: text(MAC), model: text(NIC_MODEL), edge })).max(MAX_NICS),
  hosts: z.array(text(HOST_NAME)).max(MAX_HOSTS),
  checkpoint: z.object({ maxDelayMs: whole(1, MAX_DURATION_MS) }),
  heartbeat: z.object({
    intervalMs: whole(MIN_HEARTBEAT_MS, MAX_INTERVAL_MS),
    patienceMs: whole(MIN_HEARTBEAT_MS, MAX_PATIENCE_MS),
    linkPatienceMs: duration,
  }),
  resync: z.object({ bytesPerSecond: whole(0, MAX_RATE) }),
  options: z.array(plain).max(MAX_OPTIONS),
});

/** Throws ParameterError naming the first member that is wrong. */
export function parseVmSpec(value: unknown): VmSpec {
  const parsed = vmSpec.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new ParameterError(`VM description: ${pathText(issue?.path ?? [])}: ${issue?.message ?? ''}`);
  }
  const spec: VmSpec = { ...parsed.data, version: VM_SPEC_VERSION };
  for (const [list, word] of [
    [spec.disks, 'disk'],
    [spec.nics, 'nic'],
  ] as const) {
    for (const [at, { id }] of list.entries()) {
      if (id !== `${word}${at}`)
        throw new ParameterError(`VM description: ${word}s[${at}].id: '${word}${at}' is due`);
    }
  }
  const [contradiction] = contradictionsOf(spec);
  if (contradiction)
    throw new ParameterError(`VM description: ${contradiction.path}: ${contradiction.message}`);
  return spec;
}

function pathText(path: readonly PropertyKey[]): string {
  return path
    .map((step, at) => (typeof step === 'number' ? `[${step}]` : `${at === 0 ? '' : '.'}${String(step)}`))
    .join('');
}
