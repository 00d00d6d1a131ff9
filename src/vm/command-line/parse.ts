/**
 * `colo vm`'s command line: QEMU's options as a table (qemu-options.hx for names and arities). Each is honoured, or
 * understood with a warning because it changes nothing on this engine, or refused by name.
 */
import { ParameterError, messageOf } from '../../base/errors.ts';
import { emptyConfig } from './config.ts';
import type { StreamTarget, VmConfig } from './config.ts';
import { addNamed, checkId } from './named-options.ts';
import { parseEither, parseOptions, parseSize } from './keyval.ts';

const MIB = 1024 * 1024;

interface OptionSpec {
  readonly takesValue: boolean;
  readonly apply: (config: VmConfig, value: string) => void;
}

const value = (apply: (config: VmConfig, value: string) => void): OptionSpec => ({ takesValue: true, apply });
const flag = (apply: (config: VmConfig) => void): OptionSpec => ({ takesValue: false, apply });
/** Understood, without effect on the embedded engine, and said so. */
const unheeded = (takesValue: boolean, why: string): OptionSpec => ({
  takesValue,
  apply: (config, text) => {
    config.warnings.push(takesValue ? `${text}: ${why}` : why);
  },
});
/** Understood, and what it asks for is the case anyway. */
const already = (takesValue: boolean): OptionSpec => ({ takesValue, apply: () => undefined });

const OPTIONS: ReadonlyMap<string, OptionSpec> = new Map<string, OptionSpec>([
  ['name', value((config, text) => (config.name = parseOptions(text, 'guest')['guest'] ?? null))],
  ['machine', value(setMachine)],
  ['M', value(setMachine)],
  ['accel', value((config, text) => setAccel(config, parseOptions(text, 'accel')['accel'] ?? ''))],
  ['enable-kvm', flag((config) => setAccel(config, 'kvm'))],
  ['cpu', already(true)],
  ['m', value(setMemory)],
  ['smp', value(setCpus)],
  ['qmp', value((config, text) => config.qmp.push(streamTarget(text)))],
  ['qmp-pretty', value((config, text) => config.qmp.push(streamTarget(text)))],
  ['mon', value(addMonitor)],
  ['monitor', value(setMonitor)],
  ['serial', value((config, text) => (config.serial ??= streamTarget(text)))],
  ['parallel', value(onlyNone)],
  ['nographic', flag((config) => (config.nographic = true))],
  ['display', already(true)],
  ['vnc', unheeded(true, 'the v86 engine has no VNC server; use the serial console')],
  ['vga', already(true)],
  ['usb', unheeded(false, 'the v86 engine has no USB, the guest runs without it')],
  ['usbdevice', unheeded(true, 'the v86 engine has no USB, the guest runs without it')],
  ['nodefaults', already(false)],
  ['no-user-config', already(false)],
  ['nodefconfig', already(false)],
  ['chardev', value((config, text) => addNamed('chardev', config.chardevs, parseEither(text, 'backend')))],
  [
    'netdev',
    value((config, text) => addNamed('netdev', config.netdevs, parseEither(text, 'type'), ['type', 'id'])),
  ],
  [
    'object',
    value((config, text) =>
      addNamed('object', config.objects, parseEither(text, 'qom-type'), ['qom-type', 'id']),
    ),
  ],
  ['drive', value((config, text) => addNamed('drive', config.drives, parseOptions(text)))],
  ['blockdev', value((config, text) => config.blockdevs.push(parseEither(text, 'driver')))],
  ['hda', value((config, text) => config.drives.push({ if: 'ide', index: '0', file: text }))],
  ['hdb', value((config, text) => config.drives.push({ if: 'ide', index: '1', file: text }))],
  ['device', value(addDevice)],
  ['nic', value(setNic)],
  ['net', value(setNic)],
  ['incoming', value((config, text) => (config.incoming = text))],
  ['S', flag((config) => (config.startPaused = true))],
  ['no-shutdown', flag((config) => (config.noShutdown = true))],
  ['no-reboot', flag((config) => (config.noReboot = true))],
  ['bios', value((config, text) => (config.bios = text))],
  ['pidfile', value((config, text) => (config.pidfile = text))],
  ['boot', already(true)],
  ['rtc', already(true)],
  ['uuid', already(true)],
  ['k', already(true)],
  ['msg', already(true)],
  ['L', already(true)],
  ['no-acpi', already(false)],
  ['no-hpet', already(false)],
  ['global', already(true)],
  ['sandbox', already(true)],
  ['overcommit', already(true)],
  ['watchdog-action', already(true)],
  ['action', value(setAction)],
  ['D', already(true)],
  ['daemonize', flag(refuseDaemon)],
]);

/**
 * Throws ParameterError whose message begins with the option, as QEMU's does: `-foo: invalid option`.
 * `-h` and `--version` are the caller's.
 */
export function parseCommandLine(args: readonly string[]): VmConfig {
  const config = emptyConfig();
  for (let at = 0; at < args.length; at++) {
    const given = args[at]!;
    const name = given.startsWith('--') ? given.slice(2) : given.startsWith('-') ? given.slice(1) : null;
    if (name === null) {
      // As in QEMU a bare argument is the first disk.
      config.drives.push({ if: 'ide', index: '0', file: given });
      continue;
    }
    const spec = OPTIONS.get(name);
    if (!spec) throw new ParameterError(`${given}: invalid option`);
    let text = '';
    if (spec.takesValue) {
      const next = args[++at];
      if (next === undefined) throw new ParameterError(`${given}: requires an argument`);
      text = next;
    }
    const warned = config.warnings.length;
    try {
      spec.apply(config, text);
    } catch (cause) {
      throw new ParameterError(`${given}${text === '' ? '' : ` ${text}`}: ${messageOf(cause)}`, { cause });
    }
    for (let i = warned; i < config.warnings.length; i++)
      config.warnings[i] = `-${name} ${config.warnings[i]!}`;
  }
  config.qmp = config.qmp.map((target) =>
    target.type === 'chardev' ? takeChardev(config, target.id) : target,
  );
  return config;
}

/** `-mon chardev=ID` on `-chardev socket,id=ID`: the monitor has a server of its own, so it takes the option over. */
function takeChardev(config: VmConfig, id: string): StreamTarget {
  const options = config.chardevs.find((chardev) => chardev['id'] === id);
  if (!options) throw new ParameterError(`-mon chardev=${id}: chardev "${id}" not found`);
  config.chardevs = config.chardevs.filter((chardev) => chardev !== options);
  if (options['backend'] === 'stdio') return { type: 'stdio' };
  if (options['backend'] === 'null') return { type: 'none' };
  if (options['backend'] !== 'socket')
    throw new ParameterError(`-mon chardev=${id}: use a socket, stdio or null chardev`);
  return { type: 'socket', options };
}

function setMachine(config: VmConfig, text: string): void {
  const { type, accel } = parseOptions(text, 'type');
  if (type === 'none') config.machine = 'none';
  else if (type !== undefined && !/^(pc|q35|pc-i440fx-[\w.]+|pc-q35-[\w.]+)$/.test(type)) {
    throw new ParameterError(`unsupported machine type '${type}'; use pc or none`);
  }
  if (accel !== undefined) setAccel(config, accel);
}

function setAccel(config: VmConfig, text: string): void {
  const known = text.split(':').find((name) => name === 'v86' || name === 'kvm' || name === 'tcg');
  if (known === undefined) throw new ParameterError(`invalid accelerator ${text}`);
  config.accel = known;
}

function setMemory(config: VmConfig, text: string): void {
  const bytes = parseSize(parseOptions(text, 'size')['size'] ?? '', MIB);
  if (bytes === null || bytes < MIB || bytes > 2048 * MIB) {
    throw new ParameterError('the v86 engine takes from 1 MiB to 2 GiB of memory');
  }
  config.memoryBytes = bytes;
}

function setCpus(config: VmConfig, text: string): void {
  const cpus = Number(parseOptions(text, 'cpus')['cpus']);
  if (cpus !== 1) throw new ParameterError('the v86 engine has one CPU');
  config.cpus = cpus;
}

function addMonitor(config: VmConfig, text: string): void {
  const options = parseOptions(text, 'chardev');
  if (options['mode'] !== 'control')
    throw new ParameterError('there is no human monitor; use mode=control (QMP)');
  if (options['chardev'] === undefined) throw new ParameterError("Parameter 'chardev' is missing");
  config.qmp.push({ type: 'chardev', id: options['chardev'] });
}

function setMonitor(_config: VmConfig, text: string): void {
  if (text !== 'none')
    throw new ParameterError('there is no human monitor; use -qmp and human-monitor-command');
}

/** `-action shutdown=pause,reboot=shutdown`: the newer spelling of -no-shutdown and -no-reboot. */
function setAction(config: VmConfig, text: string): void {
  for (const [event, action] of Object.entries(parseOptions(text))) {
    if (event === 'shutdown') config.noShutdown = action === 'pause';
    else if (event === 'reboot') config.noReboot = action === 'shutdown';
    else if (event !== 'panic' && event !== 'watchdog')
      throw new ParameterError(`Invalid parameter '${event}'`);
  }
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
  config.devices.push({ driver, options });
}

function setNic(_config: VmConfig, text: string): void {
  if (text !== 'none') throw new ParameterError('use -netdev and -device');
}

/** `stdio`, `none`, `null`, `unix:PATH,server=on`, `tcp:HOST:PORT,server=on`, `chardev:ID`. */
export function streamTarget(text: string): StreamTarget {
  if (text === 'none' || text === 'null') return { type: 'none' };
  if (text === 'stdio') return { type: 'stdio' };
  if (text.startsWith('chardev:')) return { type: 'chardev', id: text.slice('chardev:'.length) };
  const unix = /^unix:((?:[^,]|,,)+)(,.*)?$/.exec(text);
  if (unix) return { type: 'socket', options: parseOptions(`path=${unix[1]!}${unix[2] ?? ''}`) };
  const tcp = /^tcp:(?:\[([^\]]+)\]|([^:,]*)):(\d+)(,.*)?$/.exec(text);
  if (tcp) {
    const host = tcp[1] ?? (tcp[2] === '' ? '127.0.0.1' : tcp[2]!);
    return { type: 'socket', options: parseOptions(`host=${host},port=${tcp[3]!}${tcp[4] ?? ''}`) };
  }
  throw new ParameterError(
    `'${text}' is not a character device; use stdio, none, unix:PATH or tcp:HOST:PORT`,
  );
}
