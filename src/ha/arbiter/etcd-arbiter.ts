/**
 * The arbiter in an etcd v3 cluster: one key a VM, replaced by a transaction that compares the key's mod_revision. Reads
 * are linearizable (etcd's default), so none is older than a swap that was won. A transaction whose answer was lost is
 * sent again: whether the first was carried out shows in the nonce of what is there then. No leases, no elections, no
 * clocks: what stands in the key stands until somebody swaps it.
 */
import { z } from 'zod';
import {
  ArbiterUnreachableError,
  judge,
  type Arbiter,
  type ArbiterRecord,
  type Proposal,
  type RecordId,
  type SwapResult,
} from './arbiter.ts';
import { EtcdClient, type EtcdOptions } from './etcd-client.ts';
import { ReadingWatch } from './reading-watch.ts';
import { checkProposal, checkVmName, decodeRecord, encodeRecord } from './record.ts';

const WATCH_MS = 1_000;
const DEFAULT_PREFIX = '/colo';
/** A key that changes hands between a read and a swap is looked at again so often. */
const MAX_LOOKS = 8;

const number = z.string().regex(/^\d{1,20}$/);
const entry = z.object({ value: z.string(), mod_revision: number });
const range = z.object({ kvs: z.array(entry).max(1).optional() });
const txn = z.object({
  succeeded: z.boolean().optional(),
  responses: z.array(z.object({ response_range: range.optional() })).optional(),
});
const status = z.object({ header: z.object({ cluster_id: number }) });

/** What stands in a key; revision 0: nothing. */
interface Found {
  readonly record: ArbiterRecord | null;
  readonly revision: string;
}

export class EtcdArbiter implements Arbiter {
  readonly #client: EtcdClient;
  readonly #prefix: string;
  readonly #watch: ReadingWatch;

  constructor(options: EtcdOptions & { readonly watchMs?: number }) {
    this.#client = new EtcdClient(options);
    this.#prefix = `${options.prefix ?? DEFAULT_PREFIX}/vms/`;
    this.#watch = new ReadingWatch((vm) => this.read(vm), options.watchMs ?? WATCH_MS);
  }

  async identity(): Promise<string> {
    // Any linearizable read has the cluster's id in its header.
    const { header } = await this.#client.post('/v3/kv/range', { key: base64(this.#prefix) }, status);
    return `etcd:${header.cluster_id}${this.#prefix}`;
  }

  async read(vm: string): Promise<ArbiterRecord | null> {
    checkVmName(vm);
    return (await this.#find(vm)).record;
  }

  create(vm: string, first: Proposal): Promise<SwapResult> {
    return this.#replace(vm, null, first);
  }

  swap(vm: string, expected: RecordId, next: Proposal): Promise<SwapResult> {
    return this.#replace(vm, expected, next);
  }

  watch(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void {
    checkVmName(vm);
    return this.#watch.add(vm, onChange);
  }

  async close(): Promise<void> {
    this.#watch.close();
    this.#client.close();
    await Promise.resolve();
  }

  async #replace(vm: string, expected: RecordId | null, proposed: Proposal): Promise<SwapResult> {
    const next = checkProposal(vm, proposed);
    let found = await this.#find(vm).catch((error: unknown) => {
      // It was a read that may have arrived.
      if (!(error instanceof ArbiterUnreachableError)) throw error;
      throw new ArbiterUnreachableError(error.message, false, { cause: error });
    });
    for (let look = 0; ; look++) {
      const { isNew, ...result } = judge(vm, found.record, expected, next);
      if (!isNew || result.outcome === 'lost') return result;
      const key = base64(this.#keyOf(vm));
      const answer = await this.#client.post(
        '/v3/kv/txn',
        {
          compare: [{ key, target: 'MOD', result: 'EQUAL', mod_revision: found.revision }],
          success: [{ requestPut: { key, value: base64(encodeRecord(result.record)) } }],
          failure: [{ requestRange: { key } }],
        },
        txn,
      );
      if (answer.succeeded === true) return result;
      found = this.#decode(vm, answer.responses?.[0]?.response_range ?? {});
      // The record itself cannot come back; a key that is deleted and made again by hand could, for ever.
      if (look >= MAX_LOOKS) return { outcome: 'lost', current: found.record };
    }
  }

  async #find(vm: string): Promise<Found> {
    const key = base64(this.#keyOf(vm));
    return this.#decode(vm, await this.#client.post('/v3/kv/range', { key }, range));
  }

  #decode(vm: string, { kvs }: z.infer<typeof range>): Found {
    const there = kvs?.[0];
    if (!there) return { record: null, revision: '0' };
    const text = Buffer.from(there.value, 'base64').toString();
    return {
      record: decodeRecord(text, vm, `etcd key ${this.#keyOf(vm)}`),
      revision: there.mod_revision,
    };
  }

  #keyOf(vm: string): string {
    return this.#prefix + encodeURIComponent(vm);
  }
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}
