/**
 * The first state: hellos, rounds of RAM while the guest still runs, then the rest while it stands. A plain migration
 * ends here; COLO goes on from here with primary.ts and secondary.ts on the same channel.
 */
import { ColoError, ProtocolError } from '../base/errors.ts';
import type { Snapshot } from '../engine/engine.ts';
import type { CheckpointChannel } from './channel.ts';
import type { ProtectedGuest } from './guest.ts';
import type { Hello } from './messages.ts';
import { COLO_MESSAGE, incompatibility, nameOfMessage } from './messages.ts';

/** Rounds end when one has so few pages that the stop will be short, or after so many rounds. */
const FEW_PAGES = 512;
const MAX_ROUNDS = 5;
/** Pages of RAM in one message of a round, where the engine can do it in pieces. */
const PIECE_PAGES = 16384;
const PAGE_BYTES = 4096;
/** A guest that stands still travels at once up to this size, else in a round of its own first. */
const MAX_SINGLE_BYTES = 1024 * 1024 * 1024;

export interface MigrationProgress {
  readonly round: number;
  readonly pages: number;
  readonly bytes: number;
}

/** The two machines cannot be a pair. */
export class IncompatiblePeerError extends ColoError {}

/** The connection broke while the guest was handed over: it may run there, so it must not go on here by itself. */
export class HandoverError extends ColoError {}

/**
 * Sends the guest. Ends with it standing still here and loaded there; a plain migration has then been handed over.
 * Throws when the peer refuses, lies or falls silent; the guest is as it was then, or paused if it had been stopped
 * for the last round (the caller resumes it, unless it is a HandoverError).
 */
export async function sendMachine(
  guest: ProtectedGuest,
  channel: CheckpointChannel,
  hello: Hello,
  onProgress?: (progress: MigrationProgress) => void,
): Promise<void> {
  await channel.sendHello(hello);
  const theirs = await channel.receiveHello();
  const reason = incompatibility(hello, theirs);
  if (reason) {
    // It has seen the same, and may have hung up already: the reason is what counts.
    await channel.sendFailure(reason).catch(() => undefined);
    throw new IncompatiblePeerError(`The destination does not fit: ${reason}`);
  }

  let sent = 0;
  const rounds =
    guest.engine.state === 'running' ? MAX_ROUNDS : guest.engine.ramBytes > MAX_SINGLE_BYTES ? 1 : 0;
  for (let pages = Infinity; sent < rounds && pages > FEW_PAGES; sent++) {
    const round = await sendRound(guest, channel, sent === 0);
    ({ pages } = round);
    onProgress?.({ round: sent, ...round });
  }

  const networks = hello.colo ? guest.networks() : [];
  for (const net of networks) await net.start('primary');
  for (const net of networks) net.stopping?.('primary');
  await guest.pause();
  const marks = networks.flatMap((net) => net.stopped('primary'));
  const state = await guest.engine.capture({ full: sent === 0 });
  onProgress?.({ round: sent, pages: state.pages, bytes: state.ram.byteLength + state.device.byteLength });
  await channel.sendState(state);
  await channel.sendMarks(marks);
  await channel.expect(COLO_MESSAGE.VMSTATE_RECEIVED);
  for (const net of networks) await net.commit('primary');
  await channel.expect(COLO_MESSAGE.VMSTATE_LOADED);
  if (hello.colo) return;
  if (channel.failure) throw channel.failure;
  await channel.send(COLO_MESSAGE.HANDOVER).catch((cause: unknown) => {
    throw new HandoverError(
      'The destination may have taken the guest over; if it has not, let it go on here with cont',
      { cause },
    );
  });
}

/** One pass over the guest's RAM, in one message or several. */
async function sendRound(
  guest: ProtectedGuest,
  channel: CheckpointChannel,
  full: boolean,
): Promise<{ pages: number; bytes: number }> {
  let [pages, bytes] = [0, 0];
  for (let more = true, isFirst = true; more; isFirst = false) {
    const piece = await guest.engine.capture({ full: full && isFirst, ramOnly: true, maxPages: PIECE_PAGES });
    pages += piece.pages;
    bytes += piece.ram.byteLength;
    more = piece.more ?? false;
    await channel.sendRamRound(piece);
  }
  return { pages, bytes };
}

/** Messages of RAM before the first state. A piece that is not a round's last is at least half full. */
function mostPieces(ramBytes: number): number {
  return MAX_ROUNDS * (1 + Math.ceil(ramBytes / PAGE_BYTES / (PIECE_PAGES / 2)));
}

/**
 * Receives a guest into a paused engine. Returns what the source said about itself. Throws before anything changed
 * when the source does not fit.
 */
export async function receiveMachine(
  guest: ProtectedGuest,
  channel: CheckpointChannel,
  describe: () => Hello,
): Promise<Hello> {
  const theirs = await channel.receiveHello();
  const ours = { ...describe(), colo: theirs.colo };
  await channel.sendHello(ours);
  const reason = incompatibility(ours, theirs);
  if (reason) throw new IncompatiblePeerError(`The source does not fit: ${reason}`);

  const networks = theirs.colo ? guest.networks() : [];
  for (const net of networks) await net.start('secondary');
  for (const net of networks) net.stopping?.('secondary');
  const snapshots: Snapshot[] = [];
  const { engine } = guest;
  const [most, pieceBytes] = engine.stage
    ? [mostPieces(engine.ramBytes), Math.min(engine.ramBytes, PIECE_PAGES * PAGE_BYTES)]
    : [MAX_ROUNDS, engine.ramBytes];
  for (let received = 0; ; received++) {
    const code = await channel.receive();
    if (code === COLO_MESSAGE.VMSTATE_SEND) break;
    if (code !== COLO_MESSAGE.RAM_ROUND || received >= most) {
      throw new ProtocolError(
        `checkpoint channel: unexpected message ${nameOfMessage(code)} before the first state`,
      );
    }
    const piece = await channel.receiveRamRound(pieceBytes);
    if (engine.stage) await engine.stage(piece);
    else snapshots.push(piece);
  }
  snapshots.push(await channel.receiveState(guest.engine.ramBytes));
  const marks = await channel.receiveMarks();
  await channel.send(COLO_MESSAGE.VMSTATE_RECEIVED);
  for (const net of networks) net.stopped('secondary');
  await Promise.all(networks.map(async (net) => net.peerMarks?.('secondary', marks)));
  await guest.engine.load(snapshots);
  for (const net of networks) await net.commit('secondary');
  await channel.send(COLO_MESSAGE.VMSTATE_LOADED);
  if (!theirs.colo) await channel.expect(COLO_MESSAGE.HANDOVER);
  return theirs;
}
