/** What is sent to pages: serialised once, whoever and how many get it. */
import type { ServerMessage } from './protocol.ts';

export function encode(message: ServerMessage): Buffer {
  return Buffer.from(JSON.stringify(message));
}
