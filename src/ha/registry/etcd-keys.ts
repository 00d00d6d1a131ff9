/**
 * etcd as the registry uses it: ranges in pages, transactions, leases, one watch. Over the same client as the arbiter
 * (JSON gateway: keys and values in base64, 64-bit numbers as strings, members that are zero left out). Errors are the
 * registry's.
 */
import { z } from 'zod';
import { ArbiterUnreachableError } from '../arbiter/arbiter.ts';
import type { EtcdClient } from '../arbiter/etcd-client.ts';
import { RegistryUnreachableError } from './registry.ts';

const digits = z.string().regex(/^-?\d{1,20}$/);
const pair = z.object({ key: z.string(), value: z.string().default(''), mod_revision: digits });
const header = z.object({ revision: digits });
const range = z.object({ kvs: z.array(pair).default([]), more: z.boolean().default(false) });
const rangeAnswer = range.extend({ header });
const txnAnswer = z.object({
  succeeded: z.boolean().default(false),
  header,
  responses: z.array(z.object({ response_range: range.partial().optional() })).default([]),
});
const lease = z.object({ ID: digits, TTL: digits.default('0') });
const kept = z.object({ result: z.object({ TTL: digits.default('0') }) });
const anything = z.object({});
const event = z.object({
  result: z.object({
    created: z.boolean().default(false),
    canceled: z.boolean().default(false),
    events: z.array(z.unknown()).default([]),
  }),
});

/** Values of a page, by what one can have at most: so that an answer stays below the client's limit. */
const PAGE_BYTES = 2 * 1024 * 1024;
/** etcd's default --max-txn-ops. */
export const MAX_TXN_OPS = 128;

export interface Found {
  readonly key: string;
  readonly value: string;
  readonly revision: string;
}

export type Compare =
  | { readonly key: string; readonly isRevision: string }
  /** There is such a key. */
  | { readonly key: string; readonly isThere: true };

export type Op =
  | { readonly put: string; readonly value: string; readonly lease?: string }
  | { readonly remove: string }
  | { readonly get: string };

export interface TxnResult {
  readonly isDone: boolean;
  /** Revision of the store after it; of every key that it has put. */
  readonly revision: string;
  /** For each `get` among the operations that were carried out, in order. */
  readonly got: readonly (Found | null)[];
}

export class EtcdKeys {
  readonly #client: EtcdClient;

  constructor(client: EtcdClient) {
    this.#client = client;
  }

  async get(key: string): Promise<Found | null> {
    const answer = await this.#post('/v3/kv/range', { key: base64(key) }, rangeAnswer);
    return answer.kvs.map(decodePair)[0] ?? null;
  }

  /** Everything below a prefix, by key, all of one revision. */
  async list(
    prefix: string,
    options: { readonly maxValueBytes: number } | { readonly isKeysOnly: true },
  ): Promise<Found[]> {
    const isKeysOnly = 'isKeysOnly' in options;
    const limit = Math.max(1, Math.floor(PAGE_BYTES / (isKeysOnly ? 256 : options.maxValueBytes)));
    const found: Found[] = [];
    let key = base64(prefix);
    let revision: string | undefined;
    for (;;) {
      const page = await this.#post(
        '/v3/kv/range',
        {
          key,
          range_end: base64(endOf(prefix)),
          limit: String(limit),
          ...(isKeysOnly ? { keys_only: true } : {}),
          ...(revision === undefined ? {} : { revision }),
        },
        rangeAnswer,
      );
      found.push(...page.kvs.map(decodePair));
      const last = found.at(-1);
      if (!page.more || page.kvs.length === 0 || !last) return found;
      revision = page.header.revision;
      key = base64(`${last.key}\0`);
    }
  }

  /** Several keys, as many transactions as etcd wants for that. */
  async getMany(keys: readonly string[], maxValueBytes: number): Promise<(Found | null)[]> {
    const found: (Found | null)[] = [];
    const step = Math.max(1, Math.min(MAX_TXN_OPS, Math.floor(PAGE_BYTES / maxValueBytes)));
    for (let at = 0; at < keys.length; at += step) {
      const part = keys.slice(at, at + step).map((get) => ({ get }));
      found.push(...(await this.txn([], part, [])).got);
    }
    return found;
  }

  async txn(compare: readonly Compare[], then: readonly Op[], otherwise: readonly Op[]): Promise<TxnResult> {
    const answer = await this.#post(
      '/v3/kv/txn',
      {
        compare: compare.map(encodeCompare),
        success: then.map(encodeOp),
        failure: otherwise.map(encodeOp),
      },
      txnAnswer,
    );
    const done = answer.succeeded ? then : otherwise;
    const got = done.flatMap((op, at) => {
      if (!('get' in op)) return [];
      const there = answer.responses[at]?.response_range?.kvs?.[0];
      return [there ? decodePair(there) : null];
    });
    return { isDone: answer.succeeded, revision: answer.header.revision, got };
  }

  /** A lease that runs out `seconds` after it was last kept alive. */
  async grant(seconds: number): Promise<string> {
    return (await this.#post('/v3/lease/grant', { TTL: String(seconds) }, lease)).ID;
  }

  /** False: it has run out. */
  async keepAlive(id: string): Promise<boolean> {
    const answer = await this.#post('/v3/lease/keepalive', { ID: id }, kept);
    return Number(answer.result.TTL) > 0;
  }

  async revoke(id: string): Promise<void> {
    await this.#post('/v3/lease/revoke', { ID: id }, anything);
  }

  /**
   * Until the connection ends: `onChange` when the watch is set up and at each change below the prefix. No values are sent
   * beyond what etcd sends of itself; the caller reads what it wants to know.
   */
  async watch(prefix: string, onChange: () => void, signal: AbortSignal): Promise<void> {
    const body = { create_request: { key: base64(prefix), range_end: base64(endOf(prefix)) } };
    await translate(
      this.#client.follow(
        '/v3/watch',
        body,
        (line) => {
          const said = event.safeParse(line);
          if (!said.success || said.data.result.canceled) {
            throw new RegistryUnreachableError(`etcd: the watch of ${prefix} has been ended`);
          }
          const { created, events } = said.data.result;
          if (created || events.length > 0) onChange();
        },
        signal,
      ),
    );
  }

  async #post<T>(path: string, body: unknown, schema: z.ZodType<T>): Promise<T> {
    return translate(this.#client.post(path, body, schema));
  }
}

async function translate<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    if (!(error instanceof ArbiterUnreachableError)) throw error;
    throw new RegistryUnreachableError(`registry: ${error.message}`, { cause: error });
  }
}

function encodeCompare(of: Compare): object {
  const key = base64(of.key);
  return 'isThere' in of
    ? { key, target: 'CREATE', result: 'GREATER', create_revision: '0' }
    : { key, target: 'MOD', result: 'EQUAL', mod_revision: of.isRevision };
}

function encodeOp(op: Op): object {
  if ('put' in op) {
    const onLease = op.lease === undefined ? {} : { lease: op.lease };
    return { requestPut: { key: base64(op.put), value: base64(op.value), ...onLease } };
  }
  if ('remove' in op) return { requestDeleteRange: { key: base64(op.remove) } };
  return { requestRange: { key: base64(op.get) } };
}

function decodePair({ key, value, mod_revision }: z.infer<typeof pair>): Found {
  return { key: text(key), value: text(value), revision: mod_revision };
}

/** The first key after all that begin with a prefix. Prefixes end in '/'. */
function endOf(prefix: string): string {
  return `${prefix.slice(0, -1)}0`;
}

function base64(plain: string): string {
  return Buffer.from(plain).toString('base64');
}

function text(encoded: string): string {
  return Buffer.from(encoded, 'base64').toString();
}
