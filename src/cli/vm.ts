/** `colo vm`: one VM from QEMU's command line until it ends. */
import { writeFile } from 'node:fs/promises';
import { messageOf } from '../base/errors.ts';
import { ensureSeabios } from '../guest/host-tools.ts';
import { startMonitors } from '../monitor/monitors.ts';
import { QEMU_VERSION } from '../monitor/version.ts';
import { parseCommandLine } from '../vm/command-line/parse.ts';
import { VirtualMachine } from '../vm/machine.ts';

const HELP = `usage: PROGRAM [QEMU options]

A VM on the embedded v86 engine (-accel v86), with QEMU's options for machine, memory, netdevs, chardevs, objects,
drives, -incoming and QMP. docs/command-line.md lists what is honoured.
`;

/** Returns the exit status. Errors at start-up are one line on standard error, as QEMU's. */
export async function runVm(program: string, args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg === '-h' || arg === '-help' || arg === '--help')) {
    process.stdout.write(HELP.replace('PROGRAM', program));
    return 0;
  }
  if (args.some((arg) => arg === '-version' || arg === '--version')) {
    const { major, minor, micro } = QEMU_VERSION.qemu;
    process.stdout.write(`${program} (COLO), understands QEMU ${major}.${minor}.${micro}\n`);
    return 0;
  }
  let vm: VirtualMachine;
  const starting = new AbortController();
  const onSignal = (): void => starting.abort();
  process.once('SIGTERM', onSignal).once('SIGINT', onSignal);
  try {
    const config = parseCommandLine(args);
    for (const warning of config.warnings) process.stderr.write(`${program}: warning: ${warning}\n`);
    vm = await VirtualMachine.create(config, {
      firmware: ensureSeabios,
      warn: (text) => process.stderr.write(`${program}: warning: ${text}\n`),
      signal: starting.signal,
    });
    if (config.pidfile !== null) await writeFile(config.pidfile, `${process.pid}\n`);
  } catch (error) {
    process.stderr.write(`${program}: ${messageOf(error)}\n`);
    return 1;
  }
  process.off('SIGTERM', onSignal).off('SIGINT', onSignal);
  process.once('SIGTERM', () => vm.quit('host-signal')).once('SIGINT', () => vm.quit('host-signal'));
  let monitors: { close(): Promise<void> };
  try {
    monitors = await startMonitors(vm);
    await vm.start();
  } catch (error) {
    process.stderr.write(`${program}: ${messageOf(error)}\n`);
    await vm.close();
    return 1;
  }
  const status = await vm.ended;
  await monitors.close();
  await vm.close();
  return status;
}
