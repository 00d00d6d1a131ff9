/**
 * Starts one `colo vm` process so that it outlives us: in a session of its own, with no stream of ours, in its own folder.
 * Neither our death nor a terminal's reaches it. (Under systemd the unit needs KillMode=process, or the whole control
 * group is killed.)
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { ClosedError, ColoError, messageOf } from '../../base/errors.ts';
import { coloCommand } from '../../base/this-program.ts';
import { identityOf, killProcess } from './process-identity.ts';
import { PROCESS_RECORD_VERSION, writeRecord } from './process-record.ts';
import type { ProcessRecord } from './process-record.ts';
import { RoomVm } from './room-vm.ts';
import { openLog } from './vm-log.ts';
import type { VmPaths } from './vm-paths.ts';

/** From the start of the process to its monitor's greeting; a big guest's RAM is made in it. */
const START_DEADLINE_MS = 60_000;
/** What systemd tells its own children; a VM is none of them. */
const DAEMON_ENVIRONMENT = new Set(
  ['NOTIFY_SOCKET', 'WATCHDOG_PID', 'WATCHDOG_USEC', 'LISTEN_FDS', 'LISTEN_PID'].concat([
    'LISTEN_FDNAMES',
    'JOURNAL_STREAM',
    'INVOCATION_ID',
  ]),
);

export interface Launch extends Pick<ProcessRecord, 'name' | 'startedAs' | 'specHash'> {
  readonly options: readonly string[];
  readonly paths: VmPaths;
  readonly logLevel: string | undefined;
  readonly hasVnc: boolean;
}

/** Throws ColoError when there is no process or no record of it; one that was started is being killed then. */
export function launch({ name, startedAs, specHash, options, paths, logLevel, hasVnc }: Launch): RoomVm {
  const { command, args } = coloCommand(
    ...['vm', '-name', name, '-qmp', paths.qmpWord],
    ...['-serial', `unix:${paths.serial.replaceAll(',', ',,')},server=on,wait=off`],
    ...(hasVnc ? ['-vnc', `unix:${paths.vnc.replaceAll(',', ',,')}`] : []),
    ...(startedAs === 'primary' ? ['-S'] : []),
    ...options,
  );
  const { fd, offset } = open(name, startedAs, paths.log);
  try {
    const child = spawn(command, args, {
      detached: true,
      stdio: ['ignore', fd, fd],
      cwd: paths.stateFolder,
      env: environment(logLevel),
    });
    child.on('error', () => undefined); // there is no pid then
    child.unref();
    const identity = child.pid === undefined ? null : identityOf(child.pid);
    if (!identity) throw new ColoError(`VM '${name}': '${command}' cannot be started`);
    const record = {
      version: PROCESS_RECORD_VERSION,
      ...{ name, startedAs, specHash },
      ...identity,
      ...{ qmp: paths.qmp, logOffset: offset },
    };
    try {
      writeRecord(paths.record, record);
    } catch (cause) {
      // Nobody would find it again.
      killProcess(identity);
      throw new ColoError(`VM '${name}': ${paths.record} cannot be written: ${messageOf(cause)}`, { cause });
    }
    return new RoomVm(record, paths, child);
  } finally {
    closeSync(fd);
  }
}

/** Resolves when its monitor answers and its console is heard. Throws ColoError with its last words; it is gone then. */
export async function untilReady(vm: RoomVm): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const why = `does not answer on its monitor within ${START_DEADLINE_MS} ms; its log is ${vm.logPath}`;
    timer = setTimeout(() => reject(new ColoError(`VM '${vm.name}' ${why}`)), START_DEADLINE_MS);
  });
  try {
    await Promise.race([Promise.all([vm.qmp.connected(), vm.console.opened, vm.console.ready]), late]);
  } catch (error) {
    await vm.kill();
    if (!(error instanceof ClosedError)) throw error;
    const { code, signal, lastWords } = await vm.exited;
    const how = signal === null ? `with status ${code ?? 'unknown'}` : `by ${signal}`;
    throw new ColoError(`VM '${vm.name}' ended at its start ${how}: ${lastWords || 'it said nothing'}`, {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
  }
}

function open(name: string, startedAs: string, file: string): ReturnType<typeof openLog> {
  try {
    return openLog(file, `starting '${name}' as ${startedAs}`);
  } catch (cause) {
    throw new ColoError(`VM '${name}': its log ${file} cannot be opened: ${messageOf(cause)}`, { cause });
  }
}

function environment(logLevel: string | undefined): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(([key]) => !DAEMON_ENVIRONMENT.has(key));
  return { ...Object.fromEntries(entries), ...(logLevel === undefined ? {} : { COLO_LOG: logLevel }) };
}
