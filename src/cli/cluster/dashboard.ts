/**
 * `colo dashboard`: where the page of a host is. Its token stands in a file of that host, which is read when the node is
 * asked over its socket; it is sent over no network.
 */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { ColoError, messageOf } from '../../base/errors.ts';
import { askNode, nodeCommand, printJson, printLine, type NodeOptions } from './connection.ts';
import { printable } from './text.ts';

export function registerDashboard(program: Command): void {
  nodeCommand(program, 'dashboard', 'the address of the page to watch and act by, with its token').action(
    async (options: NodeOptions) => {
      await askNode('dashboard', options, async (node) => {
        const { host, dashboard } = await node.health();
        if (!dashboard) {
          throw new ColoError(`${host} serves no dashboard: see the key dashboard of its node.yaml`);
        }
        const { url, reason, tokenFile } = dashboard;
        if (url === null) throw new ColoError(`${host}: ${reason ?? 'the dashboard is not served'}`);
        let token: string | null = null;
        if (tokenFile !== null && 'path' in node.address) token = await readToken(tokenFile);
        const whole = token === null ? url : `${url}#token=${token}`;
        if (options.json) printJson({ host, url: whole, tokenFile });
        else {
          printLine(printable(whole));
          if (token === null && tokenFile !== null)
            process.stderr.write(`${printable(`the token is in ${tokenFile} on ${host}`)}\n`);
        }
        return 0;
      });
    },
  );
}

/** Throws ColoError. */
async function readToken(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (cause) {
    throw new ColoError(`the dashboard's token cannot be read: ${messageOf(cause)}`, { cause });
  }
}
