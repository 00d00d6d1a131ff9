/**
 * Writes a "newc" cpio archive (the Linux kernel's initramfs format, Documentation/driver-api/early-userspace/
 * buffer-format.rst), the same bytes for the same entries.
 *
 * It does not read archives, follows no hard links and takes nothing from the host's file system: owner, time and
 * inode numbers are fixed here, so that the user, the umask and the day of the build leave no trace.
 */

/** One thing in the archive. Paths are relative, without a leading slash. */
export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'file'; readonly path: string; readonly data: Uint8Array; readonly mode?: number }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'char-device';
      readonly path: string;
      readonly major: number;
      readonly minor: number;
      readonly mode?: number;
    };

const MAGIC = '070701';
const TYPE_BITS = {
  directory: 0o040000,
  file: 0o100000,
  symlink: 0o120000,
  'char-device': 0o020000,
} as const;
const DEFAULT_MODE = { directory: 0o755, file: 0o644, symlink: 0o777, 'char-device': 0o600 } as const;
/** The kernel reads initramfs images in blocks; archives conventionally end on a 512 byte border. */
const ARCHIVE_ALIGN = 512;

/** Builds the archive. Entries are sorted by path and missing parent directories are added. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const byPath = new Map<string, CpioEntry>();
  for (const entry of entries) {
    for (const parent of parentsOf(entry.path)) {
      if (!byPath.has(parent)) byPath.set(parent, { kind: 'directory', path: parent });
    }
    byPath.set(entry.path, entry);
  }
  // Plain code-unit order puts each directory before what is in it, whatever the host's locale.
  const sorted = [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  const parts: Uint8Array[] = [];
  let inode = 1;
  for (const entry of sorted) {
    const mode =
      TYPE_BITS[entry.kind] | (entry.kind === 'symlink' ? 0o777 : (entry.mode ?? DEFAULT_MODE[entry.kind]));
    const data =
      entry.kind === 'file' ? entry.data : Buffer.from(entry.kind === 'symlink' ? entry.target : '', 'utf8');
    const device: readonly [number, number] =
      entry.kind === 'char-device' ? [entry.major, entry.minor] : [0, 0];
    parts.push(header(entry.path, inode, mode, entry.kind === 'directory' ? 2 : 1, data.length, device));
    parts.push(data, padding(data.length, 4));
    inode += 1;
  }
  parts.push(header('TRAILER!!!', 0, 0, 1, 0, [0, 0]));
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  parts.push(padding(length, ARCHIVE_ALIGN));
  return Buffer.concat(parts);
}

function header(
  path: string,
  inode: number,
  mode: number,
  links: number,
  size: number,
  device: readonly [number, number],
): Uint8Array {
  const name = Buffer.from(`${path}\0`, 'utf8');
  // inode, mode, uid, gid, nlink, mtime, filesize, dev major/minor, rdev major/minor, namesize, check
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device[0], device[1], name.length, 0];
  const text = MAGIC + fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  const head = Buffer.concat([Buffer.from(text, 'latin1'), name]);
  return Buffer.concat([head, padding(head.length, 4)]);
}

function padding(length: number, align: number): Uint8Array {
  return new Uint8Array((align - (length % align)) % align);
}

function parentsOf(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_, at) => parts.slice(0, at + 1).join('/'));
}
