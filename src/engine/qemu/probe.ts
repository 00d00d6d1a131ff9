/**
 * What a given qemu-system-x86_64 is and whether it can serve as an engine: asked once a binary, from itself.
 * Facts: docs/qemu-behaviour.md 11 (which versions have `-netdev stream` and `x-ignore-shared`).
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ColoError, messageOf } from '../../base/errors.ts';

const run = promisify(execFile);
const PROBE_DEADLINE_MS = 20_000;

export interface QemuProbe {
  readonly binary: string;
  /** `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`, as it says it. */
  readonly version: string;
  readonly major: number;
  readonly minor: number;
}

/** It cannot be had, or cannot serve; the message says why. */
export class QemuUnusableError extends ColoError {}

const probes = new Map<string, Promise<QemuProbe>>();

/** `binary` is a path or a name in PATH. Throws QemuUnusableError. */
export function probeQemu(binary: string): Promise<QemuProbe> {
  let probe = probes.get(binary);
  if (!probe) {
    probe = ask(binary);
    probes.set(binary, probe);
    // What failed may be mended by then.
    probe.catch(() => probes.delete(binary));
  }
  return probe;
}

async function ask(binary: string): Promise<QemuProbe> {
  let text: string;
  try {
    ({ stdout: text } = await run(binary, ['-version'], { timeout: PROBE_DEADLINE_MS }));
  } catch (cause) {
    throw new QemuUnusableError(
      `${binary} cannot be run: ${messageOf(cause).split('\n', 1)[0] ?? ''}; install qemu-system-x86 or name it with --qemu`,
      { cause },
    );
  }
  const found = /version ((\d+)\.(\d+)\.\S+(?: \([^)\n]*\))?)/.exec(text);
  if (!found) throw new QemuUnusableError(`${binary} does not say that it is QEMU (-version)`);
  const [, version = '', major = '', minor = ''] = found;
  const probe = { binary, version, major: Number(major), minor: Number(minor) };
  if (probe.major < 7 || (probe.major === 7 && probe.minor < 2)) {
    throw new QemuUnusableError(`${binary} is QEMU ${version}; 7.2 or newer is needed for -netdev stream`);
  }
  return probe;
}
