/**
 * Records at the border: what is written is checked before it is sent, what is read before it is believed. JSON, one
 * object, at most MAX_RECORD_BYTES. A record of a newer version is refused, not guessed at.
 */
import { z } from 'zod';
import { ParameterError, messageOf } from '../../base/errors.ts';
import { ArbiterRecordError, type ArbiterRecord, type Proposal } from './arbiter.ts';

/** Of a record as JSON. */
export const MAX_RECORD_BYTES = 16 * 1024;
/** Of a VM's name in UTF-8: escaped, it has to fit into a file name. */
export const MAX_VM_NAME_BYTES = 64;
/** Sides that may be members at once: more than a pair, for chains to come. */
const MAX_MEMBERS = 16;
const MAX_DATA_ENTRIES = 32;

const side = z.string().min(1).max(128);
const proposal = z.object({
  nonce: z.string().min(1).max(128),
  holder: side.nullable(),
  members: z.array(side).min(1).max(MAX_MEMBERS),
  data: z
    .record(z.string().min(1).max(64), z.string().max(1024))
    .refine((data) => Object.keys(data).length <= MAX_DATA_ENTRIES, `more than ${MAX_DATA_ENTRIES} entries`),
});
const record = proposal.extend({
  version: z.literal(1),
  vm: z.string().min(1),
  epoch: z.int().min(1),
});
const versioned = z.object({ version: z.int().min(1) });

/** Throws ParameterError for a name that no arbiter takes. */
export function checkVmName(vm: string): void {
  const bytes = Buffer.byteLength(vm);
  if (bytes < 1 || bytes > MAX_VM_NAME_BYTES || vm.includes('\0') || Buffer.from(vm).toString() !== vm) {
    throw new ParameterError(
      `arbiter: a VM's name has 1 to ${MAX_VM_NAME_BYTES} bytes of UTF-8 without NUL, '${vm.slice(0, 80)}' has not`,
    );
  }
}

/** Throws ParameterError for what may not be written. */
export function checkProposal(vm: string, next: Proposal): Proposal {
  checkVmName(vm);
  const checked = proposal.safeParse(next);
  if (!checked.success) {
    throw new ParameterError(
      `arbiter: the record of '${vm}' is not valid: ${z.prettifyError(checked.error)}`,
    );
  }
  if (next.holder !== null && !next.members.includes(next.holder)) {
    throw new ParameterError(`arbiter: the record of '${vm}': its holder ${next.holder} is not a member`);
  }
  encodeRecord({ version: 1, vm, epoch: Number.MAX_SAFE_INTEGER, ...checked.data });
  return checked.data;
}

export function encodeRecord(value: ArbiterRecord): string {
  const text = JSON.stringify(value);
  if (Buffer.byteLength(text) > MAX_RECORD_BYTES) {
    throw new ParameterError(
      `arbiter: the record of '${value.vm}' would have more than ${MAX_RECORD_BYTES} bytes`,
    );
  }
  return text;
}

/** `where` names the file or the key. Throws ArbiterRecordError. */
export function decodeRecord(text: string, vm: string, where: string): ArbiterRecord {
  if (Buffer.byteLength(text) > MAX_RECORD_BYTES) {
    throw new ArbiterRecordError(
      `${where}: more than ${MAX_RECORD_BYTES} bytes; no record of ours is that large`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(where, messageOf(error), error);
  }
  const version = versioned.safeParse(value);
  if (version.success && version.data.version > 1) {
    throw new ArbiterRecordError(
      `${where}: a record of version ${version.data.version}, and this program knows version 1; use a newer one`,
    );
  }
  const checked = record.safeParse(value);
  if (!checked.success) throw damaged(where, z.prettifyError(checked.error), checked.error);
  if (checked.data.vm !== vm) throw damaged(where, `it is the record of '${checked.data.vm}'`);
  const { holder, members } = checked.data;
  if (holder !== null && !members.includes(holder)) throw damaged(where, 'its holder is not a member');
  return checked.data;
}

function damaged(where: string, why: string, cause?: unknown): ArbiterRecordError {
  return new ArbiterRecordError(
    `${where}: not a record (${why}). Nobody can go on alone until it is put right by hand: ` +
      `see docs/arbiter.md, "A damaged record"`,
    { cause },
  );
}
