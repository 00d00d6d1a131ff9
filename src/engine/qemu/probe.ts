/**
 * What a given qemu-system-x86_64 is and whether it can serve as an engine: asked from itself over QMP, on a machine of
 * type none, once for each state of the file. Facts: QEMU 7.2 is the first with `-netdev stream`; the capability
 * `x-ignore-shared` is older (4.0); a machine type's alias (`pc`) means another type in each version.
 */
import { accessSync, constants, statSync } from 'node:fs';
import path from 'node:path';
import { ColoError } from '../../base/errors.ts';
import type { QmpClient } from '../../qmp/client.ts';
import { BriefQemu } from './brief-qemu.ts';

const PROBE_DEADLINE_MS = 20_000;
const OLDEST = { major: 7, minor: 2 };
const INSTALL = 'install qemu-system-x86 7.2 or newer, or name another one with --qemu';

export interface QemuProbe {
  /** Where it was found. */
  readonly binary: string;
  /** `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`, as it says it. */
  readonly version: string;
  readonly major: number;
  readonly minor: number;
  /** Machine types and their aliases → the type's own name. */
  readonly machines: ReadonlyMap<string, string>;
  /** `tcg`, `kvm`: what was built in, which need not work on this host. */
  readonly accelerators: ReadonlySet<string>;
}

/** It cannot be had, or cannot serve; the message says why. */
export class QemuUnusableError extends ColoError {}

const probes = new Map<string, Promise<QemuProbe>>();

/** `binary` is a path or a name in PATH. Throws QemuUnusableError. */
export async function probeQemu(binary: string, deadlineMs = PROBE_DEADLINE_MS): Promise<QemuProbe> {
  const file = findProgram(binary);
  if (!file) throw new QemuUnusableError(`${binary} cannot be run: there is no such program; ${INSTALL}`);
  if (!findProgram('setpriv')) {
    throw new QemuUnusableError('setpriv is missing, without which a QEMU outlives us; install util-linux');
  }
  const { size, mtimeMs } = statSync(file);
  const key = `${size} ${mtimeMs} ${file}`;
  let probe = probes.get(key);
  if (!probe) {
    probe = ask(file, deadlineMs);
    probes.set(key, probe);
    // What failed may be mended by then.
    probe.catch(() => probes.delete(key));
  }
  return probe;
}

/** The path of a program as execvp(3) finds it; null: nowhere. */
export function findProgram(name: string): string | null {
  const places = name.includes('/') ? [''] : (process.env['PATH'] ?? '').split(':').filter((at) => at !== '');
  for (const place of places) {
    const file = path.resolve(place, name);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      // the next one
    }
  }
  return null;
}

async function ask(binary: string, deadlineMs: number): Promise<QemuProbe> {
  const args = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
  const qemu = new BriefQemu(binary, args);
  try {
    return await qemu.qmp(deadlineMs).then((qmp) => survey(binary, qmp, deadlineMs));
  } catch (cause) {
    if (cause instanceof QemuUnusableError) throw cause;
    // Its answers are taken as QEMU's; where they are not, that shows here.
    const why = cause instanceof ColoError ? await qemu.reasonOf(cause) : 'it does not answer as QEMU does';
    throw new QemuUnusableError(`${binary} is of no use: ${why}; ${INSTALL}`, { cause });
  } finally {
    await qemu.kill();
  }
}

interface Machine {
  readonly name: string;
  readonly alias?: string;
}

async function survey(binary: string, qmp: QmpClient, timeoutMs: number): Promise<QemuProbe> {
  const asked = (command: string, args: Record<string, unknown> = {}): Promise<unknown> =>
    qmp.execute(command, args, { timeoutMs });
  const { qemu, package: built } = qmp.greeting.QMP.version;
  const version = `${qemu.major}.${qemu.minor}.${qemu.micro}${built === '' ? '' : ` (${built})`}`;
  const isOld = qemu.major < OLDEST.major || (qemu.major === OLDEST.major && qemu.minor < OLDEST.minor);
  if (isOld) {
    throw new QemuUnusableError(
      `${binary} is QEMU ${version}; 7.2 or newer is needed, for -netdev stream: ${INSTALL}`,
    );
  }
  const lacks = (what: string): QemuUnusableError =>
    new QemuUnusableError(`${binary}, QEMU ${version}, was built without ${what}; ${INSTALL}`);
  const { arch } = (await asked('query-target')) as { arch: string };
  if (arch !== 'x86_64' && arch !== 'i386') {
    throw new QemuUnusableError(`${binary} is a QEMU for ${arch}; name a qemu-system-x86_64 with --qemu`);
  }
  const capabilities = (await asked('query-migrate-capabilities')) as { capability: string }[];
  for (const needed of ['x-ignore-shared', 'events']) {
    if (!capabilities.some(({ capability }) => capability === needed)) {
      throw lacks(`the migration capability ${needed}`);
    }
  }
  const schema = (await asked('query-qmp-schema')) as { 'meta-type': string; values?: string[] }[];
  // Names of types are hidden in the schema; the one with these two values is the netdevs'.
  const hasStream = schema.some(({ values }) => values?.includes('hubport') && values.includes('stream'));
  if (!hasStream) throw lacks('-netdev stream');
  const typesOf = async (parent: string): Promise<string[]> => {
    const types = (await asked('qom-list-types', { implements: parent })) as { name: string }[];
    return types.map(({ name }) => name);
  };
  if (!(await typesOf('memory-backend')).includes('memory-backend-file')) throw lacks('memory-backend-file');
  const machines = new Map<string, string>();
  for (const { name, alias } of (await asked('query-machines')) as Machine[]) {
    machines.set(name, name);
    if (alias !== undefined) machines.set(alias, name);
  }
  const accelerators = (await typesOf('accel'))
    .filter((name) => name.endsWith('-accel'))
    .map((name) => name.slice(0, -'-accel'.length));
  return {
    binary,
    version,
    major: qemu.major,
    minor: qemu.minor,
    machines,
    accelerators: new Set(accelerators),
  };
}
