/**
 * Commands that are not ours, on an engine that has a monitor of its own (a stock QEMU): they are passed on to it as they
 * are, and answered with what it says. The exceptions are refused by name with the reason: those that would change the
 * machine or its disks behind our back, so that the other side of a pair had another one, or that would touch what lies
 * between QEMU and us.
 *
 * A command that a newer QEMU has and this file does not know is passed on, unless its name is one of a family that is
 * ours or refused: most new commands ask something or concern a device that is there, and a manager that knows them
 * would rather have them than wait for us.
 */
import { ColoError, CommandNotFoundError } from '../base/errors.ts';
import type { QmpErrorClass } from '../base/errors.ts';
import { QmpCommandError } from '../qmp/client.ts';
import type { VirtualMachine } from '../vm/machine.ts';

type Args = Readonly<Record<string, unknown>>;

const MIGRATION =
  'migration is done by this program; use migrate, migrate-incoming and x-colo-lost-heartbeat';
const DISK = 'the disks are block nodes of this program, which has no such command for them';
const MEDIUM = 'the medium of a drive cannot be changed: the other side of a pair would not follow';
const SNAPSHOT = 'snapshots of the whole machine are not supported; copy its disks with drive-backup';
const PLUG =
  'a device cannot be plugged in or out: the other side of a pair, and the next checkpoint, have the old ones';
const NETDEV = 'a netdev is given on the command line (-netdev)';
const CHARDEV = 'a chardev of this program has no such command; use chardev-remove and chardev-add';
const DESCRIPTOR = 'file descriptors cannot be passed on to the process that runs the guest';
const XEN = 'there is no Xen here';
const YANK = 'its connections are those to this program';

/** QMP command → why not. QEMU 7.2's; the families below hold for others. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  ...['migrate-continue', 'migrate-pause', 'migrate-recover', 'migrate-start-postcopy'].map(
    because(MIGRATION),
  ),
  ...['client_migrate_info', 'x-colo-lost-heartbeat'].map(because(MIGRATION)),
  ...['block-latency-histogram-set', 'block-set-write-threshold', 'block-stream'].map(because(DISK)),
  ...['block_set_io_throttle', 'blockdev-create', 'blockdev-reopen', 'blockdev-snapshot'].map(because(DISK)),
  ...['blockdev-snapshot-delete-internal-sync', 'blockdev-snapshot-internal-sync'].map(because(DISK)),
  ...['blockdev-snapshot-sync', 'change-backing-file', 'transaction', 'x-blockdev-amend'].map(because(DISK)),
  ...['x-blockdev-set-iothread', 'x-debug-block-dirty-bitmap-sha256'].map(because(DISK)),
  ['x-debug-query-block-graph', DISK],
  ...['blockdev-change-medium', 'blockdev-close-tray', 'blockdev-insert-medium'].map(because(MEDIUM)),
  ...['blockdev-open-tray', 'blockdev-remove-medium', 'eject'].map(because(MEDIUM)),
  ...['snapshot-delete', 'snapshot-load', 'snapshot-save'].map(because(SNAPSHOT)),
  ...['device_add', 'device_del'].map(because(PLUG)),
  ...['netdev_add', 'netdev_del'].map(because(NETDEV)),
  ...['chardev-change', 'chardev-send-break'].map(because(CHARDEV)),
  ...['add-fd', 'remove-fd', 'getfd', 'closefd', 'add_client'].map(because(DESCRIPTOR)),
  ...['xen-load-devices-state', 'xen-save-devices-state', 'xen-set-global-dirty-log'].map(because(XEN)),
  ['yank', YANK],
  ['display-update', 'the address of the VNC server is given on the command line (-vnc)'],
]);

/** Of a command that is in no table: what its name must not begin with. */
const REFUSED_FAMILIES: readonly (readonly [RegExp, string])[] = [
  [/^(x-)?migrat|^x-colo-|^cancel-migrat/, MIGRATION],
  [/^(x-)?(block|drive|nbd)[-_d]|^(x-)?job-/, DISK],
  [/^snapshot-/, SNAPSHOT],
  [/^device[-_](add|del|sync)/, PLUG],
  [/^netdev[-_]/, NETDEV],
  [/^chardev-/, CHARDEV],
  [/^object-/, 'objects are made by this program'],
  [/^xen-/, XEN],
];

/** Commands that may overtake others, of those that are passed on (QEMU: `allow-oob`). */
const OUT_OF_BAND = new Set(['query-yank']);

function because(reason: string): (name: string) => [string, string] {
  return (name) => [name, reason];
}

/** Why a command that is not ours is not passed on; null: it is. */
export function whyNotForwarded(name: string): string | null {
  const reason = REFUSED.get(name);
  if (reason !== undefined) return reason;
  if (name.startsWith('query-') || name.startsWith('x-query-')) return null;
  return REFUSED_FAMILIES.find(([family]) => family.test(name))?.[1] ?? null;
}

/** Names in the table, for the test that compares it with QEMU. */
export function refusedCommands(): string[] {
  return [...REFUSED.keys()];
}

/** Commands of the engine's that it is asked for. */
export function forwardedCommands(vm: VirtualMachine): string[] {
  const known = vm.engine?.monitor?.commands ?? new Set<string>();
  return [...known].filter((name) => whyNotForwarded(name) === null);
}

/** Whether a command that is not ours may overtake others; null: there is none of that name. */
export function forwardedOutOfBand(vm: VirtualMachine, name: string): boolean | null {
  return vm.engine?.monitor?.commands.has(name) === true ? OUT_OF_BAND.has(name) : null;
}

/** A command that is not ours. Throws CommandNotFoundError, the reason of its refusal, or the engine's error. */
export async function forward(vm: VirtualMachine, name: string, args: Args): Promise<unknown> {
  const monitor = vm.engine?.monitor;
  if (!monitor?.commands.has(name)) throw new CommandNotFoundError(`The command ${name} has not been found`);
  const reason = whyNotForwarded(name);
  if (reason !== null) throw new ColoError(`The command ${name} is not supported: ${reason}`);
  return askEngine(vm, name, args);
}

/** A command of the engine's, whatever its name. Throws the engine's error, its class and text unchanged. */
export async function askEngine(vm: VirtualMachine, name: string, args: Args = {}): Promise<unknown> {
  const monitor = vm.engine?.monitor;
  if (!monitor) throw new CommandNotFoundError(`The command ${name} has not been found`);
  try {
    return await monitor.execute(name, args);
  } catch (cause) {
    throw cause instanceof QmpCommandError ? new EngineError(cause) : cause;
  }
}

/** QEMU's own error as it goes out to the client. */
class EngineError extends ColoError {
  override readonly qmpClass: QmpErrorClass;

  constructor(cause: QmpCommandError) {
    super(cause.desc, { cause });
    this.qmpClass = cause.qmpClass;
  }
}
