/**
 * What the daemons of two hosts say to each other on the heartbeat channel, checked before anything is done with it.
 * JSON, members that are not known are left out, so that a newer daemon may say more. docs/failures.md.
 */
import { z } from 'zod';
import { ProtocolError } from '../../base/errors.ts';

/** Said in the hello, with the oldest that is still understood; two daemons talk if either understands the other. */
export const BEAT_VERSION = 1;
export const OLDEST_BEAT_VERSION = 1;

/** VMs in one beat, and hosts of which it says whether they are heard. */
export const MAX_BEAT_VMS = 1024;
export const MAX_BEAT_HOSTS = 1024;

/**
 * How a VM's process is, as its own host sees it. `stopped`: by a signal or a debugger, says the kernel; `mute`: its
 * monitor does not answer within the patience; `unknown`: its monitor has not answered yet.
 */
export const CONDITIONS = ['alive', 'stopped', 'mute', 'dead', 'unknown'] as const;
export type Condition = (typeof CONDITIONS)[number];

/** Of a process, by the kernel: R and S; T and t; D; Z and X, or no such process. */
export const PROCESS_STATES = ['running', 'stopped', 'waiting', 'gone', 'unknown'] as const;
export type ProcessState = (typeof PROCESS_STATES)[number];

const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const hostName = z.string().min(1).max(253);

const vmBeat = z.object({
  name: z.string().min(1).max(63),
  /** null: it never had one under this daemon. */
  pid: count.nullable(),
  condition: z.enum(CONDITIONS).catch('unknown'),
  state: z.enum(PROCESS_STATES).catch('unknown'),
  /** Milliseconds since its monitor last answered; null: it never has. */
  answerMs: z.number().nonnegative().nullable(),
  /** Of the side (src/ha/side.ts), and the epoch that its copy belongs to. */
  phase: z.string().max(32),
  epoch: count,
});
export type VmBeat = Readonly<z.infer<typeof vmBeat>>;

const hello = z.object({
  kind: z.literal('hello'),
  version: count,
  oldest: count,
  host: hostName,
  /** Of one run of the daemon: another one has started since if it differs. */
  instance: z.string().min(1).max(64),
});
export type Hello = Readonly<z.infer<typeof hello>>;

const beat = z.object({
  kind: z.literal('beat'),
  /** Every VM that the sender has a process of, as far as it concerns the receiver. */
  vms: z.array(vmBeat).max(MAX_BEAT_VMS),
  /** Hosts whose heartbeats the sender hears, and those that it should and does not. */
  hears: z.array(hostName).max(MAX_BEAT_HOSTS),
  misses: z.array(hostName).max(MAX_BEAT_HOSTS),
});
export type Beat = Readonly<z.infer<typeof beat>>;

/** One VM has changed: said at once. */
const change = z.object({ kind: z.literal('change'), vm: vmBeat });
/** The daemon ends on purpose; its VMs may go on. */
const bye = z.object({ kind: z.literal('bye') });

const message = z.discriminatedUnion('kind', [hello, beat, change, bye]);
export type BeatMessage = Readonly<z.infer<typeof message>>;

/** null: a kind that a newer daemon may say and this one does not know. Throws ProtocolError. */
export function parseMessage(text: string): BeatMessage | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError('heartbeat: a message that is not JSON', { cause });
  }
  const result = message.safeParse(value);
  if (result.success) return result.data;
  const kind: unknown = (value as { kind?: unknown } | null)?.kind;
  if (typeof kind === 'string' && !['hello', 'beat', 'change', 'bye'].includes(kind)) return null;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    `heartbeat: a malformed message (${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''})`,
  );
}

/** Whether the two understand each other, and why not. */
export function versionTrouble(own: Hello, peer: Hello): string | null {
  if (peer.version >= own.oldest && own.version >= peer.oldest) return null;
  return `its heartbeat has version ${peer.version}, this host's is ${own.version}: upgrade one of them`;
}
