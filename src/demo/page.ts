/** The demo's page: served on loopback at the port that was asked for, or at the usual one if it is free, else at any. */
import { ParameterError } from '../base/errors.ts';
import { DashboardServer } from '../dashboard/server.ts';
import type { DashboardSource } from '../dashboard/source.ts';

const HOST = '127.0.0.1';
export const USUAL_PORT = 8080;

/** `port` undefined: nobody minds which. Throws ParameterError when the one that was asked for is taken. */
export async function servePage(source: DashboardSource, port?: number): Promise<DashboardServer> {
  try {
    return await DashboardServer.listen({ host: HOST, port: port ?? USUAL_PORT }, source);
  } catch (error) {
    if (port !== undefined || !(error instanceof ParameterError)) throw error;
    return DashboardServer.listen({ host: HOST, port: 0 }, source);
  }
}
