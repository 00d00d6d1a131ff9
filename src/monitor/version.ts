/**
 * The version that the greeting and query-version tell. Managers choose their spellings by it; ours takes the old and
 * the new ones, so it names the newest QEMU whose COLO commands are all understood.
 */
export const QEMU_VERSION = {
  qemu: { major: 7, minor: 2, micro: 0 },
  package: 'colo-ft',
} as const;
