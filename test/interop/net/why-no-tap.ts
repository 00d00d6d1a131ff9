/** Why a test with a TAP device in a network namespace of its own cannot run here, or false. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';

export function whyNoTap(): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  if (!existsSync('/dev/net/tun')) return 'no /dev/net/tun';
  const name = `colo-probe-${process.pid}`;
  try {
    execFileSync('ip', ['netns', 'add', name], { stdio: 'ignore' });
    execFileSync('ip', ['netns', 'exec', name, 'ip', 'tuntap', 'add', 'dev', 't0', 'mode', 'tap'], {
      stdio: 'ignore',
    });
    return false;
  } catch {
    return 'network namespaces or TAP devices cannot be made here';
  } finally {
    try {
      execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' });
    } catch {
      // It was never made.
    }
  }
}
