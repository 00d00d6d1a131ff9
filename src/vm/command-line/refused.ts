/**
 * QEMU's options that this program knows by name and refuses, with the way out where there is one. Telling them from
 * typing errors spares the reader a search. Names: QEMU 7.2's -help.
 */
const NO_DIRECT_BOOT = 'the guest boots from its disk; `colo guest` makes one with a kernel on it';
const NO_REMOVABLE = 'the v86 engine has two IDE disks and nothing else; use -drive or -hda';

const REASONS: ReadonlyMap<string, string> = new Map([
  ['kernel', NO_DIRECT_BOOT],
  ['initrd', NO_DIRECT_BOOT],
  ['append', NO_DIRECT_BOOT],
  ['dtb', NO_DIRECT_BOOT],
  ['cdrom', NO_REMOVABLE],
  ['hdc', NO_REMOVABLE],
  ['hdd', NO_REMOVABLE],
  ['fda', NO_REMOVABLE],
  ['fdb', NO_REMOVABLE],
  ['sd', NO_REMOVABLE],
  ['mtdblock', NO_REMOVABLE],
  ['pflash', NO_REMOVABLE],
  [
    'snapshot',
    'it would hide the writes; put a qcow2 image with a backing file in front (colo img create -b)',
  ],
  ['loadvm', 'there are no snapshots of a running machine; use -incoming'],
  ['readconfig', 'give the options on the command line'],
  ['gdb', 'the v86 engine has no debugger port'],
  ['s', 'the v86 engine has no debugger port'],
  ['spice', 'the v86 engine has no display server; use the serial console'],
  ['virtfs', 'the v86 engine has no shared folders'],
  ['fsdev', 'the v86 engine has no shared folders'],
]);

const OTHERS = new Set(
  [
    'acpitable',
    'add-fd',
    'async-teardown',
    'audio',
    'audiodev',
    'chroot',
    'compat',
    'd',
    'debugcon',
    'dfilter',
    'dump-vmstate',
  ].concat(
    ['enable-sync-profile', 'full-screen', 'fw_cfg', 'icount', 'iscsi', 'mem-path', 'mem-prealloc', 'numa'],
    [
      'only-migratable',
      'option-rom',
      'perfmap',
      'plugin',
      'preconfig',
      'rotate',
      'run-with',
      'runas',
      'seed',
    ],
    ['set', 'singlestep', 'smbios', 'soundhw', 'tpmdev', 'trace', 'win2k-hack', 'xen-attach', 'xen-domid'],
    ['no-fd-bootchk', 'portrait', 'semihosting', 'semihosting-config', 'smp-cache', 'old-param', 'prom-env'],
  ),
);

/** Why QEMU's option `name` is refused; null when QEMU has none of that name either. */
export function whyRefused(name: string): string | null {
  const reason = REASONS.get(name);
  if (reason !== undefined) return `not supported: ${reason}`;
  return OTHERS.has(name) ? 'this option of QEMU is not supported here, leave it out' : null;
}
