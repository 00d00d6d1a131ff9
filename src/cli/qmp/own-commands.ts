/**
 * Our own table of commands as argument types, for a peer that tells no schema: `colo vm` on the embedded engine. Nodes are
 * described by the table that checks them.
 */
import { z } from 'zod';
import { BLOCKDEV_MEMBERS } from '../../monitor/commands/blockdev-schema.ts';
import { commands } from '../../monitor/commands/index.ts';
import { typeOfJsonSchema, type ArgumentMember, type ArgumentType } from './argument-types.ts';

export function ownTypes(): (command: string) => ArgumentType | null {
  return (command) => {
    if (command === 'blockdev-add') return NODE;
    const schema = commands.argumentsOf(command);
    if (!schema) return null;
    return typeOfJsonSchema(z.toJSONSchema(schema, { unrepresentable: 'any', io: 'input' }) as object);
  };
}

function simple(name: string, values: readonly string[] = []): ArgumentType {
  return { name, values, isObject: false, members: () => [] };
}

const BOOL = simple('bool', ['true', 'false']);

const NODE: ArgumentType = {
  name: 'object',
  values: [],
  isObject: true,
  members: ({ driver }) => {
    const isKnown = typeof driver === 'string' && Object.hasOwn(BLOCKDEV_MEMBERS, driver);
    const own = Object.entries((isKnown ? BLOCKDEV_MEMBERS[driver] : undefined) ?? {}).map(
      ([name, type]): ArgumentMember => ({ name, isOptional: true, type: typeOfMember(type) }),
    );
    return [
      { name: 'driver', isOptional: false, type: simple('enum', Object.keys(BLOCKDEV_MEMBERS).sort()) },
      { name: 'node-name', isOptional: true, type: simple('str') },
      { name: 'read-only', isOptional: true, type: BOOL },
      { name: 'auto-read-only', isOptional: true, type: BOOL },
      { name: 'discard', isOptional: true, type: simple('enum', ['ignore', 'unmap']) },
      { name: 'detect-zeroes', isOptional: true, type: simple('enum', ['off', 'on', 'unmap']) },
      ...own,
    ];
  },
};

function typeOfMember(type: (typeof BLOCKDEV_MEMBERS)[string][string]): ArgumentType {
  if (typeof type !== 'string') return simple('enum', type);
  if (type === 'node' || type === 'node or null') return { ...NODE, name: 'str or object' };
  if (type === 'boolean') return BOOL;
  return simple(type === 'string' ? 'str' : type === 'integer' ? 'int' : 'any');
}
