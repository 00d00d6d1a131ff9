/**
 * What the LUKS header inside an encrypted qcow2 image says in clear: ciphers, iterations, key slots; no key is looked
 * for. Source: QEMU docs/interop/qcow2.rst (full disk encryption header pointer), the LUKS1 on-disk format.
 */
import { getUint64, viewOf } from '../../block/drivers/qcow2/format.ts';
import { Qcow2Error } from '../../block/drivers/qcow2/header.ts';
import type { HeaderExtension } from '../../block/drivers/qcow2/header.ts';
import type { BlockNode } from '../../block/node.ts';
import type { Json } from './info-json.ts';

const EXT_ENCRYPTION = 0x0537be77;
const HEADER_BYTES = 592;
const MAGIC = 'LUKS\xba\xbe';
const SLOTS_AT = 208;
const SLOT_BYTES = 48;
const SLOTS = 8;
const SLOT_ENABLED = 0x00ac71f3;
const SECTOR = 512;

/** As qemu-img tells it (QEMU qapi/crypto.json: QCryptoBlockInfoLUKS). Throws Qcow2Error, IoError. */
export async function readLuks(
  file: BlockNode,
  extensions: readonly HeaderExtension[],
): Promise<Record<string, Json>> {
  const pointer = extensions.find(({ type }) => type === EXT_ENCRYPTION);
  if (!pointer || pointer.data.byteLength < 16) throw new Qcow2Error('LUKS header pointer is missing');
  const offset = getUint64(viewOf(pointer.data), 0);
  if (!(offset + HEADER_BYTES <= file.lengthBytes)) throw new Qcow2Error('LUKS header offset is invalid');
  const bytes = new Uint8Array(HEADER_BYTES);
  await file.read(offset, bytes);
  const view = viewOf(bytes);
  const text = (at: number, length: number): string =>
    Buffer.from(bytes.subarray(at, at + length))
      .toString('latin1')
      .split('\0')[0] ?? '';
  if (!text(0, 6).startsWith(MAGIC)) throw new Qcow2Error('Volume is not in LUKS format');
  const [cipher, mode, keyBytes] = [text(8, 32), text(40, 32), view.getUint32(108)];
  // `xts-plain64`, `cbc-essiv:sha256`. XTS has two keys in one.
  const [cipherMode = '', iv = ''] = mode.split('-');
  const [ivAlgorithm = '', ivHash] = iv.split(':');
  const bits = (keyBytes * 8) / (cipherMode === 'xts' ? 2 : 1);
  return {
    format: 'luks',
    'cipher-alg': `${cipher}-${bits}`,
    'cipher-mode': cipherMode,
    'ivgen-alg': ivAlgorithm,
    ...(ivHash === undefined ? {} : { 'ivgen-hash-alg': ivHash }),
    'hash-alg': text(72, 32),
    uuid: text(168, 40),
    'payload-offset': view.getUint32(104) * SECTOR,
    'master-key-iters': view.getUint32(164),
    slots: Array.from({ length: SLOTS }, (_, index) => {
      const at = SLOTS_AT + index * SLOT_BYTES;
      const active = view.getUint32(at) === SLOT_ENABLED;
      return {
        active,
        'key-offset': view.getUint32(at + 40) * SECTOR,
        ...(active ? { iters: view.getUint32(at + 4), stripes: view.getUint32(at + 44) } : {}),
      };
    }),
  };
}
