/**
 * A switch port on a socket, as QEMU's `-netdev stream` (and `-netdev socket`) speaks it: u32 length, frame
 * (net/framing.ts; docs/qemu-behaviour.md 1.1-1.3). The port lives as long as the connection does; whoever made the
 * connection (links.ts) makes the next one.
 *
 * A peer that sends a bad length is disconnected, a peer that does not read loses frames (outbox.ts), and neither is
 * felt by other ports.
 */
import type { Socket } from 'node:net';
import { Outbox } from './outbox.ts';
import type { EthernetSwitch, SwitchPort } from './switch.ts';
import { loggerFor } from '../base/logger.ts';
import { FrameDecoder } from '../net/framing.ts';

/** Probes an idle TCP peer, so that a host that vanished does not keep its port for ever. Milliseconds. */
const KEEP_ALIVE_MS = 10_000;
/** Bytes that wait for a peer that does not read; beyond them frames are dropped. */
const QUEUE_BYTES = 4 * 1024 * 1024;

const log = loggerFor('switch-port');

/**
 * Attaches a connected socket and owns it from then on. `onClosed` is called once, when the port is gone. False: the
 * switch has no more ports; the socket is closed.
 */
export function attachStream(
  ethernet: EthernetSwitch,
  socket: Socket,
  name: string,
  onClosed: () => void,
): boolean {
  const limits = {
    queueBytes: QUEUE_BYTES,
    recordBytes: ethernet.holdLimits?.recordBytes ?? 0,
    recordMs: ethernet.holdLimits?.recordMs ?? 0,
  };
  const outbox = new Outbox(socket, limits, () => performance.now());
  const attached: SwitchPort | null = ethernet.attach({
    name,
    send: (frame) => outbox.push(frame),
    flush: () => outbox.flush(),
    unread: () => outbox.recent(),
  });
  // A socket without this listener would end the process at its first error.
  socket.on('error', (error) => {
    log.debug({ port: name, error: error.message }, 'the connection failed');
    attached?.detach();
  });
  if (!attached) {
    log.warn({ port: name }, 'refused: the switch has as many ports as it may have');
    socket.destroy();
    return false;
  }
  const port = attached;
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEP_ALIVE_MS);
  log.info({ port: name }, 'port up');

  const decoder = new FrameDecoder({
    onFrame: (bytes, from, to) => port.receive(bytes.subarray(from, to)),
    onError: (error) => {
      log.warn({ port: name }, `closed: ${error.message}`);
      socket.destroy();
    },
  });
  socket.on('data', (chunk: Buffer) => {
    decoder.push(chunk);
    ethernet.flush();
  });
  socket.on('drain', () => outbox.drained());
  // A half-closed peer is a dead one. Its port goes now, not when our own last bytes are through.
  socket.on('end', () => {
    port.detach();
    socket.destroy();
  });
  socket.on('close', () => {
    port.detach();
    log.info({ port: name, ...port.counters }, 'port down');
    onClosed();
  });
  return true;
}
