/**
 * Whether KVM boots the demo's guest on this host, found out by booting it: its kernel and its services, not only the
 * firmware. That /dev/kvm is there does not say so: within another virtual machine it may run the BIOS and stop at the
 * first instruction that its emulator lacks. QEMU prints "KVM internal error" then and stands still for ever (asked of
 * QEMU 7.2).
 */
import { spawn } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { messageOf } from '../base/errors.ts';

export interface Accelerator {
  readonly name: 'kvm' | 'tcg';
  /** For people: why this one. */
  readonly reason: string;
}

export interface AcceleratorQuestion {
  readonly binary: string;
  /** A bootable image of `colo guest`; it is not changed. */
  readonly image: string;
  /** Its format, qcow2 unless given. */
  readonly format?: 'qcow2' | 'raw';
  readonly device?: string;
  readonly patienceMs?: number;
}

const READY = 'colo-guest: ready';
/** With KVM the guest serves within two seconds. */
const PATIENCE_MS = 15_000;
const KEPT_CHARS = 64 * 1024;

/** KVM where it boots the guest, else TCG. Never throws: a QEMU that cannot run at all is found when it is to run. */
export async function acceleratorFor(question: AcceleratorQuestion): Promise<Accelerator> {
  const device = question.device ?? '/dev/kvm';
  try {
    await access(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    return { name: 'tcg', reason: `${device} cannot be used: ${messageOf(error)}` };
  }
  const trouble = await bootWithKvm(question);
  if (trouble === null) return { name: 'kvm', reason: `${device} boots a guest` };
  return { name: 'tcg', reason: `${device} boots no guest: ${trouble}` };
}

/** Resolves with null when the guest serves, else with what went wrong. */
function bootWithKvm({
  binary,
  image,
  format = 'qcow2',
  patienceMs = PATIENCE_MS,
}: AcceleratorQuestion): Promise<string | null> {
  const drive = `file=${image.replaceAll(',', ',,')},format=${format},if=virtio,snapshot=on`;
  const machine = ['-accel', 'kvm', '-m', '256', '-no-user-config', '-nic', 'none', '-drive', drive];
  const around = ['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-no-reboot'];
  const child = spawn(binary, [...machine, ...around], { stdio: ['ignore', 'pipe', 'pipe'] });
  return new Promise((resolve) => {
    let said = '';
    const answer = (trouble: string | null): void => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      resolve(trouble);
    };
    const listen = (chunk: string): void => {
      said = (said + chunk).slice(-KEPT_CHARS);
      if (said.includes(READY)) answer(null);
      const error = /^KVM internal error.*$/m.exec(said);
      if (error) answer(error[0]);
    };
    const timer = setTimeout(() => answer(`it did not serve within ${patienceMs / 1000} s`), patienceMs);
    child.stdout.setEncoding('latin1').on('data', listen);
    child.stderr.setEncoding('latin1').on('data', listen);
    child.once('error', (error) => answer(messageOf(error)));
    child.once('close', () => answer(said.trim().split('\n').at(-1) ?? 'QEMU ended'));
  });
}
