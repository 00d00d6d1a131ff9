/** What may come in from a page (protocol.ts), checked before anything is done with it. */
import { z } from 'zod';
import { ParameterError } from '../base/errors.ts';
import { hostName, read, vmName } from '../api/schemas.ts';
import { ACTIONS, COPIES, type ClientMessage, type Copy } from './protocol.ts';

const clientMessage = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('watch'), vm: vmName.nullable() }),
  z
    .strictObject({
      type: z.literal('act'),
      id: z.int().min(0),
      vm: vmName,
      action: z.enum(ACTIONS),
      host: hostName.exactOptional(),
    })
    .refine(({ action, host }) => (host !== undefined) === (action === 'migrate'), {
      message: '`host` goes with `migrate`, and only with it',
      path: ['host'],
    }),
]) satisfies z.ZodType<ClientMessage>;

/** Throws ParameterError. */
export function parseClientMessage(text: string): ClientMessage {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ParameterError('the message is not JSON', { cause });
  }
  return read<ClientMessage>(clientMessage, value, 'the message');
}

const screenQuery = z.strictObject({ vm: vmName, copy: z.enum(COPIES) });

/** Of `/v1/console?vm=NAME&copy=primary`. Throws ParameterError. */
export function parseScreenQuery(query: URLSearchParams): { readonly vm: string; readonly copy: Copy } {
  return read(screenQuery, Object.fromEntries(query), 'the address');
}
