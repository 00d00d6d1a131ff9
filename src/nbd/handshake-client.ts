/**
 * The client's side of the newstyle handshake, in the order of QEMU's client: STARTTLS if TLS is wanted (then there is
 * no going on without), STRUCTURED_REPLY, SET_META_CONTEXT with base:allocation, GO with BLOCK_SIZE. Each other step
 * falls back when the server does not know it, down to EXPORT_NAME of servers without fixed newstyle. Texts of refusals
 * are QEMU's (nbd/client.c, nbd_handle_reply_err).
 *
 * The deadline and the abort signal are the caller's; they end the transport.
 */
import { ProtocolError } from '../base/errors.ts';
import {
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_MAGIC_HI,
  NBD_MAGIC_LO,
  NBD_META_BASE_ALLOCATION,
  NBD_OLDSTYLE_MAGIC_HI,
  NBD_OLDSTYLE_MAGIC_LO,
  NBD_OPTS_MAGIC_HI,
  NBD_OPTS_MAGIC_LO,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_BLOCK_SIZE_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  nameOfOption,
  nameOfReply,
} from './constants.ts';
import { NbdEndOfStreamError, NbdNegotiationError } from './errors.ts';
import {
  FieldReader,
  OPTION_REPLY_HEADER_BYTES,
  decodeOptionReplyHeader,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
  type NbdTransport,
} from './handshake-wire.ts';
import { NBD_MAX_OPTION_DATA, NBD_MAX_OPTION_REPLIES, NBD_MAX_PAYLOAD, NBD_MAX_STRING } from './limits.ts';
import { readU64 } from './wire.ts';

const NO_DATA = new Uint8Array(0);

export interface ClientWishes {
  readonly exportName: string;
  /** Begin TLS first, and give up where the server does not. */
  readonly tls?: boolean;
  /** Ask for structured replies. */
  readonly structured: boolean;
  /** Ask for base:allocation (needs structured replies). */
  readonly baseAllocation: boolean;
}

export interface ClientAgreement {
  readonly sizeBytes: number;
  /** NBD_FLAG_… transmission flags. */
  readonly flags: number;
  readonly structured: boolean;
  /** The server's id of base:allocation, or null when that is not agreed on. */
  readonly allocationId: number | null;
  /** Requests must be multiples of this (a power of two); 1 when the server said nothing. */
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Largest READ or WRITE, never above 32 MiB. */
  readonly maxBlockBytes: number;
  readonly description: string;
}

/**
 * Runs the handshake. Throws TlsError, NbdNegotiationError when the server refuses or cannot be used, ProtocolError
 * when it breaks the protocol.
 */
export async function negotiateAsClient(
  transport: NbdTransport,
  wishes: ClientWishes,
): Promise<ClientAgreement> {
  if (Buffer.byteLength(wishes.exportName) > NBD_MAX_STRING) {
    throw new NbdNegotiationError('export name too long to send to server');
  }
  const serverFlags = await greet(transport);
  const fixed = (serverFlags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
  const noZeroes = (serverFlags & NBD_FLAG_NO_ZEROES) !== 0;
  if (wishes.tls === true) {
    if (!fixed) throw new NbdNegotiationError('Server does not support STARTTLS');
    await startTls(transport);
  }
  if (!fixed) return exportName(transport, wishes.exportName, noZeroes, false);
  const structured = wishes.structured && (await askStructured(transport));
  const allocationId =
    structured && wishes.baseAllocation ? await askAllocation(transport, wishes.exportName) : null;
  const agreement = await go(transport, wishes.exportName, structured, allocationId);
  return agreement ?? exportName(transport, wishes.exportName, noZeroes, structured);
}

/** Reads the greeting and answers its flags; returns the server's. */
async function greet(transport: NbdTransport): Promise<number> {
  const first = await transport.reader.read(8);
  if (first.readUInt32BE(0) !== NBD_MAGIC_HI || first.readUInt32BE(4) !== NBD_MAGIC_LO) {
    throw new ProtocolError(`Bad initial magic ${first.toString('hex')}: not an NBD server`);
  }
  const second = await transport.reader.read(8);
  const [hi, lo] = [second.readUInt32BE(0), second.readUInt32BE(4)];
  if (hi === NBD_OLDSTYLE_MAGIC_HI && lo === NBD_OLDSTYLE_MAGIC_LO) {
    throw new NbdNegotiationError('Server speaks only the oldstyle NBD protocol, which is not supported');
  }
  if (hi !== NBD_OPTS_MAGIC_HI || lo !== NBD_OPTS_MAGIC_LO) {
    throw new ProtocolError(`Bad server magic ${second.toString('hex')}`);
  }
  const flags = (await transport.reader.read(2)).readUInt16BE(0);
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE(flags & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES));
  await transport.send(answer);
  return flags;
}

interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

async function receive(transport: NbdTransport, option: number): Promise<OptionReply> {
  const header = decodeOptionReplyHeader(await transport.reader.read(OPTION_REPLY_HEADER_BYTES));
  const what = `reply to option ${option} (${nameOfOption(option)})`;
  if (header.option !== option) {
    throw new ProtocolError(`A ${what} was expected, one to ${header.option} came`);
  }
  if (header.length > NBD_MAX_OPTION_DATA) throw new ProtocolError(`A ${what} has ${header.length} bytes`);
  return { type: header.type, data: await transport.reader.read(header.length) };
}

function isError(reply: OptionReply): boolean {
  return (reply.type & NBD_REP_FLAG_ERROR) !== 0;
}

/** The server's refusal as an error, with its own words behind QEMU's. */
function refusal(option: number, reply: OptionReply): NbdNegotiationError {
  const which = `option ${option} (${nameOfOption(option)})`;
  const texts: Readonly<Record<number, string>> = {
    [NBD_REP_ERR_UNSUP]: `Unsupported ${which}`,
    [NBD_REP_ERR_POLICY]: `Denied by server for ${which}`,
    [NBD_REP_ERR_INVALID]: `Invalid parameters for ${which}`,
    [NBD_REP_ERR_PLATFORM]: `Server lacks support for ${which}`,
    [NBD_REP_ERR_TLS_REQD]: `TLS negotiation required before ${which}\nDid you forget a valid tls-creds?`,
    [NBD_REP_ERR_UNKNOWN]: 'Requested export not available',
    [NBD_REP_ERR_SHUTDOWN]: `Server shutting down before ${which}`,
    [NBD_REP_ERR_BLOCK_SIZE_REQD]: `Server requires INFO_BLOCK_SIZE for ${which}`,
    [NBD_REP_ERR_TOO_BIG]: `Server found the data of ${which} too big`,
  };
  const text = texts[reply.type] ?? `Unknown error code 0x${reply.type.toString(16)} for ${which}`;
  const said =
    reply.data.length > 0 ? `\nserver reported: ${reply.data.toString('utf8', 0, NBD_MAX_STRING)}` : '';
  return new NbdNegotiationError(text + said);
}

/** A refusal that is no answer to this one option: going on would be refused as well. */
function isFatal(type: number): boolean {
  return type === NBD_REP_ERR_TLS_REQD || type === NBD_REP_ERR_SHUTDOWN;
}

async function startTls(transport: NbdTransport): Promise<void> {
  const option = NBD_OPT_STARTTLS;
  await transport.send(encodeOption(option, NO_DATA));
  const reply = await receive(transport, option);
  if (isError(reply)) throw refusal(option, reply);
  expectAck(option, reply);
  if (reply.data.length > 0) throw new ProtocolError('Server sent data with its reply to STARTTLS');
  await transport.startTls(NO_DATA);
}

async function askStructured(transport: NbdTransport): Promise<boolean> {
  await transport.send(encodeOption(NBD_OPT_STRUCTURED_REPLY, NO_DATA));
  const reply = await receive(transport, NBD_OPT_STRUCTURED_REPLY);
  if (isFatal(reply.type)) throw refusal(NBD_OPT_STRUCTURED_REPLY, reply);
  if (isError(reply)) return false;
  expectAck(NBD_OPT_STRUCTURED_REPLY, reply);
  return true;
}

async function askAllocation(transport: NbdTransport, name: string): Promise<number | null> {
  const option = NBD_OPT_SET_META_CONTEXT;
  await transport.send(encodeOption(option, encodeMetaRequest(name, [NBD_META_BASE_ALLOCATION])));
  let id: number | null = null;
  for (;;) {
    const reply = await receive(transport, option);
    if (isFatal(reply.type)) throw refusal(option, reply);
    // An unknown export is told by GO again, with the right words.
    if (isError(reply)) return null;
    if (reply.type !== NBD_REP_META_CONTEXT) {
      expectAck(option, reply);
      return id;
    }
    const fields = new FieldReader(reply.data);
    const contextId = fields.u32();
    const contextName = fields.rest();
    if (contextName !== NBD_META_BASE_ALLOCATION || id !== null) {
      throw new ProtocolError(`Server gave the meta context '${contextName}', which was not asked for`);
    }
    id = contextId;
  }
}

/** Null: the server does not know GO. */
async function go(
  transport: NbdTransport,
  name: string,
  structured: boolean,
  allocationId: number | null,
): Promise<ClientAgreement | null> {
  await transport.send(encodeOption(NBD_OPT_GO, encodeInfoRequest(name, [NBD_INFO_BLOCK_SIZE])));
  let exported: { sizeBytes: number; flags: number } | null = null;
  let sizes: BlockSizes = DEFAULT_SIZES;
  let description = '';
  for (let count = 0; count < NBD_MAX_OPTION_REPLIES; count++) {
    const reply = await receive(transport, NBD_OPT_GO);
    if (reply.type === NBD_REP_ERR_UNSUP) return null;
    if (isError(reply)) throw refusal(NBD_OPT_GO, reply);
    if (reply.type !== NBD_REP_INFO) {
      expectAck(NBD_OPT_GO, reply);
      if (!exported) throw new ProtocolError('Server started transmission without telling the size');
      return { ...exported, ...sizes, description, structured, allocationId };
    }
    const fields = new FieldReader(reply.data);
    const info = fields.u16();
    if (info === NBD_INFO_EXPORT) {
      exported = { sizeBytes: usableSize(fields.u64()), flags: fields.u16() };
      fields.finish('the export information');
    } else if (info === NBD_INFO_BLOCK_SIZE) {
      sizes = usableBlockSizes(fields.u32(), fields.u32(), fields.u32());
      fields.finish('the block sizes');
    } else if (info === NBD_INFO_DESCRIPTION) description = fields.rest();
  }
  throw new ProtocolError(`Server sent more than ${NBD_MAX_OPTION_REPLIES} replies to one option`);
}

async function exportName(
  transport: NbdTransport,
  name: string,
  noZeroes: boolean,
  structured: boolean,
): Promise<ClientAgreement> {
  await transport.send(encodeOption(NBD_OPT_EXPORT_NAME, Buffer.from(name)));
  let data: Buffer;
  try {
    data = await transport.reader.read(noZeroes ? 10 : 134);
  } catch (cause) {
    if (!(cause instanceof NbdEndOfStreamError)) throw cause;
    throw new NbdNegotiationError('Requested export not available\nserver closed the connection', { cause });
  }
  const sizeBytes = usableSize(readU64(data, 0));
  const flags = data.readUInt16BE(8);
  return { sizeBytes, flags, ...DEFAULT_SIZES, description: '', structured, allocationId: null };
}

interface BlockSizes {
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maxBlockBytes: number;
}

const DEFAULT_SIZES: BlockSizes = {
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  maxBlockBytes: NBD_MAX_PAYLOAD,
};

function usableSize(sizeBytes: number): number {
  if (!Number.isSafeInteger(sizeBytes)) {
    throw new NbdNegotiationError(`Server's export of ${sizeBytes} bytes is too large`);
  }
  return sizeBytes;
}

/** Checks the server's constraints (proto.md "Block size constraints") and cuts the maximum to our own. */
function usableBlockSizes(min: number, preferred: number, max: number): BlockSizes {
  const isPowerOfTwo = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));
  if (!isPowerOfTwo(min) || min > 65_536) {
    throw new NbdNegotiationError(`server advertised invalid minimum block size ${min}`);
  }
  if (!isPowerOfTwo(preferred) || preferred < min) {
    throw new NbdNegotiationError(`server advertised invalid preferred block size ${preferred}`);
  }
  if (max < min) throw new NbdNegotiationError(`server advertised invalid maximum block size ${max}`);
  const maxBlockBytes = Math.min(max - (max % min), NBD_MAX_PAYLOAD);
  return { minBlockBytes: min, preferredBlockBytes: preferred, maxBlockBytes };
}

function expectAck(option: number, reply: OptionReply): void {
  if (isError(reply)) throw refusal(option, reply);
  if (reply.type !== NBD_REP_ACK) {
    throw new ProtocolError(
      `Unexpected reply ${reply.type} (${nameOfReply(reply.type)}) to option ${option} (${nameOfOption(option)})`,
    );
  }
}
