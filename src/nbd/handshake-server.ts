/**
 * The server's side of the fixed newstyle handshake (proto.md "Fixed newstyle negotiation"), as a straight dialogue:
 * greeting, then options until one of them starts the transmission phase. Answers and texts are QEMU 7.2's where
 * docs/qemu-behaviour.md 8.1 has captures of them.
 *
 * With TLS it is required, as in QEMU: before STARTTLS every option is refused, and nothing that was said before it
 * counts afterwards. Every reply is awaited until the kernel took it, so that a client that floods options without
 * reading stops itself. The deadline over all of it is the caller's.
 */
import { ProtocolError } from '../base/errors.ts';
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_NO_ZEROES,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_MAGIC_HI,
  NBD_MAGIC_LO,
  NBD_META_BASE_ALLOCATION,
  NBD_OPTS_MAGIC_HI,
  NBD_OPTS_MAGIC_LO,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  nameOfOption,
} from './constants.ts';
import { NbdNegotiationError } from './errors.ts';
import type { NbdExport } from './export.ts';
import { exportSizeBytes, isWritable } from './export.ts';
import {
  OPTION_HEADER_BYTES,
  decodeInfoRequest,
  decodeMetaRequest,
  decodeOptionHeader,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeListEntry,
  encodeMetaContext,
  encodeOptionReply,
  type NbdTransport,
} from './handshake-wire.ts';
import { NBD_MAX_OPTION_DATA, NBD_MAX_OPTION_SKIP, NBD_MAX_PAYLOAD, NBD_MAX_STRING } from './limits.ts';
import { writeU64 } from './wire.ts';

/** The id under which base:allocation is spoken of later. */
export const BASE_ALLOCATION_ID = 0;
const NO_DATA = new Uint8Array(0);
const PREFERRED_BLOCK_BYTES = 4096;

/** What the handshake asks of the server. */
export interface HandshakeHost {
  readonly multiConn: boolean;
  /** Clients have to begin TLS before anything else. */
  readonly requiresTls: boolean;
  findExport(name: string): NbdExport | null;
  listExports(): Iterable<NbdExport>;
}

/** What both sides agreed on. */
export interface ServerAgreement {
  readonly export: NbdExport;
  readonly sizeBytes: number;
  readonly writable: boolean;
  readonly structured: boolean;
  readonly baseAllocation: boolean;
}

/** The transmission flags of an export, bit for bit those of QEMU 7.2's embedded server. */
export function transmissionFlags(writable: boolean, structured: boolean, multiConn: boolean): number {
  let flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
  if (writable) flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
  else flags |= NBD_FLAG_READ_ONLY;
  if (structured) flags |= NBD_FLAG_SEND_DF;
  if (multiConn) flags |= NBD_FLAG_CAN_MULTI_CONN;
  return flags;
}

/**
 * Runs the handshake. Null: the client has left politely (ABORT, or closed between two options). Throws ProtocolError
 * or NbdNegotiationError when it cannot go on, and whatever the transport throws.
 */
export async function negotiateAsServer(
  transport: NbdTransport,
  host: HandshakeHost,
): Promise<ServerAgreement | null> {
  return new ServerHandshake(transport, host).run();
}

class ServerHandshake {
  readonly #transport: NbdTransport;
  readonly #host: HandshakeHost;
  #noZeroes = false;
  #structured = false;
  #secure = false;
  /** The export for which base:allocation was asked; another one in GO drops it. */
  #metaExport: NbdExport | null = null;

  constructor(transport: NbdTransport, host: HandshakeHost) {
    this.#transport = transport;
    this.#host = host;
  }

  async run(): Promise<ServerAgreement | null> {
    const { reader } = this.#transport;
    await this.#transport.send(greeting());
    const answer = await reader.readOrEnd(4);
    if (!answer) return null;
    const clientFlags = answer.readUInt32BE(0);
    if ((clientFlags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) !== 0) {
      throw new ProtocolError(`Unknown client flags 0x${clientFlags.toString(16)}`);
    }
    const fixed = (clientFlags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (clientFlags & NBD_FLAG_NO_ZEROES) !== 0;
    for (;;) {
      const header = await reader.readOrEnd(OPTION_HEADER_BYTES);
      if (!header) return null;
      const { option, length } = decodeOptionHeader(header);
      if (length > NBD_MAX_OPTION_SKIP) {
        throw new ProtocolError(`Option ${option} (${nameOfOption(option)}) has ${length} bytes of data`);
      }
      if (!fixed && option !== NBD_OPT_EXPORT_NAME) {
        throw new ProtocolError(`Option ${option} from a client that does not speak fixed newstyle`);
      }
      if (this.#host.requiresTls && !this.#secure && option !== NBD_OPT_STARTTLS) {
        await this.#refuseInClear(option, length);
        if (option === NBD_OPT_ABORT) return null;
        continue;
      }
      if (option === NBD_OPT_EXPORT_NAME) return await this.#exportName(length);
      if (option === NBD_OPT_ABORT) {
        await reader.skip(length);
        await this.#reply(option, NBD_REP_ACK);
        return null;
      }
      if (length > NBD_MAX_OPTION_DATA) {
        await reader.skip(length);
        await this.#refuse(option, NBD_REP_ERR_TOO_BIG, `${length} bytes of option data are too many`);
        continue;
      }
      const data = await reader.read(length);
      if (option === NBD_OPT_STARTTLS) {
        await this.#startTls(data);
        continue;
      }
      const agreement = await this.#option(option, data);
      if (agreement) return agreement;
    }
  }

  /** Answers one option; an agreement ends the handshake. Malformed data is refused, the dialogue goes on. */
  async #option(option: number, data: Buffer): Promise<ServerAgreement | null> {
    try {
      switch (option) {
        case NBD_OPT_LIST:
          await this.#list(data);
          return null;
        case NBD_OPT_INFO:
        case NBD_OPT_GO:
          return await this.#infoOrGo(option, data);
        case NBD_OPT_STRUCTURED_REPLY:
          await this.#structuredReply(data);
          return null;
        case NBD_OPT_LIST_META_CONTEXT:
        case NBD_OPT_SET_META_CONTEXT:
          await this.#metaContext(option, data);
          return null;
        default:
          await this.#refuse(
            option,
            NBD_REP_ERR_UNSUP,
            `Unsupported option ${option} (${nameOfOption(option)})`,
          );
          return null;
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      await this.#refuse(option, NBD_REP_ERR_INVALID, error.message);
      return null;
    }
  }

  /** `option` came before STARTTLS. An export name has no reply that could say so. */
  async #refuseInClear(option: number, length: number): Promise<void> {
    const text = `Option 0x${option.toString(16)} not permitted before TLS`;
    if (option === NBD_OPT_EXPORT_NAME) throw new NbdNegotiationError(text);
    await this.#transport.reader.skip(length);
    await this.#refuse(option, NBD_REP_ERR_TLS_REQD, text);
  }

  async #startTls(data: Buffer): Promise<void> {
    const option = NBD_OPT_STARTTLS;
    if (!this.#host.requiresTls) return this.#refuse(option, NBD_REP_ERR_POLICY, 'TLS not configured');
    if (this.#secure) return this.#refuse(option, NBD_REP_ERR_INVALID, 'TLS already enabled');
    if (data.length > 0) {
      // As QEMU: said, and then hung up; whoever gets this wrong gets more wrong.
      const text = "option 'starttls' has unexpected length";
      await this.#refuse(option, NBD_REP_ERR_INVALID, text);
      throw new NbdNegotiationError(text);
    }
    await this.#transport.startTls(encodeOptionReply(option, NBD_REP_ACK, NO_DATA));
    this.#secure = true;
    // What an attacker in between may have negotiated in clear is forgotten.
    this.#structured = false;
    this.#metaExport = null;
  }

  /** The oldest way in: no reply can say no, so a wrong name ends the connection. */
  async #exportName(length: number): Promise<ServerAgreement> {
    if (length > NBD_MAX_STRING) throw new ProtocolError(`Export name of ${length} bytes`);
    const name = (await this.#transport.reader.read(length)).toString('utf8');
    const found = this.#host.findExport(name);
    if (!found) throw new NbdNegotiationError(`export '${name}' not present`);
    const agreement = this.#agree(found);
    const out = Buffer.alloc(this.#noZeroes ? 10 : 134);
    out.writeUInt16BE(this.#flags(agreement), writeU64(out, 0, agreement.sizeBytes));
    await this.#transport.send(out);
    return agreement;
  }

  async #list(data: Buffer): Promise<void> {
    if (data.length > 0) throw new ProtocolError('A list option has no data');
    for (const { name, description } of this.#host.listExports()) {
      await this.#reply(NBD_OPT_LIST, NBD_REP_SERVER, encodeListEntry(name, description));
    }
    await this.#reply(NBD_OPT_LIST, NBD_REP_ACK);
  }

  async #infoOrGo(option: number, data: Buffer): Promise<ServerAgreement | null> {
    const { name, infos } = decodeInfoRequest(data);
    const found = this.#host.findExport(name);
    if (!found) {
      await this.#refuse(option, NBD_REP_ERR_UNKNOWN, `export '${name}' not present`);
      return null;
    }
    const agreement = this.#agree(found);
    if (infos.includes(NBD_INFO_NAME)) {
      await this.#reply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_NAME, found.name));
    }
    if (found.description !== '') {
      await this.#reply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_DESCRIPTION, found.description));
    }
    const sizes = encodeInfoBlockSize(1, PREFERRED_BLOCK_BYTES, NBD_MAX_PAYLOAD);
    await this.#reply(option, NBD_REP_INFO, sizes);
    const flags = this.#flags(agreement);
    await this.#reply(option, NBD_REP_INFO, encodeInfoExport(agreement.sizeBytes, flags));
    await this.#reply(option, NBD_REP_ACK);
    return option === NBD_OPT_GO ? agreement : null;
  }

  async #structuredReply(data: Buffer): Promise<void> {
    if (data.length > 0) throw new ProtocolError('A structured reply option has no data');
    if (this.#structured) throw new ProtocolError('structured reply already negotiated');
    this.#structured = true;
    await this.#reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
  }

  async #metaContext(option: number, data: Buffer): Promise<void> {
    const isSet = option === NBD_OPT_SET_META_CONTEXT;
    if (isSet && !this.#structured) throw new ProtocolError('structured reply must be negotiated first');
    const { name, queries } = decodeMetaRequest(data);
    const found = this.#host.findExport(name);
    if (!found) {
      await this.#refuse(option, NBD_REP_ERR_UNKNOWN, `export '${name}' not present`);
      return;
    }
    // A listing may ask for everything: by no query at all, or by the bare namespace.
    const matches = isSet
      ? queries.includes(NBD_META_BASE_ALLOCATION)
      : queries.length === 0 || queries.includes('base:') || queries.includes(NBD_META_BASE_ALLOCATION);
    if (isSet) this.#metaExport = matches ? found : null;
    if (matches) {
      const id = isSet ? BASE_ALLOCATION_ID : 0;
      await this.#reply(option, NBD_REP_META_CONTEXT, encodeMetaContext(id, NBD_META_BASE_ALLOCATION));
    }
    await this.#reply(option, NBD_REP_ACK);
  }

  #agree(found: NbdExport): ServerAgreement {
    return {
      export: found,
      sizeBytes: exportSizeBytes(found),
      writable: isWritable(found),
      structured: this.#structured,
      baseAllocation: this.#structured && this.#metaExport === found,
    };
  }

  #flags(agreement: ServerAgreement): number {
    return transmissionFlags(agreement.writable, agreement.structured, this.#host.multiConn);
  }

  #reply(option: number, type: number, data: Uint8Array = NO_DATA): Promise<void> {
    return this.#transport.send(encodeOptionReply(option, type, data));
  }

  #refuse(option: number, type: number, message: string): Promise<void> {
    return this.#reply(option, type, Buffer.from(message).subarray(0, NBD_MAX_STRING));
  }
}

function greeting(): Buffer {
  const out = Buffer.allocUnsafe(18);
  out.writeUInt32BE(NBD_MAGIC_HI, 0);
  out.writeUInt32BE(NBD_MAGIC_LO, 4);
  out.writeUInt32BE(NBD_OPTS_MAGIC_HI, 8);
  out.writeUInt32BE(NBD_OPTS_MAGIC_LO, 12);
  out.writeUInt16BE(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES, 16);
  return out;
}
