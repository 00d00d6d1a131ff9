/**
 * The small text files of the guest: init table, start-up script, shutdown script and the boot loader's menu.
 *
 * They are data: nothing here runs on the host. The services themselves are in services-script.ts.
 */

/** What may be chosen about a guest's network when its image is built; the kernel command line can still override. */
export interface GuestNetwork {
  readonly ip?: string | undefined;
  readonly gateway?: string | undefined;
  /** ADDRESS/LENGTH. Without it the guest has no IPv6 at all. */
  readonly ip6?: string | undefined;
  readonly gateway6?: string | undefined;
}

/** The label by which the guest finds the file system for its data, whatever bus the disk is on. */
export const DATA_LABEL = 'colo-data';

/**
 * Start-up work of the stock kernel that nothing here uses and that an emulated CPU takes seconds for: tracing's
 * tables and directories (one second), and a self-test that cryptomgr.notests does not reach.
 */
const SKIPPED_INITCALLS: readonly string[] = [
  'trace_eval_init',
  'tracer_init_tracefs',
  'init_kprobe_trace',
  'crypto_kdf108_init',
];

const NO_IPV6 = 'ipv6.disable=1';

/**
 * Kernel options. Every one of them is here because the guest may run on an interpreter: no work whose result nobody
 * reads (KASLR, mitigations, audit, IPv6 neighbour chatter), and no clock calibration loops. IPv6 off also keeps its
 * randomly timed multicast out of the comparison of two copies' output; it is on where an address is given for it.
 */
const KERNEL_OPTIONS: readonly string[] = [
  'console=ttyS0,115200',
  'quiet',
  'loglevel=3',
  'tsc=reliable',
  'no_timer_check',
  'nokaslr',
  'mitigations=off',
  'audit=0',
  'apparmor=0',
  NO_IPV6,
  'random.trust_cpu=on',
  'noisapnp',
  'i8042.noaux=1',
  'cryptomgr.notests=1',
  `initcall_blacklist=${SKIPPED_INITCALLS.join(',')}`,
  'panic=10',
];

/** busybox init's table. The shell respawns; so do the services, should perl ever end. */
export const INITTAB = `::sysinit:/etc/rc
::respawn:/usr/bin/perl /srv/services.pl
ttyS0::respawn:-/bin/sh
::shutdown:/etc/rc.shutdown
::ctrlaltdel:/sbin/reboot
`;

export const PROFILE = `export HOME=/root PS1='colo-guest:\\w# '
`;

/**
 * Start-up: pseudo file systems, drivers of the hardware that is there, network, data disk.
 * Shell builtins are preferred throughout: each fork costs tens of milliseconds on an emulated CPU.
 */
export const RC = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
hostname colo-guest

# What the drivers below ask for is either loaded by name or built in; each request the kernel would hand to modprobe
# costs a process and finds nothing.
echo > /proc/sys/kernel/modprobe

# sd_mod first, so that the disk appears as soon as its controller does. Virtio devices show up on a bus of their own
# only once virtio_pci is there, hence the second round.
modalias() {
  for file in "$@"; do
    [ -r "$file" ] && read -r alias < "$file" && aliases="$aliases $alias"
  done
}
aliases=
modalias /sys/bus/pci/devices/*/modalias
[ -d /sys/bus/acpi/devices/LNXPWRBN:00 ] && aliases="$aliases button evdev"
modprobe -a -q sd_mod crc32c_generic ext4 $aliases
aliases=
modalias /sys/bus/virtio/devices/*/modalias
[ -n "$aliases" ] && modprobe -a -q $aliases

address=10.0.2.15/24
gateway=10.0.2.2
address6=
gateway6=
for word in $(cat /proc/cmdline); do
  case "$word" in
    colo.ip=*) address="\${word#colo.ip=}"; gateway= ;;
    colo.ip6=*) address6="\${word#colo.ip6=}" ;;
    colo.gw6=*) gateway6="\${word#colo.gw6=}" ;;
  esac
done
for word in $(cat /proc/cmdline); do
  case "$word" in
    colo.gw=*) gateway="\${word#colo.gw=}" ;;
  esac
done
ip link set lo up
for path in /sys/class/net/*; do
  nic="\${path##*/}"
  [ "$nic" = lo ] && continue
  # The one address that was given: none that routers announce, no trial of it (which draws its time at random).
  conf=/proc/sys/net/ipv6/conf/$nic
  if [ -n "$address6" ] && [ -d $conf ]; then
    echo 0 > $conf/accept_ra
    echo 0 > $conf/accept_dad
    echo 1 > $conf/addr_gen_mode
  fi
  ip addr add "$address" broadcast + dev "$nic"
  ip link set "$nic" up
  [ -n "$gateway" ] && ip route add default via "$gateway"
  [ -n "$address6" ] && ip -6 addr add "$address6" dev "$nic"
  [ -n "$gateway6" ] && ip -6 route add default via "$gateway6"
  break
done

# The controller answers in its own time: up to five seconds, looking every 50 ms.
tries=0
while [ $tries -lt 100 ]; do
  disk="$(findfs LABEL=${DATA_LABEL} 2>/dev/null)" && break
  usleep 50000
  tries=$((tries + 1))
done
[ -n "$disk" ] && mount -t ext4 -o noatime "$disk" /data
[ -d /data/lost+found ] || echo 'colo-guest: no data disk; the ledger will answer errors' > /dev/console
exit 0
`;

export const RC_SHUTDOWN = `#!/bin/sh
sync
umount /data
`;

/** syslinux.cfg: boots at once, no menu, no prompt. `archOptions` are the architecture's own for the kernel. */
export function bootConfig(network: GuestNetwork, archOptions: readonly string[] = []): string {
  const options = [...KERNEL_OPTIONS, ...archOptions].filter(
    (option) => option !== NO_IPV6 || network.ip6 === undefined,
  );
  if (network.ip !== undefined) options.push(`colo.ip=${network.ip}`);
  if (network.gateway !== undefined) options.push(`colo.gw=${network.gateway}`);
  if (network.ip6 !== undefined) options.push(`colo.ip6=${network.ip6}`);
  if (network.gateway6 !== undefined) options.push(`colo.gw6=${network.gateway6}`);
  return `DEFAULT colo
PROMPT 0
TIMEOUT 0
LABEL colo
  KERNEL /vmlinuz
  INITRD /initrd
  APPEND ${options.join(' ')}
`;
}
