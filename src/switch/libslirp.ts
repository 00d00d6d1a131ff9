/**
 * libslirp's C interface, as far as the NAT port uses it: the library opened, its functions and structures declared.
 * Nothing here has state. Source: libslirp.h 4.7 (Debian 12: libslirp0); configuration version 1 is understood by every
 * libslirp since 4.1.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { ColoError, messageOf } from '../base/errors.ts';

/** The events of SlirpAddPollCb and SlirpGetREventsCb. */
export const SLIRP_POLL_IN = 1;
export const SLIRP_POLL_OUT = 2;
export const SLIRP_POLL_PRI = 4;
export const SLIRP_POLL_ERR = 8;
export const SLIRP_POLL_HUP = 16;

/** A C pointer as koffi hands it over. */
export type Pointer = bigint;

// Bytes here (addresses are in network order), but 32-bit words in C: aligned as those are.
const inAddr = koffi.struct({ s_addr: [4, koffi.array('uint8_t', 4, 'Typed')] });
const in6Addr = koffi.struct({ s6_addr: [4, koffi.array('uint8_t', 16, 'Typed')] });

/** struct SlirpConfig, the fields of version 1. `restricted` comes before `in_enabled`. */
const slirpConfig = koffi.struct({
  version: 'uint32_t',
  restricted: 'int',
  in_enabled: 'bool',
  vnetwork: inAddr,
  vnetmask: inAddr,
  vhost: inAddr,
  in6_enabled: 'bool',
  vprefix_addr6: in6Addr,
  vprefix_len: 'uint8_t',
  vhost6: in6Addr,
  vhostname: 'str',
  tftp_server_name: 'str',
  tftp_path: 'str',
  bootfile: 'str',
  vdhcp_start: inAddr,
  vnameserver: inAddr,
  vnameserver6: in6Addr,
  vdnssearch: 'void *',
  vdomainname: 'str',
  if_mtu: 'size_t',
  if_mru: 'size_t',
  disable_host_loopback: 'bool',
  enable_emu: 'bool',
});

/** struct SlirpCb: libslirp keeps the pointer to it, so it must outlive the instance. */
export const slirpCallbacks = koffi.struct({
  send_packet: 'void *',
  guest_error: 'void *',
  clock_get_ns: 'void *',
  timer_new: 'void *',
  timer_free: 'void *',
  timer_mod: 'void *',
  register_poll_fd: 'void *',
  unregister_poll_fd: 'void *',
  notify: 'void *',
});

/** Each callback's type; the keys are those of SlirpCb. The last argument of each is the opaque pointer. */
export const callbackTypes = {
  send_packet: koffi.proto('intptr_t', ['void *', 'size_t', 'void *']),
  guest_error: koffi.proto('void', ['str', 'void *']),
  clock_get_ns: koffi.proto('int64_t', ['void *']),
  timer_new: koffi.proto('void *', ['void *', 'void *', 'void *']),
  timer_free: koffi.proto('void', ['void *', 'void *']),
  timer_mod: koffi.proto('void', ['void *', 'int64_t', 'void *']),
  register_poll_fd: koffi.proto('void', ['int', 'void *']),
  unregister_poll_fd: koffi.proto('void', ['int', 'void *']),
  notify: koffi.proto('void', ['void *']),
};
export const timerCallback = koffi.proto('void', ['void *']);
export const addPollCallback = koffi.proto('int', ['int', 'int', 'void *']);
export const getREventsCallback = koffi.proto('int', ['int', 'void *']);

/** An IPv4 address in network order, as `struct in_addr` takes it. */
export interface InAddr {
  readonly s_addr: Uint8Array;
}

export interface SlirpLibrary {
  readonly slirpNew: (config: object, callbacks: unknown, opaque: null) => Pointer | null;
  readonly cleanup: (slirp: Pointer) => void;
  readonly input: (slirp: Pointer, frame: Uint8Array, length: number) => void;
  /** `timeoutMs` is in and out: the longest sleep. The callbacks are registered ones. */
  readonly pollfdsFill: (slirp: Pointer, timeoutMs: Uint32Array, addPoll: Pointer, opaque: null) => void;
  readonly pollfdsPoll: (slirp: Pointer, selectError: number, getREvents: Pointer, opaque: null) => void;
  readonly addHostfwd: (
    slirp: Pointer,
    isUdp: number,
    hostAddress: InAddr,
    hostPort: number,
    guestAddress: InAddr,
    guestPort: number,
  ) => number;
  readonly version: string;
}

/**
 * Loads every shared library in `directories`, those that others need first. A library that was unpacked without root
 * finds its dependencies only when they are in the process already. Returns the files that could not be loaded.
 */
export function preloadLibraries(directories: readonly string[]): string[] {
  let waiting = directories.flatMap((directory) =>
    existsSync(directory)
      ? readdirSync(directory)
          .filter((name) => /\.so(\.\d+)*$/.test(name))
          .map((name) => join(directory, name))
      : [],
  );
  for (;;) {
    const failed = waiting.filter((file) => !canLoad(file));
    if (failed.length === 0 || failed.length === waiting.length) return failed;
    waiting = failed;
  }
}

function canLoad(file: string): boolean {
  try {
    koffi.load(file);
    return true;
  } catch {
    return false;
  }
}

/** Opens libslirp: `path`, else COLO_LIBSLIRP, else the loader's own. Throws ColoError that says what to install. */
export function loadSlirp(path?: string): SlirpLibrary {
  const name = path ?? (process.env['COLO_LIBSLIRP'] || 'libslirp.so.0');
  let library;
  try {
    library = koffi.load(name);
  } catch (error) {
    throw new ColoError(
      `NAT needs libslirp, and ${name} cannot be loaded (${messageOf(error)}); install it ` +
        '(Debian, Ubuntu: apt install libslirp0; Fedora: dnf install libslirp), or name the file with --libslirp or COLO_LIBSLIRP',
      { cause: error },
    );
  }
  try {
    const version = library.func('slirp_version_string', 'str', []) as unknown as () => string;
    return {
      slirpNew: library.func('slirp_new', 'void *', [koffi.pointer(slirpConfig), 'void *', 'void *']),
      cleanup: library.func('slirp_cleanup', 'void', ['void *']),
      input: library.func('slirp_input', 'void', ['void *', 'void *', 'int']),
      pollfdsFill: library.func('slirp_pollfds_fill', 'void', ['void *', 'void *', 'void *', 'void *']),
      pollfdsPoll: library.func('slirp_pollfds_poll', 'void', ['void *', 'int', 'void *', 'void *']),
      addHostfwd: library.func('slirp_add_hostfwd', 'int', ['void *', 'int', inAddr, 'int', inAddr, 'int']),
      version: version(),
    };
  } catch (error) {
    throw new ColoError(
      `${name} is not a usable libslirp (${messageOf(error)}); version 4.1 or later is needed`,
      {
        cause: error,
      },
    );
  }
}
