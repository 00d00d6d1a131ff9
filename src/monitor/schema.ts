/**
 * query-qmp-schema with an engine that has a schema (QEMU qapi/introspect.json): its entries, less the commands that are
 * refused, and one for each command and event that is ours alone. Members of ours are of type `any`: what they may
 * hold is in docs/qmp.md.
 */
import { z } from 'zod';
import { ColoError } from '../base/errors.ts';
import { whyNotForwarded } from './forwarding.ts';
import type { CommandRegistry } from './registry.ts';

interface SchemaEntry {
  readonly name: string;
  readonly 'meta-type': string;
  readonly [member: string]: unknown;
}

const OUR_EVENTS = ['COLO_COMPARE_REQUEST'];

/** Throws ColoError when `schema` is none. */
export function mergedSchema(schema: unknown, ours: CommandRegistry): SchemaEntry[] {
  if (!Array.isArray(schema)) throw new ColoError('query-qmp-schema: the engine has none');
  const entries = (schema as SchemaEntry[]).filter(
    ({ name, 'meta-type': type }) => type !== 'command' || ours.has(name) || whyNotForwarded(name) === null,
  );
  const known = new Set(
    entries.filter(({ 'meta-type': type }) => type === 'command').map(({ name }) => name),
  );
  for (const name of ours.names()) {
    if (known.has(name)) continue;
    const type = `colo-arg-${name}`;
    entries.push({ name, 'meta-type': 'command', 'arg-type': type, 'ret-type': 'any' });
    entries.push({ name: type, 'meta-type': 'object', members: membersOf(ours.argumentsOf(name)) });
  }
  for (const name of OUR_EVENTS) {
    entries.push({ name, 'meta-type': 'event', 'arg-type': 'colo-arg-event' });
  }
  entries.push({ name: 'colo-arg-event', 'meta-type': 'object', members: [] });
  if (!entries.some(({ name }) => name === 'any')) {
    entries.push({ name: 'any', 'meta-type': 'builtin', 'json-type': 'value' });
  }
  return entries;
}

function membersOf(schema: z.ZodType | null): object[] {
  if (!(schema instanceof z.ZodObject)) return [];
  return Object.entries(schema.shape as Record<string, z.ZodType>).map(([name, member]) => ({
    name,
    type: 'any',
    // As in QEMU, null stands for a member that may be left out.
    ...(member.safeParse(undefined).success ? { default: null } : {}),
  }));
}
