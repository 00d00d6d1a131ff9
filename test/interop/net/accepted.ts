/** A connect ends in the kernel; a program accepts later, and what it writes before that is lost. */
import { execute } from '../../helpers/bare-process.ts';
import type { BareProcess } from '../../helpers/bare-process.ts';
import { until } from '../../helpers/colo.ts';

const PATIENCE_MS = 15_000;

/** Whether one of the chardevs named (default: any) has no peer. */
export async function isDisconnected(bare: BareProcess, names?: readonly string[]): Promise<boolean> {
  const chardevs = (await bare.type(execute('query-chardev'))) as { label: string; filename: string }[];
  return chardevs.some(
    ({ label, filename }) => (names?.includes(label) ?? true) && filename.startsWith('disconnected:'),
  );
}

/** Resolves when all chardevs named have a peer, and `streams` connections to stream netdevs have been told. */
export async function accepted(
  bare: BareProcess,
  { names, streams = 0 }: { readonly names?: readonly string[]; readonly streams?: number } = {},
): Promise<void> {
  await until('all connections are accepted', PATIENCE_MS, async () => {
    const told = bare.qmp.names().filter((name) => name === 'NETDEV_STREAM_CONNECTED').length;
    return told >= streams && !(await isDisconnected(bare, names));
  });
}
