/**
 * JSON and text as qemu-img prints them: QEMU writes the members of an object in an order of its own, and so that both
 * say the same byte for byte, that order is kept here (asked of QEMU 7.2).
 */
export type Json = string | number | boolean | readonly Json[] | { readonly [key: string]: Json };

/** Every member that any of the commands prints, objects of one kind after the other. */
const ORDER = [
  // ImageCheck
  'image-end-offset',
  'compressed-clusters',
  'total-clusters',
  'corruptions',
  'corruptions-fixed',
  'check-errors',
  'leaks',
  'leaks-fixed',
  'allocated-clusters',
  // SnapshotInfo, Qcow2BitmapInfo
  'icount',
  'flags',
  'vm-clock-nsec',
  'name',
  'date-sec',
  'date-nsec',
  'granularity',
  'vm-clock-sec',
  'id',
  'vm-state-size',
  // QCryptoBlockInfoLUKS, with its `format` below, and its slots
  'ivgen-alg',
  'hash-alg',
  'cipher-alg',
  'uuid',
  'ivgen-hash-alg',
  'active',
  'iters',
  'key-offset',
  'stripes',
  // ImageInfo
  'backing-filename-format',
  'snapshots',
  'virtual-size',
  'filename',
  'cluster-size',
  'format',
  'cipher-mode',
  'slots',
  'payload-offset',
  'master-key-iters',
  'actual-size',
  'format-specific',
  'full-backing-filename',
  'encrypted',
  'backing-filename',
  'fragmented-clusters',
  'dirty-flag',
  // ImageInfoSpecificQCow2
  'type',
  'compat',
  'data',
  'compression-type',
  'lazy-refcounts',
  'bitmaps',
  'refcount-bits',
  'data-file',
  'encrypt',
  'data-file-raw',
  'corrupt',
  'extended-l2',
];
const RANK = new Map(ORDER.map((key, rank) => [key, rank]));

/** The same members in QEMU's order. */
export function ordered(object: Readonly<Record<string, Json>>): Record<string, Json> {
  const rank = (key: string): number => RANK.get(key) ?? ORDER.length;
  return Object.fromEntries(Object.entries(object).sort(([a], [b]) => rank(a) - rank(b)));
}

/** Indented by four, with an empty list on two lines. */
export function prettyJson(value: Json, indent = ''): string {
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    const items = (value as readonly Json[]).map((item) => inner + prettyJson(item, inner));
    return `[\n${items.join(',\n')}${items.length > 0 ? '\n' : ''}${indent}]`;
  }
  if (typeof value !== 'object') return JSON.stringify(value);
  const members = Object.entries(ordered(value as Record<string, Json>)).map(
    ([key, member]) => `${inner}${JSON.stringify(key)}: ${prettyJson(member, inner)}`,
  );
  return `{\n${members.join(',\n')}\n${indent}}`;
}

/** The lines below `Format specific information:`. */
export function indentedText(value: Json, indent: string): string[] {
  const entries: [string, Json][] = Array.isArray(value)
    ? (value as readonly Json[]).map((item, index) => [`[${index}]`, item])
    : Object.entries(ordered(value as Record<string, Json>)).map(([key, item]) => [
        key.replaceAll('-', ' '),
        item,
      ]);
  return entries.flatMap(([key, item]) =>
    typeof item === 'object'
      ? [`${indent}${key}:`, ...indentedText(item, `${indent}    `)]
      : [`${indent}${key}: ${String(item)}`],
  );
}
