/**
 * The dashboard of one host's daemon: where it listens, and the token. A page to look at is no reason not to look after
 * VMs: when it cannot be served that is told in the log and to `colo dashboard`, and the daemon goes on without.
 *
 * On loopback, without a token of a person's, the user that runs the daemon needs none (dashboard/door.ts); the one for
 * others is made here and kept in the run folder, so that pages outlive the daemon that they were opened from.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import path from 'node:path';
import { hostAndPort } from '../api/address.ts';
import type { DashboardPlace } from '../api/service.ts';
import type { TlsMaterial } from '../api/tls.ts';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { DashboardServer } from '../dashboard/server.ts';
import type { DashboardSource } from '../dashboard/source.ts';
import type { DashboardConfig, NodeConfig } from '../ha/spec/node-config.ts';

const log = loggerFor('dashboard');

/** A token that was made here. */
const KEPT = /^[A-Za-z0-9_-]{32}$/;

export interface NodeDashboard {
  readonly place: DashboardPlace;
  close(): Promise<void>;
}

/** Null: none is configured. Never throws. */
export async function serveDashboard(
  config: Pick<NodeConfig, 'name' | 'address' | 'dashboard' | 'runFolder'>,
  source: DashboardSource,
  tls: TlsMaterial | undefined,
): Promise<NodeDashboard | null> {
  const { dashboard } = config;
  if (!dashboard) return null;
  const { address: host, port } = dashboard;
  const tokenFile = dashboard.tokenFile ?? path.join(config.runFolder, 'dashboard.token');
  try {
    const token = dashboard.tokenFile === undefined ? null : await readToken(dashboard.tokenFile);
    const kept = token === null ? await keptToken(tokenFile) : null;
    const server = await DashboardServer.listen(
      {
        ...{ host, port, token },
        ...(kept === null ? {} : { spareToken: kept }),
        names: [config.name, ...dashboard.names],
        ...(tls ? { tls } : {}),
      },
      source,
    );
    if (token === null) await keepToken(tokenFile, server.token);
    const url = urlFor(server.url, config, dashboard);
    log.info({ url }, 'the dashboard is served');
    return { place: { url, reason: null, tokenFile }, close: () => server.close() };
  } catch (error) {
    const reason = `${messageOf(error)}; see the key dashboard of node.yaml`;
    log.warn({ reason }, 'the dashboard is not served');
    return { place: { url: null, reason, tokenFile: null }, close: () => Promise.resolve() };
  }
}

/** A person's token. Throws ParameterError. */
async function readToken(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (cause) {
    throw new ParameterError(`dashboard.token-file: ${messageOf(cause)}`, { cause });
  }
}

/** That of the daemon before. */
async function keptToken(file: string): Promise<string | null> {
  const kept = (await readFile(file, 'utf8').catch(() => '')).trim();
  return KEPT.test(kept) ? kept : null;
}

/** Nobody else may read it, not even while it is being written. */
async function keepToken(file: string, token: string): Promise<void> {
  await rm(file, { force: true });
  await writeFile(file, `${token}\n`, { mode: 0o600, flag: 'wx' });
}

/** For a browser: a listener on every address is asked by a name, or by that of the host. */
function urlFor(
  url: string,
  { address }: Pick<NodeConfig, 'address'>,
  { address: host, names }: DashboardConfig,
): string {
  const [name] = names;
  const isEvery = isIP(host) !== 0 && /^[0.:]+$/.test(host);
  const asked = name ?? (isEvery ? address : null);
  if (asked === null) return url;
  const { protocol, port } = new URL(url);
  const isUsual = port === '';
  return `${protocol}//${isUsual ? hostAndPort(asked, 0).replace(/:0$/, '') : hostAndPort(asked, Number(port))}/`;
}
