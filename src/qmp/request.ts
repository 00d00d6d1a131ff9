/** Reads a request out of what a client sent, with QEMU's texts for what is wrong with it (qapi/qmp-dispatch.c). Pure. */
import { ParameterError } from '../base/errors.ts';
import type { JsonObject, JsonValue } from './json-stream.ts';
import type { QmpRequest } from './types.ts';

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `oobEnabled`: the session negotiated out-of-band execution. Throws ParameterError. */
export function parseRequest(message: JsonValue, oobEnabled: boolean): QmpRequest {
  if (!isJsonObject(message)) throw new ParameterError('QMP input must be a JSON object');
  let command: string | null = null;
  let commandKey = '';
  let args: JsonObject = {};
  for (const [key, value] of Object.entries(message)) {
    if (key === 'execute' || (key === 'exec-oob' && oobEnabled)) {
      if (typeof value !== 'string') throw new ParameterError(`QMP input member '${key}' must be a string`);
      if (command !== null)
        throw new ParameterError(`QMP input member '${key}' clashes with '${commandKey}'`);
      command = value;
      commandKey = key;
    } else if (key === 'arguments') {
      if (!isJsonObject(value)) throw new ParameterError("QMP input member 'arguments' must be an object");
      args = value;
    } else if (key !== 'id') {
      throw new ParameterError(`QMP input member '${key}' is unexpected`);
    }
  }
  if (command === null) throw new ParameterError("QMP input lacks member 'execute'");
  const id = message['id'];
  return { command, args, oob: commandKey === 'exec-oob', ...(id === undefined ? {} : { id }) };
}

/** Arguments of qmp_capabilities: whether oob is asked for. Throws ParameterError. */
export function parseCapabilities(args: JsonObject): { readonly oob: boolean } {
  const { enable, ...rest } = args;
  let oob = false;
  if (enable !== undefined) {
    if (!Array.isArray(enable))
      throw new ParameterError("Invalid parameter type for 'enable', expected: array");
    for (const [at, capability] of enable.entries()) {
      if (typeof capability !== 'string') {
        throw new ParameterError(`Invalid parameter type for 'enable[${at}]', expected: string`);
      }
      // QEMU 7.2 names the parameter 'null' here; later ones as below.
      if (capability !== 'oob') {
        throw new ParameterError(`Parameter 'enable[${at}]' does not accept value '${capability}'`);
      }
      oob = true;
    }
  }
  for (const key of Object.keys(rest)) throw new ParameterError(`Parameter '${key}' is unexpected`);
  return { oob };
}
