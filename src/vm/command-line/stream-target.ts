/**
 * `-qmp`, `-serial` and their like name a character stream in a short form of its own (QEMU chardev/char.c,
 * qemu_chr_parse_compat): `stdio`, `unix:PATH,server=on,wait=off`, `tcp:HOST:PORT`. What the words behind the address mean is
 * chardev/options.ts's. Also the rule that a process has one standard input.
 */
import { ParameterError } from '../../base/errors.ts';
import type { StreamTarget, VmConfig } from './config.ts';
import { parseOptions } from './keyval.ts';
import { noteOrigin, originOf } from './origin.ts';

/** Forms of QEMU's that are not served. */
const UNSUPPORTED =
  /^(pty|vc|telnet:|telnets:|websocket:|udp:|fifo|pipe:|mux|msmouse|braille|wctablet|testdev|COM\d|con:|\/dev\/)/;

/**
 * `spelt`: the option as typed. An empty host stands for this host: QMP has no authentication, so that a monitor on
 * every address (QEMU's meaning) has to be asked for by 0.0.0.0. Throws ParameterError.
 */
export function streamTarget(text: string, spelt: string): StreamTarget {
  const target = parseTarget(text);
  noteOrigin(target, spelt);
  return target;
}

function parseTarget(text: string): StreamTarget {
  if (text === 'none' || text === 'null') return { type: 'none' };
  if (text === 'stdio' || text === 'mon:stdio') return { type: 'stdio' };
  if (text.startsWith('chardev:')) return { type: 'chardev', id: text.slice('chardev:'.length) };
  if (text.startsWith('file:')) return { type: 'file', path: text.slice('file:'.length) };
  const unix = /^unix:((?:[^,]|,,)+)(,.*)?$/.exec(text);
  if (unix) return { type: 'socket', options: parseOptions(`path=${unix[1]!}${unix[2] ?? ''}`) };
  const tcp = /^tcp:(?:\[([^\]]+)\]|([^:,]*)):([^,:]+)(,.*)?$/.exec(text);
  if (tcp) {
    const host = tcp[1] ?? (tcp[2] === '' ? '127.0.0.1' : tcp[2]!);
    return { type: 'socket', options: parseOptions(`host=${host},port=${tcp[3]!}${tcp[4] ?? ''}`) };
  }
  const what = UNSUPPORTED.test(text) ? 'not supported' : 'not a valid character device';
  throw new ParameterError(`'${text}' is ${what}; use stdio, none, unix:PATH or tcp:HOST:PORT`);
}

/** `-mon chardev=ID` on `-chardev socket,id=ID`: the monitor has a server of its own, so it takes the option over. */
export function takeChardev(config: VmConfig, target: StreamTarget): StreamTarget {
  if (target.type !== 'chardev') return target;
  const { id } = target;
  const spelt = originOf(target, `-mon chardev=${id}`);
  const options = config.chardevs.find((chardev) => chardev['id'] === id);
  if (!options) throw new ParameterError(`${spelt}: chardev "${id}" not found`);
  config.chardevs = config.chardevs.filter((chardev) => chardev !== options);
  const taken = monitorTarget(options['backend']);
  if (!taken) throw new ParameterError(`${spelt}: use a socket, stdio or null chardev`);
  const moved: StreamTarget = taken === 'socket' ? { type: 'socket', options } : { type: taken };
  noteOrigin(moved, originOf(options, spelt));
  return moved;
}

function monitorTarget(backend: string | undefined): 'socket' | 'stdio' | 'none' | null {
  if (backend === 'socket' || backend === 'stdio') return backend;
  return backend === 'null' ? 'none' : null;
}

/** Throws ParameterError naming the second option that wants standard input. */
export function checkStdio(config: VmConfig): void {
  const users = [
    ...config.chardevs.filter(({ backend }) => backend === 'stdio'),
    ...config.serials.filter(({ type }) => type === 'stdio'),
    ...config.qmp.filter(({ type }) => type === 'stdio'),
  ];
  const second = users[1];
  if (second) {
    throw new ParameterError(`${originOf(second, 'stdio')}: cannot use stdio by multiple character devices`);
  }
}
