/**
 * What a command's arguments may be: from a server's query-qmp-schema (QEMU qapi/introspect.json), or from the JSON Schema
 * of our own table of commands. Types may hold themselves (a node's backing file), so members are looked up when asked.
 */

export interface ArgumentType {
  /** For people: `str`, `int`, `PreallocMode`, `object`. */
  readonly name: string;
  /** What may be typed for it, as far as that is a list. */
  readonly values: readonly string[];
  readonly isObject: boolean;
  /** `given`: what has been said already; it tells the branch of a union. */
  members(given: Readonly<Record<string, unknown>>): readonly ArgumentMember[];
}

export interface ArgumentMember {
  readonly name: string;
  readonly isOptional: boolean;
  readonly type: ArgumentType;
}

const ANY: ArgumentType = { name: 'any', values: [], isObject: false, members: () => [] };

function list(value: unknown): readonly Readonly<Record<string, unknown>>[] {
  return Array.isArray(value)
    ? value.filter((one): one is Record<string, unknown> => typeof one === 'object' && one !== null)
    : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** The commands' arguments by a reply to query-qmp-schema. What is malformed is left out. */
export function typesOfSchema(schema: unknown): ReadonlyMap<string, ArgumentType> {
  const entries = new Map(list(schema).map((entry) => [text(entry['name']), entry]));
  const typeOf = (name: string): ArgumentType => {
    const entry = entries.get(name);
    if (!entry) return ANY;
    switch (entry['meta-type']) {
      case 'builtin':
        return { ...ANY, name, values: name === 'bool' ? ['true', 'false'] : [] };
      case 'enum': {
        const named = list(entry['members']).map((member) => text(member['name']));
        const values: unknown = entry['values'];
        const all = named.length > 0 ? named : Array.isArray(values) ? values.map(text) : [];
        return { ...ANY, name: 'enum', values: all.sort() };
      }
      case 'array':
        return { ...ANY, name: `[${typeOf(text(entry['element-type'])).name}]` };
      case 'alternate': {
        // A node's name, or what it is made of: the members are those of the branch that has any.
        const branches = list(entry['members']).map((member) => text(member['type']));
        const object = branches.map(typeOf).find(({ isObject }) => isObject);
        const values = branches.map(typeOf).flatMap((branch) => branch.values);
        return object ? { ...object, name: 'str or object', values } : { ...ANY, name: 'any', values };
      }
      case 'object':
        return { name: 'object', values: [], isObject: true, members: (given) => membersOf(entry, given) };
      default:
        return ANY;
    }
  };
  const membersOf = (
    entry: Readonly<Record<string, unknown>>,
    given: Readonly<Record<string, unknown>>,
  ): ArgumentMember[] => {
    const own = list(entry['members']).map((member) => ({
      name: text(member['name']),
      isOptional: 'default' in member,
      type: typeOf(text(member['type'])),
    }));
    const tag = text(entry['tag']);
    const chosen = Object.hasOwn(given, tag) ? given[tag] : undefined;
    const variant = list(entry['variants']).find((one) => one['case'] === chosen);
    const below = variant && entries.get(text(variant['type']));
    return below && below !== entry ? [...own, ...membersOf(below, given)] : own;
  };
  return new Map(
    [...entries.values()]
      .filter((entry) => entry['meta-type'] === 'command')
      .map((entry) => [text(entry['name']), typeOf(text(entry['arg-type']))]),
  );
}

/** A part of a JSON Schema, as zod writes it. */
interface JsonSchema {
  readonly $ref?: string;
  readonly $defs?: Readonly<Record<string, JsonSchema>>;
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly allOf?: readonly JsonSchema[];
}

export function typeOfJsonSchema(root: JsonSchema, part: JsonSchema = root): ArgumentType {
  if (part.$ref !== undefined) {
    const name = part.$ref.replace(/^#(\/\$defs\/)?/, '');
    const target = name === '' ? root : root.$defs?.[name];
    return target ? typeOfJsonSchema(root, target) : ANY;
  }
  if (part.type === 'boolean') return { ...ANY, name: 'bool', values: ['true', 'false'] };
  if (part.enum) return { ...ANY, name: 'enum', values: part.enum.map(String).sort() };
  if (typeof part.const === 'string') return { ...ANY, name: 'enum', values: [part.const] };
  const branches = [...(part.anyOf ?? []), ...(part.oneOf ?? []), ...(part.allOf ?? [])];
  if (part.properties === undefined && branches.length === 0) {
    const names: Readonly<Record<string, string>> = { string: 'str', integer: 'int', array: '[any]' };
    return { ...ANY, name: names[part.type ?? ''] ?? part.type ?? 'any' };
  }
  const types = branches.map((branch) => typeOfJsonSchema(root, branch));
  const isObject = part.properties !== undefined || types.some((type) => type.isObject);
  return {
    name: isObject ? 'object' : (types[0]?.name ?? 'any'),
    values: [...new Set(types.flatMap(({ values }) => values))].sort(),
    isObject,
    members: (given) => {
      const own = Object.entries(part.properties ?? {}).map(([name, member]) => ({
        name,
        isOptional: !(part.required ?? []).includes(name),
        type: typeOfJsonSchema(root, member),
      }));
      const fitting = types
        .map((type) => type.members(given))
        .filter((members) => !contradicts(members, given));
      return merged([own, ...fitting]);
    },
  };
}

/** A branch whose `driver` is another one than what has been said. */
function contradicts(members: readonly ArgumentMember[], given: Readonly<Record<string, unknown>>): boolean {
  return members.some(({ name, type: { values } }) => {
    return values.length > 0 && Object.hasOwn(given, name) && !values.includes(String(given[name]));
  });
}

/** One of each name, with all values that any of them takes. */
function merged(groups: readonly (readonly ArgumentMember[])[]): ArgumentMember[] {
  const found = new Map<string, ArgumentMember>();
  for (const member of groups.flat()) {
    const before = found.get(member.name);
    const values = [...new Set([...(before?.type.values ?? []), ...member.type.values])].sort();
    found.set(member.name, before ? { ...before, type: { ...before.type, values } } : member);
  }
  return [...found.values()];
}
