/**
 * NBD URIs (NetworkBlockDevice/nbd doc/uri.md, libnbd's parameters for TLS) as options of the `nbd` driver:
 *
 *   nbd://HOST[:PORT]/EXPORT          nbd+unix:///EXPORT?socket=PATH          nbd+tcp: the same as nbd
 *   nbds://[USER@]HOST[:PORT]/EXPORT  nbds+unix://[USER@]/EXPORT?socket=PATH  with tls-certificates=DIR or
 *                                     tls-psk-file=FILE, and tls-hostname, tls-username, tls-verify-peer
 *
 * Unlike URLs of the web: a `+` is a plus, dots in a path mean nothing, the part behind the first slash is the export's
 * name as it is. What is not known is refused, since a misspelt parameter could be one that protects.
 */
import { ParameterError } from '../base/errors.ts';
import type { OptionTree } from './options.ts';

const DEFAULT_PORT = '10809';
const URI =
  /^nbd(?<tls>s?)(?:\+(?<kind>tcp|unix))?:\/\/(?<authority>[^/?#]*)(?<path>\/[^?#]*)?(?:\?(?<query>[^#]*))?$/;
const AUTHORITY =
  /^(?:(?<user>[^@]*)@)?(?:\[(?<six>[0-9a-fA-F:.]+(?:%25[^\]]+)?)\]|(?<host>[^@:[\]]*))(?::(?<port>[0-9]*))?$/;
const TLS_PARAMETERS = [
  'tls-certificates',
  'tls-psk-file',
  'tls-hostname',
  'tls-username',
  'tls-verify-peer',
] as const;

/** True for anything that this file is asked to understand, well written or not. */
export function isNbdUri(name: string): boolean {
  return /^nbd(?:s?(?:\+[a-z]+)?:\/\/|s(?:\+[a-z]+)?:)/.test(name);
}

/** Throws ParameterError. */
export function parseNbdUri(name: string): OptionTree {
  const uri = URI.exec(name)?.groups;
  const authority = AUTHORITY.exec(uri?.['authority'] ?? '')?.groups;
  if (!uri || !authority) throw new ParameterError(`Invalid NBD URI '${name}'`);
  const parameters = parseQuery(name, uri['query'] ?? '');
  const options: OptionTree = { driver: 'nbd' };
  const exportName = decode(name, (uri['path'] ?? '').slice(1));
  if (exportName !== '') options['export'] = exportName;
  options['server'] =
    uri['kind'] === 'unix' ? unixServer(name, authority, parameters) : inetServer(name, authority);
  const user = authority['user'];
  if (user !== undefined && user !== '') parameters.set('tls-username', decode(name, user));
  const given = TLS_PARAMETERS.filter((key) => parameters.has(key));
  if (uri['tls'] !== 's') {
    if (given.length > 0) throw new ParameterError(`'${name}': ${given[0]!} needs nbds instead of nbd`);
  } else if (!parameters.has('tls-certificates') && !parameters.has('tls-psk-file')) {
    throw new ParameterError(
      `'${name}': TLS needs credentials; add ?tls-certificates=DIR or ?tls-psk-file=FILE, or use ` +
        'driver=nbd,tls-creds=ID,… in place of the URI',
    );
  }
  for (const key of given) options[key] = parameters.get(key) ?? '';
  for (const key of given) parameters.delete(key);
  const [unknown] = parameters.keys();
  if (unknown !== undefined) throw new ParameterError(`NBD URI '${name}': unknown parameter '${unknown}'`);
  return options;
}

function inetServer(name: string, authority: Record<string, string>): OptionTree {
  const host =
    authority['six'] === undefined ? decode(name, authority['host'] ?? '') : decode(name, authority['six']);
  if (host === '') throw new ParameterError(`NBD URI '${name}' lacks a host`);
  const port = authority['port'] ?? '';
  return { type: 'inet', host, port: port === '' ? DEFAULT_PORT : port };
}

function unixServer(
  name: string,
  authority: Record<string, string>,
  parameters: Map<string, string>,
): OptionTree {
  if ((authority['host'] ?? '') !== '' || authority['six'] !== undefined || authority['port'] !== undefined) {
    throw new ParameterError(`NBD URI '${name}' has a host and a socket; nbd+unix:///EXPORT?socket=PATH`);
  }
  const path = parameters.get('socket') ?? '';
  parameters.delete('socket');
  if (path === '') throw new ParameterError(`NBD URI '${name}' lacks ?socket=PATH`);
  return { type: 'unix', path };
}

function parseQuery(name: string, query: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const key = decode(name, equals < 0 ? part : part.slice(0, equals));
    if (parameters.has(key)) throw new ParameterError(`NBD URI '${name}' gives '${key}' twice`);
    parameters.set(key, equals < 0 ? '' : decode(name, part.slice(equals + 1)));
  }
  return parameters;
}

/** Percent escapes, of valid UTF-8 only. */
function decode(name: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new ParameterError(`NBD URI '${name}' has a malformed escape`, { cause });
  }
}
