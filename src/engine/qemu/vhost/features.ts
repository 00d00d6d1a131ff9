/**
 * What the NIC offers its guest, and the back-end its QEMU. Facts: virtio 1.2, 5.1.3 "Feature bits" and 6 "Reserved
 * Feature Bits"; QEMU docs/interop/vhost-user.rst, "Protocol features".
 *
 * QEMU itself adds what it serves alone (a control queue, the MAC address), and takes away what `-device` switches off
 * (`csum=off`, `guest_tso4=off`…). Both sides of a pair offer the same, or the state of one would not fit the other.
 */
export const FEATURE = {
  CSUM: 1n << 0n,
  GUEST_CSUM: 1n << 1n,
  GUEST_TSO4: 1n << 7n,
  GUEST_TSO6: 1n << 8n,
  GUEST_ECN: 1n << 9n,
  HOST_TSO4: 1n << 11n,
  HOST_TSO6: 1n << 12n,
  HOST_ECN: 1n << 13n,
  MRG_RXBUF: 1n << 15n,
  /** vhost: written pages can be logged. QEMU migrates no device that lacks it. */
  LOG_ALL: 1n << 26n,
  ANY_LAYOUT: 1n << 27n,
  /** vhost-user: there are protocol features. */
  PROTOCOL: 1n << 30n,
  VERSION_1: 1n << 32n,
} as const;

export const OFFERED = Object.values(FEATURE).reduce((sum, bit) => sum | bit, 0n);

export const PROTOCOL_FEATURE = {
  /** As LOG_ALL; the log is in shared memory. */
  LOG_SHMFD: 1n << 1n,
} as const;

export const OFFERED_PROTOCOL = PROTOCOL_FEATURE.LOG_SHMFD;
