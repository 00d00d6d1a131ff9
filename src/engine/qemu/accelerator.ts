/**
 * Which of the accelerators asked for can run a guest on this host. TCG always can. KVM may be there and still not run
 * one (nested in a hypervisor that lacks a feature, the guest stands in its firmware for ever, and QEMU does not end),
 * so it is tried: the firmware boots a sector that ends the QEMU with a status of its own. Facts, asked of QEMU 7.2: with
 * isa-debug-exit a guest's byte B ends QEMU with status 2 B + 1; under TCG that takes 0.4 s.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { BriefQemu } from './brief-qemu.ts';
import { QemuUnusableError } from './probe.ts';
import type { QemuProbe } from './probe.ts';
import { escapeOption } from './spec.ts';

const TRIAL_DEADLINE_MS = 8_000;
const EXIT_PORT = 0xf4;
const BYTE = 0x10;
/** mov al, BYTE; out EXIT_PORT, al; hlt: at the start of a boot sector. */
const PROGRAM = Uint8Array.from([0xb0, BYTE, 0xe6, EXIT_PORT, 0xf4]);

export interface Accelerator {
  /** `kvm` or `tcg`. */
  readonly name: string;
  /** The value of -accel: the name, and properties behind it. */
  readonly text: string;
}

/**
 * The first that works, as QEMU tries a list. `skipped` is told of those before it, each with the reason.
 * Throws QemuUnusableError when none does.
 */
export async function chooseAccelerator(
  probe: QemuProbe,
  wanted: readonly Accelerator[],
  skipped: (text: string) => void,
): Promise<Accelerator> {
  const reasons: string[] = [];
  for (const accelerator of wanted) {
    const reason = await whyUseless(probe, accelerator);
    if (reason === null) {
      for (const text of reasons) skipped(`${text}; ${accelerator.name} runs the guest instead`);
      return accelerator;
    }
    reasons.push(`${accelerator.name} cannot be used here: ${reason}`);
  }
  const hint = wanted.some(({ name }) => name === 'tcg') ? '' : '; -accel tcg runs everywhere, slower';
  throw new QemuUnusableError(`${reasons.join(', and ')}${hint}`);
}

async function whyUseless(probe: QemuProbe, { name, text }: Accelerator): Promise<string | null> {
  if (!probe.accelerators.has(name)) return `${probe.binary} was built without it`;
  return name === 'tcg' ? null : tryBoot(probe, text);
}

/** Null when a guest boots on that accelerator; else the reason, one line. */
export async function tryBoot(
  probe: QemuProbe,
  accel: string,
  deadlineMs = TRIAL_DEADLINE_MS,
): Promise<string | null> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'colo-trial-'));
  const file = path.join(folder, 'disk');
  const disk = new Uint8Array(4096);
  disk.set(PROGRAM);
  disk.set([0x55, 0xaa], 510);
  writeFileSync(file, disk);
  const exit = `isa-debug-exit,iobase=${EXIT_PORT},iosize=4`;
  const drive = `if=ide,format=raw,file=${escapeOption(file)}`;
  const qemu = new BriefQemu(probe.binary, [
    ...['-accel', accel, '-machine', 'pc', '-m', '32', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-no-reboot', '-device', exit, '-drive', drive],
  ]);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), deadlineMs)));
  try {
    const status = await Promise.race([qemu.ended, late]);
    if (status === BYTE * 2 + 1) return null;
    return status === null ? `a guest did not boot within ${deadlineMs / 1000} s` : await qemu.reasonOf(null);
  } finally {
    clearTimeout(timer);
    await qemu.kill();
    rmSync(folder, { recursive: true });
  }
}
