/**
 * Every bound of the NBD code in one place. Where QEMU has the same limit its value is used (nbd/nbd-internal.h and
 * include/block/nbd.h of 7.2), so that neither side surprises the other. Bytes and milliseconds.
 */

/** Largest READ or WRITE payload (QEMU: NBD_MAX_BUFFER_SIZE). */
export const NBD_MAX_PAYLOAD = 32 * 1024 * 1024;
/** Longest string of the protocol: export names, descriptions, messages, context names. */
export const NBD_MAX_STRING = 4096;
/** An option with more data than this ends the connection; its data is never stored beyond NBD_MAX_OPTION_DATA. */
export const NBD_MAX_OPTION_SKIP = NBD_MAX_PAYLOAD;
/** Option data that is looked at: an export name, and 128 info requests or some context queries. */
export const NBD_MAX_OPTION_DATA = 64 * 1024;
/** Queries in one meta context option. */
export const NBD_MAX_META_QUERIES = 128;
/** Requests of one client that are worked on at once; reading from it stops meanwhile (QEMU: MAX_NBD_REQUESTS). */
export const NBD_MAX_IN_FLIGHT = 16;
/**
 * Payload bytes of one client's requests in flight; one request is always let through. With the slabs below, TLS and what
 * a request itself costs a client then holds at most 64 MiB.
 */
export const NBD_MAX_IN_FLIGHT_BYTES = 40 * 1024 * 1024;
/** What a client's bytes land in; one at a time, and those that requests in flight still look at. */
export const NBD_RECEIVE_SLAB = 1024 * 1024;
/** Payloads up to this are used where they landed; larger ones are received into memory of their own. */
export const NBD_MAX_VIEW = 512 * 1024;
/** What a block status counts among them: the list of extents that is made for it, before it is cut to its limit. */
export const NBD_STATUS_COST = 12 * 1024 * 1024;
/** Requests that one client may have begun before the others have their turn. */
export const NBD_TURN = 256;
/** Bytes of replies that a TLS connection is given at a time: it keeps copies of them. */
export const NBD_TLS_WINDOW = 1024 * 1024;
/** Client connections of one server unless told otherwise (QMP nbd-server-start). */
export const NBD_DEFAULT_MAX_CONNECTIONS = 100;
/** From accept to the transmission phase (QEMU: handshake-max-seconds). */
export const NBD_HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long a server's leaving connection may take to send what is owed and to be closed by its peer. */
export const NBD_LINGER_MS = 1000;
/** Extents of one BLOCK_STATUS reply (QEMU: NBD_MAX_BLOCK_STATUS_EXTENTS). */
export const NBD_MAX_EXTENTS = 131_072;
/** The part of a BLOCK_STATUS request that is looked at in one go. */
export const NBD_MAX_STATUS_RANGE = 1024 * 1024 * 1024;
/** Read-ahead from a client's socket beyond which it is paused. */
export const NBD_READ_AHEAD = 512 * 1024;

/** Client: option reply data, and the number of informational replies to one option. */
export const NBD_MAX_OPTION_REPLIES = 1024;
/** Client: disjoint pieces that a READ reply may arrive in at one time. */
export const NBD_MAX_READ_PIECES = 1024;
/** Client: requests waiting for one of the in-flight slots. */
export const NBD_MAX_QUEUED = 16_384;
/** Client: extents kept for one blockStatus call; the rest of the range counts as data. */
export const NBD_MAX_CLIENT_EXTENTS = 1_048_576;
/** Client: largest piece of a writeZeroes or trim, so that each piece has a chance within the request's deadline. */
export const NBD_MAX_ZERO_PIECE = 64 * 1024 * 1024;
/** Client: pause before the second attempt to connect again; it doubles up to the other one. */
export const NBD_RECONNECT_MIN_MS = 100;
export const NBD_RECONNECT_MAX_MS = 5000;
export const NBD_CONNECT_TIMEOUT_MS = 10_000;
export const NBD_REQUEST_TIMEOUT_MS = 5000;
export const NBD_CLOSE_TIMEOUT_MS = 1000;
