/**
 * Which user of this machine a loopback connection comes from: the kernel's table of TCP sockets, proc(5) /proc/net/tcp,
 * tells the user that made each socket, the other end's among them. Only an established one counts: of sockets that are
 * being closed the table says 0, whoever made them.
 */
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { isIP } from 'node:net';

const ESTABLISHED = '01';
/** What users without a name in this user namespace are shown as (user_namespaces(7)): nobody in particular. */
const OVERFLOW_UID = 65534;

/** Null: it cannot be told. */
export async function uidOfPeer(socket: Socket): Promise<number | null> {
  const { remoteAddress, remotePort, localAddress, localPort } = socket;
  if (!remoteAddress || !remotePort || !localAddress || !localPort) return null;
  // A dual-stack listener names an IPv4 peer in IPv6; the peer's own socket may be of either kind.
  const wanted = new Set<string>();
  for (const toText of [procAddress4, procAddress6]) {
    const [peer, here] = [toText(remoteAddress), toText(localAddress)];
    if (peer !== null && here !== null)
      wanted.add(`${peer}:${hexPort(remotePort)} ${here}:${hexPort(localPort)}`);
  }
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
    const text = await readFile(table, 'latin1').catch(() => '');
    for (const line of text.split('\n')) {
      // sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode
      const [, local = '', remote = '', state, , , , uid] = line.trim().split(/\s+/);
      if (state !== ESTABLISHED || !wanted.has(`${local} ${remote}`)) continue;
      const number = Number(uid);
      return Number.isInteger(number) && number !== OVERFLOW_UID ? number : null;
    }
  }
  return null;
}

function hexPort(port: number): string {
  return port.toString(16).toUpperCase().padStart(4, '0');
}

/** The address's four bytes as one number of the machine's byte order (x86, ARM: the last byte first). Null: not IPv4. */
function procAddress4(address: string): string | null {
  const plain = address.replace(/^::ffff:/i, '');
  return isIP(plain) === 4 ? hexWord(plain.split('.').map(Number)) : null;
}

/** Four such numbers; an IPv4 address as `::ffff:a.b.c.d`. Of IPv6 only the loopback address is asked for. */
function procAddress6(address: string): string | null {
  const zero = '00000000';
  if (address === '::1') return zero + zero + zero + hexWord([0, 0, 0, 1]);
  const inner = procAddress4(address);
  return inner === null ? null : zero + zero + hexWord([0, 0, 0xff, 0xff]) + inner;
}

function hexWord(bytes: readonly number[]): string {
  return [...bytes]
    .reverse()
    .map((byte) => byte.toString(16).toUpperCase().padStart(2, '0'))
    .join('');
}
