/**
 * What one host tells about itself when it is asked whether a VM could be carried there: plain JSON, gathered by
 * gather.ts without touching anything, judged by check.ts. A `trouble` is a sentence that the host found itself; null: all
 * is well.
 */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';

export const FACTS_VERSION = 1;

const trouble = z.string().max(2000).nullable();
const bytes = z.number().min(0);

const hostFacts = z.object({
  version: z.number().int(),
  host: z.string().max(63),
  /** Of this program. */
  software: z.string().max(100),
  /** Its address for other hosts; and what is the same for two nodes on one machine. */
  address: z.string().max(300),
  machine: z.string().max(100),
  cpuModel: z.string().max(200),
  /** Its clock, milliseconds since 1970, when the facts were sent. */
  clockMs: z.number(),
  isSecure: z.boolean(),
  tls: trouble,
  /** Available on the host, and what is left of what the node may give to guests. */
  availableMiB: bytes,
  guestsMiB: bytes,
  /** One for each disk of the spec; null: it is to be empty. */
  images: z
    .array(
      z
        .object({
          format: z.string().max(20),
          virtualBytes: bytes,
          actualBytes: bytes,
          trouble,
        })
        .nullable(),
    )
    .max(64),
  /** It has disks of this VM already. */
  hasDisks: z.boolean(),
  state: z.object({ freeBytes: bytes, trouble }),
  run: trouble,
  /** Free ones of the range for links, no more than were looked for. */
  ports: z.object({ free: z.number().int().min(0), trouble }),
  /** One for each NIC of the spec. */
  cables: z.array(trouble).max(64),
  engine: z.object({
    /** Of the QEMU, null for the embedded engine or when there is none. */
    version: z.string().max(200).nullable(),
    trouble,
    /** Models of NICs of the spec that it has not. */
    unknownModels: z.array(z.string().max(100)).max(64),
  }),
  arbiter: trouble,
});

export type HostFacts = z.infer<typeof hostFacts>;

/** Facts as another host has sent them. Throws ParameterError. */
export function parseHostFacts(value: unknown): HostFacts {
  const parsed = hostFacts.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ParameterError(`facts of a host: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
}

/** TCP ports of one host for one VM: a secondary's two, and two for each NIC when it is the primary. */
export function portsNeeded(nics: number): number {
  return 2 + 2 * nics;
}
