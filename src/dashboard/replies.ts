/** Members of a monitor's answer, which may be an older or newer program's: what is not as expected is as if it were not there. */

export type Members = Readonly<Record<string, unknown>>;

export function membersOf(value: unknown): Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Members) : {};
}

/** The entry of that name. */
export function within(value: unknown, name: string): Members {
  return membersOf(membersOf(value)[name]);
}

export function listOf(value: unknown): readonly Members[] {
  return Array.isArray(value) ? value.map(membersOf) : [];
}

/** Null: there is no such number. */
export function numberIn(members: Members, name: string): number | null {
  const value = members[name];
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

/** Null: of some of them there is no such number, or there are none. */
export function sumOf(list: readonly Members[], ...names: readonly string[]): number | null {
  if (list.length === 0) return null;
  let sum = 0;
  for (const members of list) {
    for (const name of names) {
      const value = numberIn(members, name);
      if (value === null) return null;
      sum += value;
    }
  }
  return sum;
}
