/**
 * What the parts of a pair are called: the words of QEMU's docs/COLO-FT.txt for the first disk and the first NIC, and in
 * the same manner for the others. A replication's `top-id` is its guest disk's id: QEMU's own COLO needs it so.
 */

export interface DiskNames {
  /** The guest's disk, a quorum. */
  readonly disk: string;
  /** Secondary: the disk itself, which the primary writes to, and under which name it is exported. */
  readonly parent: string;
  /** Secondary: the replication node, the quorum's first child. */
  readonly child: string;
  /** Primary: the node that forwards writes. */
  readonly replication: string;
  readonly resyncJob: string;
}

export function diskNames(at: number): DiskNames {
  return {
    disk: `colo-disk${at}`,
    parent: `parent${at}`,
    child: `childs${at}`,
    replication: `replication${at}`,
    resyncJob: at === 0 ? 'resync' : `resync${at}`,
  };
}

export interface NicNames {
  readonly device: string;
  readonly netdev: string;
  /** Primary: chardevs towards the secondary, then both ends of the two connections with the comparer. */
  readonly mirrorChardev: string;
  readonly secondaryIn: string;
  readonly toComparer: string;
  readonly primaryIn: string;
  readonly fromComparer: string;
  readonly compareOut: string;
  /** Primary: filters, and the comparer with its thread. */
  readonly mirror: string;
  readonly fromComparerFilter: string;
  readonly toComparerFilter: string;
  readonly iothread: string;
  readonly comparer: string;
  /** Secondary: chardevs and filters. */
  readonly fromMirror: string;
  readonly toCompare: string;
  readonly fromMirrorFilter: string;
  readonly toCompareFilter: string;
  readonly rewriter: string;
}

export function nicNames(at: number): NicNames {
  const further = at === 0 ? '' : `-${at}`;
  return {
    device: `e${at}`,
    netdev: `hn${at}`,
    mirrorChardev: `mirror${at}`,
    secondaryIn: `compare${2 * at + 1}`,
    toComparer: `compare${2 * at}`,
    primaryIn: `compare${2 * at}-0`,
    fromComparer: `compare_out${further}`,
    compareOut: `compare_out0${further}`,
    mirror: `m${at}`,
    fromComparerFilter: `redire${2 * at}`,
    toComparerFilter: `redire${2 * at + 1}`,
    iothread: `iothread${at + 1}`,
    comparer: `comp${at}`,
    fromMirror: `red${2 * at}`,
    toCompare: `red${2 * at + 1}`,
    fromMirrorFilter: `f${2 * at + 1}`,
    toCompareFilter: `f${2 * at + 2}`,
    rewriter: `rew${at}`,
  };
}

/** Objects with the credentials of this host, where links between hosts are TLS. */
export const TLS_SERVER = 'tls-server';
export const TLS_CLIENT = 'tls-client';

/** The kernel's IFNAMSIZ, without the final zero. */
const MAX_IFNAME_BYTES = 15;

/**
 * The TAP device of a VM's NIC: readable where it fits, else with a hash. `tag` keeps apart what two nodes on one host
 * (in one network namespace) would call alike.
 */
export function tapName(vm: string, nic: number, tag = ''): string {
  const whole = `${vm}${tag === '' ? '' : `-${tag}`}.${nic}`;
  if (whole.length <= MAX_IFNAME_BYTES) return whole;
  const hash = hashOf(`${vm}\n${tag}`).toString(36);
  const end = `-${hash}.${nic}`;
  return vm.slice(0, MAX_IFNAME_BYTES - end.length) + end;
}

/** FNV-1a, 32 bits. Names only: nothing is safe because of it. */
export function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text, 'utf8')) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}
