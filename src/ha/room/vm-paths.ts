/** Where the files of one VM's process are. What outlives a reboot is in the state folder, what must not in the run folder. */
import path from 'node:path';
import { ColoError } from '../../base/errors.ts';

/** sun_path of unix(7), less the zero at its end. */
const MAX_SOCKET_PATH_BYTES = 107;

export interface RoomFolders {
  readonly stateFolder: string;
  readonly runFolder: string;
}

export interface VmPaths {
  readonly stateFolder: string;
  readonly runFolder: string;
  readonly log: string;
  readonly record: string;
  readonly qmp: string;
  /** The VM's first serial port, and where the daemon serves it to everybody. */
  readonly serial: string;
  readonly console: string;
  readonly consoleLog: string;
  /** Its VNC server, if it has one. */
  readonly vnc: string;
  /** The argument of -qmp, by which a process of this VM and this node is known among all others. */
  readonly qmpWord: string;
}

export function isVmName(name: string): boolean {
  return /^[a-z][a-z0-9-]{0,62}$/.test(name);
}

/** Throws ColoError for a name that is none, or one whose sockets would have names that are too long. */
export function vmPaths(folders: RoomFolders, name: string): VmPaths {
  // It becomes part of paths.
  if (!isVmName(name)) throw new ColoError(`'${name}' is no name of a VM`);
  const stateFolder = path.resolve(folders.stateFolder, 'vms', name);
  const runFolder = path.resolve(folders.runFolder, 'vms', name);
  const qmp = path.join(runFolder, 'qmp.sock');
  const paths = {
    stateFolder,
    runFolder,
    log: path.join(stateFolder, 'vm.log'),
    record: path.join(runFolder, 'process.json'),
    qmp,
    qmpWord: `unix:${qmp.replaceAll(',', ',,')},server=on,wait=off`,
    serial: path.join(runFolder, 'serial.sock'),
    console: path.join(runFolder, 'console.sock'),
    vnc: path.join(runFolder, 'vnc.sock'),
    consoleLog: path.join(stateFolder, 'console.log'),
  };
  const bytes = Buffer.byteLength(paths.console);
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    throw new ColoError(
      `VM '${name}': the socket ${paths.console} would have a name of ${bytes} bytes, and the kernel takes ` +
        `${MAX_SOCKET_PATH_BYTES}; set a shorter runFolder in the node's configuration, or give the VM a shorter name`,
    );
  }
  return paths;
}
