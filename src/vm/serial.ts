/** The guest's serial port on a character stream: stdio, a socket, a chardev. Output with nobody there is dropped. */
import { ParameterError } from '../base/errors.ts';
import type { Chardev } from '../chardev/chardev.ts';
import { parseChardevOptions } from '../chardev/options.ts';
import type { Chardevs } from '../chardev/registry.ts';
import type { Engine } from '../engine/engine.ts';
import type { StreamTarget } from './command-line/config.ts';

/**
 * Returns the disconnection. Without a guest (`engine` null) the stream is opened all the same: what cannot be opened is
 * an error there too. Throws ParameterError, or as Chardevs.add.
 */
export async function connectSerial(
  engine: Engine | null,
  target: StreamTarget,
  chardevs: Chardevs,
): Promise<() => void> {
  const chardev = await openStream(target, 'serial0', chardevs);
  const serial = engine?.serials[0];
  if (!chardev || !serial) return () => undefined;
  const frontend = { onData: (bytes: Uint8Array) => serial.write(bytes) };
  chardev.attach(frontend, 'serial0');
  serial.onData = (bytes) => {
    chardev.write(bytes);
  };
  return () => {
    serial.onData = null;
    chardev.detach(frontend);
  };
}

/** The chardev behind a stream option; null for `none`. */
export async function openStream(
  target: StreamTarget,
  id: string,
  chardevs: Chardevs,
): Promise<Chardev | null> {
  switch (target.type) {
    case 'none':
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
