/**
 * Options that ask QEMU a question instead of starting a VM: `-machine help`, `-cpu ?`, `-device NAME,help`. With a
 * QEMU as engine that QEMU answers them. Pure.
 */
import { wantsQemu } from './qemu-options.ts';

/** Options whose values are QEMU's alone. */
const ASKABLE = new Set(['machine', 'M', 'cpu', 'device', 'accel', 'vga', 'd', 'trace', 'audiodev', 'audio']);

/** The QEMU to ask and what; null: it is no question. */
export function questionIn(args: readonly string[]): { binary: string; args: string[] } | null {
  const valueOf = (wanted: (name: string, text: string) => boolean): number =>
    args.findIndex((arg, at) => /^--?\w/.test(arg) && wanted(arg.replace(/^--?/, ''), args[at + 1] ?? ''));
  if (!wantsQemu(args)) return null;
  const isHelp = (text: string): boolean => /(?:^|,)(?:help|\?)$/.test(text);
  const at = valueOf((name, text) => ASKABLE.has(name) && isHelp(text));
  if (at < 0) return null;
  const binary = valueOf((name) => name === 'qemu');
  return {
    binary: (binary < 0 ? undefined : args[binary + 1]) ?? 'qemu-system-x86_64',
    args: [args[at]!, args[at + 1]!],
  };
}
