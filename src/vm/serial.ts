/**
 * The guest's serial ports, and other streams of its devices, on character streams: stdio, sockets, chardevs. Output with
 * nobody there is dropped. Towards the guest a stream is always open, whoever is at the other end: that changes with the
 * clients of a chardev and, on a secondary, with the process that executes the guest, and is neither's affair.
 */
import { ParameterError } from '../base/errors.ts';
import type { Chardev } from '../chardev/chardev.ts';
import { parseChardevOptions } from '../chardev/options.ts';
import type { Chardevs } from '../chardev/registry.ts';
import type { Engine, EngineSerial } from '../engine/engine.ts';
import type { StreamTarget, VmConfig } from './command-line/config.ts';

/** Those that are there. */
export function presentPorts(serials: readonly StreamTarget[]): StreamTarget[] {
  return serials.filter(({ type }) => type !== 'none');
}

/** How many serial ports a PC of QEMU is to have: one that nobody asked for, unless -nodefaults. */
export function serialPortsOf({ serials, noDefaults }: VmConfig): number {
  return serials.length === 0 && !noDefaults ? 1 : presentPorts(serials).length;
}

/**
 * Returns the disconnection. Without a guest (no `port`) the stream is opened all the same: what cannot be opened is an
 * error there too. Throws ParameterError, or as Chardevs.add.
 */
export async function connectSerial(
  port: EngineSerial | undefined,
  target: StreamTarget,
  at: number,
  chardevs: Chardevs,
): Promise<() => void> {
  const chardev = await openStream(target, `serial${at}`, chardevs);
  return chardev && port ? connect(port, chardev, `serial${at}`) : () => undefined;
}

/** The streams of devices that name a chardev of ours. Returns their disconnection. */
export function bridgeChardevs(engine: Engine | null, chardevs: Chardevs): () => void {
  const bridged = (engine?.serials ?? []).map((port) => {
    const chardev = port.chardev === undefined ? undefined : chardevs.find(port.chardev);
    return chardev ? connect(port, chardev, 'the guest') : () => undefined;
  });
  return () => {
    for (const disconnect of bridged) disconnect();
  };
}

function connect(port: EngineSerial, chardev: Chardev, user: string): () => void {
  const frontend = {
    onData: (bytes: Uint8Array) => {
      if (!port.write(bytes)) chardev.setReading(false);
    },
  };
  chardev.attach(frontend, user);
  port.onDrain = () => chardev.setReading(true);
  port.onData = (bytes) => {
    chardev.write(bytes);
  };
  return () => {
    port.onData = null;
    port.onDrain = null;
    chardev.detach(frontend);
  };
}

/** The chardev behind a stream option; null for `none` and `null`. */
export async function openStream(
  target: StreamTarget,
  id: string,
  chardevs: Chardevs,
): Promise<Chardev | null> {
  switch (target.type) {
    case 'none':
    case 'null':
      return null;
    case 'chardev': {
      const found = chardevs.find(target.id);
      if (!found) throw new ParameterError(`chardev "${target.id}" not found`);
      return found;
    }
    case 'file':
      return chardevs.add(parseChardevOptions({ backend: 'file', id, path: target.path }));
    case 'stdio':
      return chardevs.add(parseChardevOptions({ backend: 'stdio', id }));
    case 'socket':
      return chardevs.add(parseChardevOptions({ ...target.options, backend: 'socket', id }));
  }
}
