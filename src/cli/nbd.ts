/**
 * `colo nbd serve IMAGE`: one disk image over NBD, qemu-nbd's job. The command line alone is here; src/nbd/ serves and
 * src/block/ opens the image. The names of the TLS options are nbdkit's, and those of NBD URIs.
 */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { messageOf, ParameterError } from '../base/errors.ts';
import type { TlsCredentials } from '../base/tls/credentials.ts';
import { PskCredentials } from '../base/tls/psk.ts';
import { X509Credentials } from '../base/tls/x509.ts';
import { BlockGraph } from '../block/graph.ts';
import { tellFailure, tellWarning } from './failure.ts';
import { NBD_DEFAULT_PORT, NbdServer, textOfAddress, type NbdAddress } from '../nbd/index.ts';

interface ServeOptions {
  readonly listen: NbdAddress;
  readonly readOnly?: boolean;
  readonly export: string;
  readonly format?: string;
  readonly description?: string;
  readonly maxConnections: number;
  readonly tlsCertificates?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyPeer?: 'on' | 'off';
  readonly json?: boolean;
}

const DEFAULT_LISTEN: NbdAddress = { host: '127.0.0.1', port: NBD_DEFAULT_PORT };

/** Adds the subcommand `nbd` to `program`. */
export function registerNbd(program: Command): void {
  const nbd = program.command('nbd').description('disk images over the network block device protocol');
  nbd
    .command('serve <image>')
    .description('serve one disk image until SIGTERM or SIGINT')
    .addOption(
      new Option('--listen <address>', 'tcp:HOST:PORT (port 0: any free one) or unix:PATH')
        .argParser(parseListen)
        .default(DEFAULT_LISTEN, `tcp:${textOfAddress(DEFAULT_LISTEN)}`),
    )
    .option('--read-only', 'refuse writes')
    .option('--export <name>', 'name of the export', '')
    .option('--format <format>', 'raw or qcow2 (default: probed)')
    .option('--description <text>', 'free text about the export')
    .option('--max-connections <count>', 'clients at one time; 0: no limit', parseCount, 100)
    .option(
      '--tls-certificates <dir>',
      'require TLS, with ca-cert.pem, server-cert.pem and server-key.pem in this folder',
    )
    .option(
      '--tls-psk <file>',
      'require TLS, with pre-shared keys: lines USER:HEXKEY, as psktool writes them',
    )
    .addOption(
      new Option(
        '--tls-verify-peer <on|off>',
        'with --tls-certificates: let in only clients with a certificate of the CA (default: on)',
      ).choices(['on', 'off']),
    )
    .option('--json', 'print the ready line as JSON')
    .addHelpText(
      'after',
      '\nA client then uses nbds://HOST/EXPORT?tls-certificates=DIR or ?tls-psk-file=FILE&tls-username=USER.',
    )
    .action(async (image: string, options: ServeOptions) => {
      try {
        await serve(image, options);
      } catch (error) {
        tellFailure('nbd serve', error);
      }
    });
}

async function serve(image: string, options: ServeOptions): Promise<void> {
  const stop = stopSignal();
  const graph = new BlockGraph();
  const { format, description, readOnly = false, maxConnections } = options;
  let server: NbdServer | null = null;
  try {
    const tls = credentialsOf(options);
    server = new NbdServer({ maxConnections, tls });
    const node = await graph.openImage(image, { readOnly, ...(format !== undefined && { format }) });
    server.addExport({
      name: options.export,
      source: node,
      writable: !readOnly,
      ...(description !== undefined && { description }),
    });
    const address = await server.listen(options.listen);
    if (!tls && !isLocal(address)) {
      const warning =
        'anybody who can reach it reads and writes the image; use --tls-certificates or --tls-psk';
      tellWarning('nbd serve', `${textOfAddress(address)}: no TLS: ${warning}`);
    }
    const { export: name, json } = options;
    const at = textOfAddress(address);
    const ready = json
      ? JSON.stringify({ address: at, export: name, isReadOnly: readOnly, isTls: tls !== null })
      : `nbd ready: listening at ${at}, export '${name}'`;
    process.stdout.write(`${ready}\n`);
    await stop.promise;
    // Clients get the replies they are owed; then what was written is made durable.
    await server.removeExport(options.export);
    if (!node.readOnly) await node.flush();
  } finally {
    stop.cancel();
    await server?.close();
    await graph.closeAll();
  }
}

/** Null: in clear. Throws ParameterError. */
function credentialsOf({
  tlsCertificates: dir,
  tlsPsk: file,
  tlsVerifyPeer,
}: ServeOptions): TlsCredentials | null {
  if (dir !== undefined && file !== undefined) {
    throw new ParameterError('--tls-certificates and --tls-psk may not be used at the same time');
  }
  if (tlsVerifyPeer !== undefined && dir === undefined) {
    throw new ParameterError('--tls-verify-peer needs --tls-certificates');
  }
  if (dir !== undefined) {
    const verifyPeer = tlsVerifyPeer !== 'off';
    return new X509Credentials({ endpoint: 'server', dir, verifyPeer, sanityCheck: true });
  }
  return file === undefined
    ? null
    : new PskCredentials({ endpoint: 'server', dir: null, file, username: null });
}

/** Only this host can reach it. */
function isLocal(address: NbdAddress): boolean {
  if ('path' in address) return true;
  return address.host === 'localhost' || address.host === '::1' || address.host.startsWith('127.');
}

/** `tcp:HOST:PORT` or `unix:PATH`. Throws ParameterError. */
export function parseNbdListen(text: string): NbdAddress {
  if (text.startsWith('unix:') && text.length > 5) return { path: text.slice(5) };
  const match = /^tcp:(?:\[(?<six>[^\]]+)\]|(?<host>[^:]*)):(?<port>[0-9]{1,5})$/.exec(text);
  const port = Number(match?.groups?.['port']);
  if (!match || port > 65_535) {
    throw new ParameterError(`'${text}' is no address; use tcp:HOST:PORT or unix:PATH`);
  }
  return { host: match.groups?.['six'] ?? match.groups?.['host'] ?? '', port };
}

function parseListen(text: string): NbdAddress {
  try {
    return parseNbdListen(text);
  } catch (error) {
    throw new InvalidArgumentError(messageOf(error));
  }
}

function parseCount(text: string): number {
  if (!/^[0-9]{1,6}$/.test(text)) throw new InvalidArgumentError('a number is expected');
  return Number(text);
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process as it would without us. */
function stopSignal(): { promise: Promise<void>; cancel: () => void } {
  let cancel = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    const stop = (): void => {
      cancel();
      resolve();
    };
    cancel = () => {
      process.off('SIGTERM', stop);
      process.off('SIGINT', stop);
    };
    process.on('SIGTERM', stop);
    process.on('SIGINT', stop);
  });
  return { promise, cancel };
}
