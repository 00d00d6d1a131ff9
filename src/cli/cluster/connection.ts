/**
 * What the commands that talk to a host's daemon have in common: which daemon, how an error becomes one line and an exit
 * status, and output for people or as JSON.
 */
import os from 'node:os';
import path from 'node:path';
import { Option, type Command } from 'commander';
import { parseNodeAddress } from '../../api/address.ts';
import { NodeClient } from '../../api/http-client.ts';
import { readTlsMaterial } from '../../api/tls.ts';
import type { ExitCode } from '../exit-codes.ts';
import { tellFailure } from '../failure.ts';

export { EXIT_CODES, exitCodeOf, type ExitCode } from '../exit-codes.ts';

export interface NodeOptions {
  readonly node?: string;
  readonly tlsCertificates?: string;
  readonly json?: boolean;
}

/** A subcommand that talks to a node: `--node`, `--tls-certificates`, `--json`. */
export function nodeCommand(program: Command, nameAndArguments: string, description: string): Command {
  return program
    .command(nameAndArguments)
    .description(description)
    .addOption(
      new Option(
        '--node <address>',
        "the node to ask: unix:PATH or HOST:PORT (default: COLO_NODE, then this host's)",
      ),
    )
    .option(
      '--tls-certificates <dir>',
      'with HOST:PORT: ca-cert.pem, client-cert.pem and client-key.pem (default: COLO_TLS)',
    )
    .option('--json', 'print JSON');
}

/** Where the daemon of this host listens when its configuration says nothing else. */
export function defaultNode(
  env: Readonly<Record<string, string | undefined>> = process.env,
  uid = process.getuid?.() ?? -1,
): string {
  const given = env['COLO_NODE'];
  if (given !== undefined && given !== '') return given;
  if (uid === 0) return 'unix:/run/colo/node.sock';
  const runtime = env['XDG_RUNTIME_DIR'];
  return `unix:${path.join(runtime ?? path.join(os.tmpdir(), `colo-${uid}`), runtime ? 'colo' : '', 'node.sock')}`;
}

/** Asks the node; whatever fails becomes one line on standard error and the exit status. */
export async function askNode(
  name: string,
  options: NodeOptions,
  ask: (node: NodeClient) => Promise<ExitCode | undefined>,
): Promise<void> {
  // Whoever reads us may have seen enough.
  if (process.stdout.listenerCount('error') === 0) process.stdout.on('error', () => process.exit(0));
  let node: NodeClient | null = null;
  try {
    const address = parseNodeAddress(options.node ?? defaultNode());
    const certificates = options.tlsCertificates ?? process.env['COLO_TLS'];
    const isTls = certificates !== undefined && certificates !== '' && 'host' in address;
    node = new NodeClient(address, {
      ...(isTls && {
        tls: await readTlsMaterial({
          ca: path.join(certificates, 'ca-cert.pem'),
          cert: path.join(certificates, 'client-cert.pem'),
          key: path.join(certificates, 'client-key.pem'),
        }),
      }),
    });
    process.exitCode = (await ask(node)) ?? 0;
  } catch (error) {
    tellFailure(name, error);
  } finally {
    await node?.close();
  }
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}
