/**
 * Which machine a stock QEMU is to be: the QEMU, its accelerator and its machine type as they are on this host, and what
 * both sides of a pair must have alike. Aliases (`pc`) are resolved here: they mean another machine in each version.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { ParameterError, messageOf } from '../base/errors.ts';
import { systemErrorText } from '../chardev/system-errors.ts';
import { QemuUnusableError, chooseAccelerator, probeQemu } from '../engine/qemu/index.ts';
import type { QemuProbe } from '../engine/qemu/index.ts';
import type { VmConfig } from './command-line/config.ts';

export interface ChosenQemu {
  readonly qemu: QemuProbe;
  /** The value of -machine, its type by its own name. */
  readonly machine: string;
  /** -accel and what goes on to QEMU as it is. */
  readonly args: readonly string[];
  readonly hasIrqfd: boolean;
  readonly identity: readonly string[];
}

/** Throws ColoError: no such QEMU, machine type, accelerator or file. `warn`: an accelerator is passed over. */
export async function chooseQemu(config: VmConfig, warn: (text: string) => void): Promise<ChosenQemu> {
  const { binary, accelerators, machine, args, identity, files } = config.qemu;
  const option = config.accelOption;
  const qemu = await named(option, probeQemu(binary));
  const type = nameMachine(qemu, machine);
  const told = (text: string): void => warn(`${option}: ${text}`);
  const accel = await named(option, chooseAccelerator(qemu, accelerators, told));
  const contents = await Promise.all(files.map(({ option, path }) => contentOf(option, path)));
  return {
    qemu,
    machine: type,
    args: ['-accel', accel.text, ...args],
    hasIrqfd: accel.name === 'kvm' && !/kernel[-_]irqchip=off/.test(`${accel.text},${machine ?? ''}`),
    identity: [`-accel ${accel.text}`, ...identity, ...contents],
  };
}

async function named<T>(option: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw new QemuUnusableError(`${option}: ${messageOf(cause)}`, { cause });
  }
}

function nameMachine(qemu: QemuProbe, machine: string | null): string {
  const [type = '', ...properties] = (machine ?? 'pc').split(/,(.*)/s, 2);
  const name = qemu.machines.get(type);
  if (name === undefined) {
    throw new ParameterError(
      `-machine ${type}: unsupported machine type; QEMU ${qemu.version} has pc, q35 and more (-machine help)`,
    );
  }
  return [name, ...properties].join(',');
}

/** The same content is the same, wherever it lies. What is no file here is a name that QEMU looks up itself. */
async function contentOf(option: string, path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(path), hash);
  } catch (cause) {
    const isAbsent = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (isAbsent && !path.includes('/')) return `${option} ${path}`;
    throw new ParameterError(`${option} ${path}: Could not open '${path}': ${systemErrorText(cause)}`, {
      cause,
    });
  }
  return `${option} with sha256 ${hash.digest('hex').slice(0, 16)}`;
}
