/** The documents are true: links lead somewhere, options exist, limits are those of the code. What is typed: test/docs/. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { messageOf } from '../../src/base/errors.ts';
import { createProgram } from '../../src/cli/program.ts';
import { commands } from '../../src/monitor/commands/index.ts';
import { parseCommandLine } from '../../src/vm/command-line/parse.ts';
import { QEMU_OPTIONS, SHARED } from '../../src/vm/command-line/qemu-options.ts';
import { QEMU_REFUSED } from '../../src/vm/command-line/qemu-refused.ts';

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const PAGES = [
  ...['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md', 'src/README.md'],
  ...readdirSync(path.join(TOP, 'docs'), { recursive: true })
    .map((name) => path.join('docs', String(name)))
    .filter((name) => name.endsWith('.md')),
];
const read = (name: string): string => readFileSync(path.join(TOP, name), 'utf8');

/** GitHub's anchors of a page's headings. */
function anchors(text: string): Set<string> {
  const plain = text.replace(/^```[^]*?^```/gm, '');
  const titles = [...plain.matchAll(/^#+ (.+)$/gm)].map((match) => match[1]!);
  return new Set(
    titles.map((title) =>
      title
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

test('every relative link leads to a file, and to a heading in it', () => {
  let links = 0;
  for (const page of PAGES) {
    const text = read(page).replace(/^```[^]*?^```/gm, '');
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      links++;
      const [file = '', anchor] = target.split('#');
      const there = file === '' ? page : path.join(path.dirname(page), file);
      assert.ok(existsSync(path.join(TOP, there)), `${page}: ${target} leads nowhere`);
      if (anchor !== undefined)
        assert.ok(anchors(read(there)).has(anchor), `${page}: no heading for ${target}`);
    }
  }
  assert.ok(links > 50, `${links} links`);
});

test('every document of docs/ can be reached from the README', () => {
  const reached = new Set<string>();
  const follow = (page: string): void => {
    if (reached.has(page)) return;
    reached.add(page);
    for (const [, target = ''] of read(page).matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)) {
      if (target.endsWith('.md') && !target.includes(':')) follow(path.join(path.dirname(page), target));
    }
  };
  follow('README.md');
  for (const page of PAGES) assert.ok(reached.has(page), `${page} is linked from nowhere`);
});

const top: Command = await createProgram();
const program = (): Command => top;

test('long options named in running text exist, and docs/switch.md has all of colo switch', () => {
  const every = (command: Command): string[] => [
    ...command.options.map(({ long }) => long ?? ''),
    ...command.commands.flatMap(every),
  ];
  const known = new Set([...every(program()), '--help', '--version']);
  for (const page of [
    'README.md',
    'docs/switch.md',
    'docs/guest.md',
    'docs/nbd-qcow2.md',
    'docs/operations.md',
    'docs/limits.md',
  ]) {
    for (const [, option = ''] of read(page).matchAll(/`(--[a-z-]+)[ `=]/g)) {
      assert.ok(known.has(option), `${page}: no command has ${option}`);
    }
  }
  const text = read('docs/switch.md');
  for (const { long } of program().commands.find((command) => command.name() === 'switch')?.options ?? []) {
    assert.ok(text.includes(`| \`${long ?? ''}`), `${long ?? ''} is not in the table of docs/switch.md`);
  }
});

function isVmOption(word: string): boolean {
  try {
    parseCommandLine([word]);
    return true;
  } catch (error) {
    return !messageOf(error).includes('invalid option');
  }
}

test('docs/command-line.md has every option of colo vm on both engines, and no other', () => {
  const table = /const OPTIONS[^]*?\n\]\);/.exec(read('src/vm/command-line/parse.ts'))?.[0] ?? '';
  const embedded = new Set(
    [...table.matchAll(/\[\s*'([\w-]+)',\s*(?:value|flag|already|unheeded)\(/g)].map((match) => match[1]!),
  );
  assert.ok(embedded.size > 40, `${embedded.size} options found in parse.ts`);
  const text = read('docs/command-line.md');
  const section = text.slice(text.indexOf('## Options'), text.indexOf('## On a QEMU'));
  const named = new Set<string>();
  for (const [, first = '', own = '', qemu = ''] of section.matchAll(
    /^\| (`-.*?) +\| (.*?) +\| (.*?) +\|$/gm,
  )) {
    for (const [, name = ''] of first.matchAll(/`--?([\w-]+)`/g)) {
      assert.ok(!named.has(name), `-${name} is there twice`);
      named.add(name);
      assert.ok(isVmOption(`-${name}`), name);
      assert.equal(own !== '–', embedded.has(name), `-${name} on the embedded engine`);
      assert.equal(qemu.startsWith('refused'), QEMU_REFUSED.has(name), `-${name} on a QEMU`);
      if (qemu.startsWith('passed on')) {
        const isSeen = SEEN_BY_GUESTS.has(name);
        assert.equal(/^passed on, alike/.test(qemu), isSeen, `-${name}: whether a guest can tell`);
      }
    }
  }
  const all = [...embedded, ...QEMU_OPTIONS.keys(), ...SHARED, ...QEMU_REFUSED];
  for (const name of all) assert.ok(named.has(name), `-${name} is not in docs/command-line.md`);
  for (const name of named) assert.ok(all.includes(name), `there is no -${name}`);
});

/** Options that go on to QEMU and must be alike on both sides, found out by using them. */
const SEEN_BY_GUESTS = new Set(
  [...QEMU_OPTIONS]
    .filter(([name, { takesValue }]) => {
      try {
        const value = name === 'uuid' ? '00000000-0000-0000-0000-000000000000' : '/x';
        const { qemu } = parseCommandLine(['-accel', 'tcg', `-${name}`, ...(takesValue ? [value] : [])]);
        return qemu.identity.length + qemu.files.length > 0;
      } catch {
        return false;
      }
    })
    .map(([name]) => name)
    .concat('device'),
);

test('docs/qmp.md has every QMP command, and no other', () => {
  const text = read('docs/qmp.md');
  const section = text.slice(text.indexOf('## Commands'), text.indexOf('## Events'));
  const cells = [...section.matchAll(/^\| (`[^|]*) +\|/gm)].map((match) => match[1]!);
  const named = cells.flatMap((cell) => [...cell.matchAll(/`([\w-]+)`/g)].map((match) => match[1]!));
  assert.deepEqual(named.toSorted(), commands.names());
});

test('docs/qmp.md has every event', () => {
  const text = read('docs/qmp.md');
  const sources = readdirSync(path.join(TOP, 'src'), { recursive: true }).map(String);
  const events = new Set<string>();
  for (const name of sources.filter((file) => file.endsWith('.ts'))) {
    for (const match of read(path.join('src', name)).matchAll(/\bemit\(\s*'([A-Z][A-Z_]+)'/g))
      events.add(match[1]!);
  }
  assert.ok(events.size > 10);
  for (const event of events)
    assert.match(text, new RegExp(`\\b${event}\\b`), `${event} is not in docs/qmp.md`);
});

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  ms: 1,
  s: 1000,
};

test('docs/limits.md says what the code says', () => {
  let rows = 0;
  for (const line of read('docs/limits.md').split('\n')) {
    const cells = line.split('|').map((cell) => cell.trim());
    const place = /^`(#?\w+)` in `(src\/[\w/.-]+)`$/.exec(cells[3] ?? '');
    if (!place) {
      assert.ok(!line.includes('` in `src/'), `malformed row: ${line}`);
      continue;
    }
    rows++;
    const [, name = '', file = ''] = place;
    const bound = /^(\d+)(?: (KiB|MiB|GiB|ms|s))?$/.exec(cells[2] ?? '');
    assert.ok(bound, `no bound in: ${line}`);
    const said = Number(bound[1]) * UNITS[bound[2] ?? '']!;
    const expression = new RegExp(`(?:^|\\s)${name}\\s*[=:]\\s*([\\d_ *()+-]+)[;,]`, 'm').exec(
      read(file),
    )?.[1];
    assert.ok(expression, `${file} has no number called ${name}`);
    // Seconds may be counted in seconds or in milliseconds; the name says which.
    const unit = /seconds$/i.test(name) ? 1000 : 1;
    assert.equal(said, product(expression) * unit, `${name} in ${file}`);
  }
  assert.ok(rows > 50, `${rows} rows`);
});

/** `4 * 1024 * 1024`, `16_384`, `2 * 2 ** 20 * 8`. */
function product(expression: string): number {
  return expression
    .replaceAll('_', '')
    .split(/(?<!\*)\*(?!\*)/)
    .map((factor) => factor.split('**').map((part) => Number(part.trim())))
    .reduce((sum, [base = NaN, exponent = 1]) => sum * base ** exponent, 1);
}

test('the error classes of docs/errors.md are those of the code', () => {
  const text = read('docs/errors.md');
  const sources = readdirSync(path.join(TOP, 'src'), { recursive: true }).map(String);
  for (const name of sources.filter((file) => file.endsWith('.ts'))) {
    for (const match of read(path.join('src', name)).matchAll(/export class (\w+) extends \w*Error\b/g)) {
      assert.ok(text.includes(`\`${match[1]!}\``), `${match[1]!} (${name}) is not in docs/errors.md`);
    }
  }
});

test('comments cite sections of docs/qemu-behaviour.md that are there', () => {
  const headings = [...read('docs/qemu-behaviour.md').matchAll(/^#{2,3} (\d+(?:\.\d+)?)[. ]/gm)].map(
    (match) => match[1]!,
  );
  const sources = readdirSync(path.join(TOP, 'src'), { recursive: true }).map(String);
  let cited = 0;
  for (const name of sources.filter((file) => file.endsWith('.ts'))) {
    for (const match of read(path.join('src', name)).matchAll(
      /docs\/qemu-behaviour\.md,? (?:section )?(\d+(?:\.\d+)?)/g,
    )) {
      cited++;
      assert.ok(headings.includes(match[1]!), `${name}: no section ${match[1]!}`);
    }
  }
  assert.ok(cited > 30, `${cited} citations`);
});
