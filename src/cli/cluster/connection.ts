/**
 * What the commands that talk to a host's daemon have in common: which daemon, how an error becomes one line and an exit
 * status, and output for people or as JSON.
 */
import os from 'node:os';
import path from 'node:path';
import { Option, type Command } from 'commander';
import { parseNodeAddress } from '../../api/address.ts';
import { NodeUnreachableError } from '../../api/errors.ts';
import { NodeClient } from '../../api/http-client.ts';
import { readTlsMaterial } from '../../api/tls.ts';
import { ClosedError, messageOf, ParameterError, TimeoutError } from '../../base/errors.ts';
import { BusyError, NoSuchHostError, NoSuchVmError } from '../../ha/errors.ts';
import { SpecFileError } from '../../ha/spec/spec-error.ts';
import { printable } from './text.ts';

/** The statuses that these commands end with; docs/cli.md has them. */
export const EXIT_CODES = [
  [0, 'done'],
  [1, 'it could not be done, or the check found an error'],
  [2, 'the command line or the file is wrong; nothing was touched'],
  [3, 'no such VM or host'],
  [4, 'not now: something else is under way, or the state of the VM does not allow it'],
  [5, 'no node answers'],
  [6, 'the connection broke or nothing was heard any more: not known whether it was done'],
] as const;
export type ExitCode = (typeof EXIT_CODES)[number][0];

export interface NodeOptions {
  readonly node?: string;
  readonly tlsCertificates?: string;
  readonly json?: boolean;
}

/** A subcommand that talks to a node: `--node`, `--tls-certificates`, `--json`. Usage errors end with 2. */
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
    .option('--json', 'print JSON')
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
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
    fail(name, error);
  } finally {
    await node?.close();
  }
}

/** One line; of a file, one for each mistake, as compilers write them. The status says of which kind it is. */
export function fail(name: string, error: unknown): void {
  const text = messageOf(error);
  if (error instanceof SpecFileError) {
    for (const line of text.split('\n')) process.stderr.write(`${printable(line)}\n`);
  } else process.stderr.write(`colo ${name}: ${printable(text)}${hintFor(error)}\n`);
  process.exitCode = exitCodeOf(error);
}

export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof ParameterError || error instanceof SpecFileError) return 2;

  if (error instanceof NoSuchVmError || error instanceof NoSuchHostError) return 3;
  if (error instanceof BusyError) return 4;
  if (error instanceof NodeUnreachableError) return 5;
  if (error instanceof TimeoutError || error instanceof ClosedError) return 6;
  return 1;
}

/** What to type next, where the error cannot know it. */
function hintFor(error: unknown): string {
  if (error instanceof NoSuchVmError) return '; colo status lists them';
  if (error instanceof NoSuchHostError) return '; colo hosts lists them';
  if (error instanceof TimeoutError || error instanceof ClosedError) return '; see colo status';
  return '';
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}
