/** Refcount block entries of 1 to 64 bits (refcount_order 0 to 6), as pure functions. Source: qcow2.rst, refcounts. */
import { Qcow2Error } from './header.ts';
import { getUint64, setUint64, viewOf } from './format.ts';

export interface RefcountCodec {
  readonly bits: number;
  /** The largest count (capped to safe integers). */
  readonly max: number;
  get(block: DataView, index: number): number;
  set(block: DataView, index: number, count: number): void;
  /** The bytes [from, to) that hold the entries [first, last]. */
  span(first: number, last: number): { from: number; to: number };
}

/** The codec of a refcount_order from 0 to 6. Throws Qcow2Error. */
export function refcountCodec(order: number): RefcountCodec {
  const bits = 2 ** order;
  const span = (first: number, last: number): { from: number; to: number } => ({
    from: Math.floor((first * bits) / 8),
    to: Math.floor((last * bits + bits - 1) / 8) + 1,
  });
  if (order < 3) return subByteCodec(bits, span);
  if (order === 3) {
    return { bits, max: 255, span, get: (v, i) => v.getUint8(i), set: (v, i, n) => v.setUint8(i, n) };
  }
  if (order === 4) {
    return {
      bits,
      max: 65535,
      span,
      get: (v, i) => v.getUint16(i * 2),
      set: (v, i, n) => v.setUint16(i * 2, n),
    };
  }
  if (order === 5) {
    return {
      bits,
      max: 2 ** 32 - 1,
      span,
      get: (v, i) => v.getUint32(i * 4),
      set: (v, i, n) => v.setUint32(i * 4, n),
    };
  }
  if (order !== 6) throw new Qcow2Error('Reference count entry width too large; may not exceed 64 bits');
  const max = Number.MAX_SAFE_INTEGER;
  return {
    bits,
    max,
    span,
    get: (v, i) => {
      const count = getUint64(v, i * 8);
      return Number.isNaN(count) ? max : count;
    },
    set: (v, i, n) => setUint64(v, i * 8, n),
  };
}

/** Entries smaller than a byte: the lower bits of a byte belong to the lower index. */
function subByteCodec(bits: number, span: RefcountCodec['span']): RefcountCodec {
  const perByte = 8 / bits;
  const max = 2 ** bits - 1;
  return {
    bits,
    max,
    span,
    get: (view, index) => (view.getUint8(Math.floor(index / perByte)) >> ((index % perByte) * bits)) & max,
    set: (view, index, count) => {
      const at = Math.floor(index / perByte);
      const shift = (index % perByte) * bits;
      view.setUint8(at, (view.getUint8(at) & ~(max << shift)) | (count << shift));
    },
  };
}

/** Decodes a refcount table. Entries that are unaligned or beyond the safe integers give NaN. */
export function decodeRefcountTable(bytes: Uint8Array, clusterBytes: number): number[] {
  const view = viewOf(bytes);
  return Array.from({ length: bytes.byteLength / 8 }, (_, index) => {
    const offset = getUint64(view, index * 8);
    return offset % clusterBytes === 0 ? offset : NaN;
  });
}
