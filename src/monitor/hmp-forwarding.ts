/**
 * Lines of the human monitor that are not ours, on an engine that has a monitor of its own: passed on as they are, but
 * for those that are refused for the reasons of forwarding.ts. Names are those of QEMU's hmp-commands.hx.
 */
import { messageOf } from '../base/errors.ts';
import type { VirtualMachine } from '../vm/machine.ts';
import { askEngine, whyNotForwarded } from './forwarding.ts';

/** A line's name → the QMP command of which the reason is told. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  ...['block_job_cancel', 'block_job_complete', 'block_job_pause', 'block_job_resume'].map(
    like('block-stream'),
  ),
  ...['block_job_set_speed', 'block_resize', 'block_set_io_throttle', 'block_stream'].map(
    like('block-stream'),
  ),
  ...['commit', 'drive_backup', 'drive_mirror', 'snapshot_blkdev'].map(like('block-stream')),
  ...['snapshot_blkdev_internal', 'snapshot_delete_blkdev_internal'].map(like('block-stream')),
  ...['nbd_server_add', 'nbd_server_remove', 'nbd_server_start', 'nbd_server_stop'].map(like('block-stream')),
  ...['change', 'eject'].map(like('eject')),
  ...['savevm', 'loadvm', 'delvm'].map(like('snapshot-save')),
  ...['device_add', 'device_del'].map(like('device_add')),
  ...['netdev_add', 'netdev_del', 'hostfwd_add', 'hostfwd_remove'].map(like('netdev_add')),
  ...['chardev-add', 'chardev-change', 'chardev-remove', 'chardev-send-break'].map(like('chardev-change')),
  ...['object_add', 'object_del'].map(like('object-del')),
  ...['getfd', 'closefd'].map(like('getfd')),
  ...['migrate', 'migrate_cancel', 'migrate_continue', 'migrate_incoming'].map(like('migrate-pause')),
  ...['migrate_pause', 'migrate_recover', 'migrate_set_capability'].map(like('migrate-pause')),
  ...['migrate_set_parameter', 'migrate_start_postcopy', 'client_migrate_info'].map(like('migrate-pause')),
]);

/** What the engine would say of its own disks and migrations, which are not the machine's. */
const REFUSED_INFO: ReadonlyMap<string, string> = new Map([
  ...['block', 'blockstats', 'block-jobs', 'snapshots'].map(like('query-block')),
  ...['migrate', 'migrate_capabilities', 'migrate_parameters'].map(like('query-migrate')),
]);

function like(command: string): (name: string) => [string, string] {
  return (name) => [name, command];
}

/** Runs a line that is not ours; null: there is no engine that could know it. Never throws. */
export async function forwardLine(
  vm: VirtualMachine,
  line: string,
  words: readonly string[],
  cpuIndex?: number,
): Promise<string | null> {
  if (!vm.engine?.monitor) return null;
  const [name = '', what = ''] = words;
  const instead = name === 'info' ? REFUSED_INFO.get(what) : undefined;
  if (instead !== undefined)
    return `Error: info ${what} is not supported: use the QMP command ${instead}\r\n`;
  const refused = REFUSED.get(name);
  // `change vnc password` is the one that concerns no disk.
  if (refused !== undefined && !(name === 'change' && what === 'vnc')) {
    return `Error: ${name} is not supported: ${whyNotForwarded(refused) ?? ''}\r\n`;
  }
  try {
    const args = { 'command-line': line, ...(cpuIndex === undefined ? {} : { 'cpu-index': cpuIndex }) };
    return String(await askEngine(vm, 'human-monitor-command', args));
  } catch (error) {
    return `Error: ${messageOf(error)}\r\n`;
  }
}

/** Names in the tables, for the test that compares them with QEMU. */
export function refusedLines(): string[] {
  return [...REFUSED.keys(), ...[...REFUSED_INFO.keys()].map((what) => `info ${what}`)];
}
