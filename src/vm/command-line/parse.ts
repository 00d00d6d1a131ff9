/**
 * `colo vm`'s command line: QEMU's options as a table (qemu-options.hx for names and arities). Each is honoured, or
 * understood with a warning because it changes nothing on this engine, or refused by name.
 */
import { ParameterError, messageOf } from '../../base/errors.ts';
import { emptyConfig } from './config.ts';
import type { StreamTarget, VmConfig } from './config.ts';
import { parseEither, parseOptions, refuseUnknown } from './keyval.ts';
import type { Options } from './keyval.ts';
import {
  setAccel,
  setAction,
  setBoot,
  setCpu,
  setCpus,
  setDisplay,
  setMachine,
  setMemory,
  setName,
  setOvercommit,
  setRtc,
  setSandbox,
  setUuid,
  setVga,
} from './machine-options.ts';
import { addNamed, checkId } from './named-options.ts';
import { noteOrigin, originOf } from './origin.ts';
import { QEMU_OPTIONS, SHARED, wantsQemu } from './qemu-options.ts';
import { whyQemuRefuses } from './qemu-refused.ts';
import { whyRefused } from './refused.ts';
import { checkStdio, streamTarget, takeChardev } from './stream-target.ts';

/** `value` is empty for an option without one; `spelt` is the option as typed. */
type Apply = (config: VmConfig, value: string, spelt: string) => void;

interface OptionSpec {
  readonly takesValue: boolean;
  readonly apply: Apply;
}

const value = (apply: Apply): OptionSpec => ({ takesValue: true, apply });
const flag = (apply: Apply): OptionSpec => ({ takesValue: false, apply });
/** Understood, without effect on the embedded engine, and said so. */
const unheeded = (takesValue: boolean, why: string): OptionSpec => ({
  takesValue,
  apply: (config, text) => {
    config.warnings.push(`${text}: ${why}`);
  },
});
/** Understood, and what it asks for is the case anyway. */
const already = (takesValue: boolean): OptionSpec => ({ takesValue, apply: () => undefined });

const OPTIONS: ReadonlyMap<string, OptionSpec> = new Map<string, OptionSpec>([
  ['name', value(setName)],
  ['machine', value(setMachine)],
  ['M', value(setMachine)],
  ['accel', value(setAccel)],
  ['enable-kvm', flag((config, _value, spelt) => setAccel(config, 'kvm', spelt))],
  ['cpu', value(setCpu)],
  ['m', value(setMemory)],
  ['smp', value(setCpus)],
  ['qmp', value(addQmp)],
  ['qmp-pretty', value(addQmp)],
  ['mon', value(addMonitor)],
  ['monitor', value(setMonitor)],
  ['serial', value(setSerial)],
  ['parallel', value(onlyNone)],
  ['nographic', flag((config) => (config.nographic = true))],
  ['display', value(setDisplay)],
  ['vnc', unheeded(true, 'the v86 engine has no VNC server; use the serial console')],
  ['vga', value(setVga)],
  ['usb', unheeded(false, 'the v86 engine has no USB, the guest runs without it')],
  ['usbdevice', unheeded(true, 'the v86 engine has no USB, the guest runs without it')],
  ['nodefaults', flag((config) => (config.noDefaults = true))],
  ['no-user-config', already(false)],
  ['nodefconfig', already(false)],
  ['chardev', value((config, text) => addNamed('chardev', config.chardevs, parseEither(text, 'backend')))],
  ['netdev', value((config, text) => addNamed('netdev', config.netdevs, parseEither(text, 'type'), TYPE_ID))],
  [
    'object',
    value((config, text) => addNamed('object', config.objects, parseEither(text, 'qom-type'), QOM_ID)),
  ],
  ['drive', value((config, text) => addNamed('drive', config.drives, parseOptions(text)))],
  ['blockdev', value((config, text) => config.blockdevs.push(parseEither(text, 'driver')))],
  ['hda', value((config, text) => addDisk(config, '0', text))],
  ['hdb', value((config, text) => addDisk(config, '1', text))],
  ['device', value(addDevice)],
  ['nic', value(setNic)],
  ['net', value(setNic)],
  ['incoming', value((config, text) => (config.incoming = text))],
  ['S', flag((config) => (config.startPaused = true))],
  ['no-shutdown', flag((config) => (config.noShutdown = true))],
  ['no-reboot', flag((config) => (config.noReboot = true))],
  ['bios', value((config, text) => (config.bios = text))],
  ['pidfile', value((config, text) => (config.pidfile = text))],
  ['boot', value(setBoot)],
  ['rtc', value(setRtc)],
  ['uuid', value(setUuid)],
  ['k', already(true)],
  ['msg', already(true)],
  ['L', already(true)],
  ['no-acpi', already(false)],
  ['no-hpet', already(false)],
  ['global', unheeded(true, 'the v86 engine has no properties to set')],
  ['sandbox', value(setSandbox)],
  ['overcommit', value(setOvercommit)],
  ['watchdog-action', already(true)],
  ['action', value(setAction)],
  ['D', unheeded(true, 'logs go to standard error; COLO_LOG sets how much is told')],
  ['daemonize', flag(refuseDaemon)],
]);

const TYPE_ID = ['type', 'id'];
const QOM_ID = ['qom-type', 'id'];

/**
 * Throws ParameterError whose message begins with the option, as QEMU's does: `-foo: invalid option`.
 * `-h` and `--version` are the caller's.
 */
export function parseCommandLine(args: readonly string[]): VmConfig {
  const config = emptyConfig();
  const isQemu = wantsQemu(args);
  for (let at = 0; at < args.length; at++) {
    const given = args[at]!;
    const name = given.startsWith('--') ? given.slice(2) : given.startsWith('-') ? given.slice(1) : null;
    if (name === null) {
      // As in QEMU a bare argument is the first disk.
      addDisk(config, '0', given);
      noteOrigins(config, given);
      continue;
    }
    const spec = isQemu ? optionOfQemu(name) : OPTIONS.get(name);
    if (!spec) throw new ParameterError(`${given}: ${whyNot(name, isQemu)}`);
    let text = '';
    if (spec.takesValue) {
      const next = args[++at];
      if (next === undefined) throw new ParameterError(`${given}: requires an argument`);
      text = next;
    }
    const spelt = spec.takesValue ? `${given} ${text}` : given;
    const warned = config.warnings.length;
    try {
      spec.apply(config, text, spelt);
    } catch (cause) {
      throw new ParameterError(`${spelt}: ${messageOf(cause)}`, { cause });
    }
    noteOrigins(config, spelt);
    for (let i = warned; i < config.warnings.length; i++) {
      config.warnings[i] = `-${name}${spec.takesValue ? ' ' : ''}${config.warnings[i]!}`;
    }
  }
  config.qmp = config.qmp.map((target) => takeChardev(config, target));
  addConsole(config);
  checkStdio(config);
  return config;
}

function optionOfQemu(name: string): OptionSpec | undefined {
  return QEMU_OPTIONS.get(name) ?? (SHARED.has(name) ? OPTIONS.get(name) : undefined);
}

function whyNot(name: string, isQemu: boolean): string {
  if (isQemu) return whyQemuRefuses(name) ?? 'invalid option';
  const why = whyRefused(name);
  if (!QEMU_OPTIONS.has(name)) return why ?? whyQemuRefuses(name) ?? 'invalid option';
  const isPlain = why === null || !why.startsWith('not supported');
  return `${isPlain ? 'not on the v86 engine' : why}; with -accel kvm or tcg it is there`;
}

/** The newest entry of each list is the one that this option made, if it made one. */
function noteOrigins(config: VmConfig, spelt: string): void {
  for (const list of [
    config.chardevs,
    config.netdevs,
    config.objects,
    config.drives,
    config.blockdevs,
    config.devices,
  ]) {
    const newest = list.at(-1);
    if (newest && originOf(newest, '') === '') noteOrigin(newest, spelt);
  }
}

/** -nographic: the guest's console is standard output, unless the monitor is there or nothing was to be added. */
function addConsole(config: VmConfig): void {
  if (!config.nographic || config.noDefaults || config.serials.length > 0 || config.machine === 'none')
    return;
  const isTaken =
    config.qmp.some(({ type }) => type === 'stdio') ||
    config.chardevs.some(({ backend }) => backend === 'stdio');
  if (!isTaken) config.serials.push(streamTarget('stdio', '-nographic'));
}

function addDisk(config: VmConfig, index: string, file: string): void {
  config.drives.push({ if: 'ide', index, file } satisfies Options);
}

function addQmp(config: VmConfig, text: string, spelt: string): void {
  const target = streamTarget(text, spelt);
  if (target.type === 'file')
    throw new ParameterError('a monitor needs somebody to talk to; use a socket or stdio');
  config.qmp.push(target);
}

function setSerial(config: VmConfig, text: string, spelt: string): void {
  const target: StreamTarget = text === 'null' ? { type: 'null' } : streamTarget(text, spelt);
  const isPort = ({ type }: StreamTarget): boolean => type !== 'none';
  if (
    config.serials.filter(isPort).length >= (config.accel === 'v86' ? 1 : MAX_SERIAL_PORTS) &&
    isPort(target)
  ) {
    throw new ParameterError(
      config.accel === 'v86' ? 'the v86 engine has one serial port' : 'too many serial ports',
    );
  }
  config.serials.push(target);
}

/** A PC has so many (QEMU hw/isa/isa-superio.c). */
const MAX_SERIAL_PORTS = 4;

function addMonitor(config: VmConfig, text: string, spelt: string): void {
  const options = parseOptions(text, 'chardev');
  refuseUnknown(options, ['chardev', 'mode', 'pretty', 'id']);
  if (options['chardev'] === undefined) throw new ParameterError("Parameter 'chardev' is missing");
  if (options['mode'] !== 'control')
    throw new ParameterError('there is no human monitor; use mode=control (QMP)');
  const target: StreamTarget = { type: 'chardev', id: options['chardev'] };
  noteOrigin(target, spelt);
  config.qmp.push(target);
}

function setMonitor(_config: VmConfig, text: string): void {
  if (text !== 'none')
    throw new ParameterError('there is no human monitor; use -qmp and human-monitor-command');
}

function refuseDaemon(): void {
  throw new ParameterError(
    'the VM stays in the foreground; let a service manager or the shell put it into the background',
  );
}

function onlyNone(_config: VmConfig, text: string): void {
  if (text !== 'none') throw new ParameterError('the v86 engine has no such port');
}

function addDevice(config: VmConfig, text: string): void {
  const { driver, ...options } = parseEither(text, 'driver');
  if (driver === undefined) throw new ParameterError("Parameter 'driver' is missing");
  checkId(
    'device',
    options['id'],
    config.devices.map((other) => other.options['id']),
  );
  const json = text.startsWith('{') ? { json: JSON.parse(text) as Record<string, unknown> } : {};
  config.devices.push({ driver, options, ...json });
}

function setNic(_config: VmConfig, text: string): void {
  if (text !== 'none') throw new ParameterError('use -netdev and -device');
}
