/**
 * `notify_dev`: colo-compare's connection to a COLO frame in another program (Xen's). Frames written here never carry
 * the vnet word, frames read here do when vnet_hdr_support is on. Facts: docs/qemu-behaviour.md 1.1, 3.9.
 */
import { loggerFor } from '../../base/logger.ts';
import type { Chardev } from '../../chardev/chardev.ts';
import { FrameInput } from '../frame-input.ts';
import { RateLimitedWarning } from '../frame-output.ts';
import { encodeHeader } from '../framing.ts';

const DO_CHECKPOINT = Buffer.from('DO_CHECKPOINT');
const GET_XEN_INIT = Buffer.from('COLO_COMPARE_GET_XEN_INIT');
const USERSPACE_PROXY_INIT = 'COLO_USERSPACE_PROXY_INIT';
const CHECKPOINT = 'COLO_CHECKPOINT';

export class NotifyDevice {
  readonly #input: FrameInput;
  readonly #header = new Uint8Array(4);
  readonly #logger = loggerFor('colo-compare');
  /** A peer that talks nonsense must not fill the log. */
  readonly #warning = new RateLimitedWarning(this.#logger);

  /** `onCheckpoint`: the other program has taken one. */
  constructor(chardev: Chardev, vnetHdrSupport: boolean, onCheckpoint: () => void) {
    this.#input = new FrameInput({
      chardev,
      vnetHdrSupport,
      onFrame: (bytes, from, to) => this.#receive(bytes.subarray(from, to), onCheckpoint),
      onError: (error) => this.#logger.error(`colo-compare: notify_dev '${chardev.id}': ${error.message}`),
    });
  }

  get chardev(): Chardev {
    return this.#input.chardev;
  }

  /** Throws ChardevInUseError. */
  attach(user: string): void {
    this.#input.attach(user);
  }

  requestCheckpoint(): void {
    this.#send(DO_CHECKPOINT);
  }

  close(): void {
    this.#input.detach();
  }

  #receive(frame: Uint8Array, onCheckpoint: () => void): void {
    const text = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength).toString('latin1');
    if (text === USERSPACE_PROXY_INIT) this.#send(GET_XEN_INIT);
    else if (text === CHECKPOINT) onCheckpoint();
    else this.#warning.warn('COLO compare got unsupported instruction');
  }

  #send(text: Uint8Array): void {
    const isSent = this.chardev.writePair(encodeHeader(this.#header, text.length, null), text);
    if (!isSent) this.#warning.warn(`colo-compare: notify_dev '${this.chardev.id}' could not be written`);
  }
}
