/**
 * `-vnc`: HOST:DISPLAY, unix:PATH or none, and options (QEMU ui/vnc.c). Where we listen is ours, the rest is the business
 * of QEMU's server.
 */
import { ParameterError } from '../../base/errors.ts';
import type { SocketAddress } from '../../chardev/address.ts';
import { parseOptions } from '../command-line/keyval.ts';
import type { Options } from '../command-line/keyval.ts';
import { escapeOption } from '../../engine/qemu/index.ts';

const FIRST_PORT = 5900;
const MAX_DISPLAY = 65535 - FIRST_PORT;

/** What says where to listen. */
const OURS = ['vnc', 'to', 'ipv4', 'ipv6'];
const REFUSED: Readonly<Record<string, string>> = {
  websocket: 'the VNC server speaks RFB only; put a websocket proxy in front of it',
  reverse: 'the VNC server is connected to; start the viewer as a client',
};

/** The options for QEMU's server. Throws ParameterError. */
export function vncOptionsOf(text: string): string {
  const options = parse(text);
  return Object.entries(options)
    .filter(([key]) => !OURS.includes(key))
    .map(([key, value]) => `${key}=${escapeOption(value)}`)
    .join(',');
}

/** Where to listen; null: nowhere. Throws ParameterError. */
export function vncAddressOf(text: string): SocketAddress | null {
  const { vnc = '', to, ipv4, ipv6 } = parse(text);
  if (vnc === 'none') return null;
  const path = /^unix:(.+)$/.exec(vnc)?.[1];
  if (path !== undefined) return { type: 'unix', path };
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^:]*)):(\d+)$/.exec(vnc);
  if (!found) throw new ParameterError(`can't convert '${vnc}' to a display; use HOST:DISPLAY or unix:PATH`);
  const display = displayOf(found[3] ?? '');
  return {
    type: 'inet',
    host: found[1] ?? found[2] ?? '',
    port: String(FIRST_PORT + display),
    ...(to === undefined ? {} : { to: FIRST_PORT + display + displayOf(to) }),
    ...(ipv4 === undefined ? {} : { ipv4: ipv4 === 'on' }),
    ...(ipv6 === undefined ? {} : { ipv6: ipv6 === 'on' }),
  };
}

function displayOf(text: string): number {
  const display = Number(text);
  if (!Number.isInteger(display) || display < 0 || display > MAX_DISPLAY) {
    throw new ParameterError(`'${text}' is not the number of a display`);
  }
  return display;
}

function parse(text: string): Options {
  const options = parseOptions(text, 'vnc');
  for (const [name, why] of Object.entries(REFUSED)) {
    if (options[name] !== undefined && options[name] !== 'off') throw new ParameterError(`${name}: ${why}`);
  }
  return options;
}
