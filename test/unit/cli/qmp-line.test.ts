/** Lines of the QMP shell: QEMU's qmp-shell's spellings, and that what is written is what is read. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { argumentsOf, parseLine, parseWords, splitWords } from '../../../src/cli/qmp/line.ts';
import { isKept } from '../../../src/cli/qmp/history.ts';
import { coloured, plain, prettyJson } from '../../../src/cli/qmp/print.ts';
import { stringifyJson, type JsonObject, type JsonValue } from '../../../src/qmp/json-stream.ts';

const line = (text: string): unknown => parseLine(text);

test('key=value, nested keys, JSON values and whole requests', () => {
  assert.deepEqual(line('query-status'), { command: 'query-status', args: {} });
  assert.deepEqual(
    line(' blockdev-add  driver=qcow2 file.driver=file file.filename="/a b" read-only=True x=-5'),
    {
      command: 'blockdev-add',
      args: { driver: 'qcow2', file: { driver: 'file', filename: '/a b' }, 'read-only': true, x: -5 },
    },
  );
  assert.deepEqual(line(`a x={"k": [1, "b c"]} y=['z', false] n=null f=1.5 q='12' r="tru\\"e"`), {
    command: 'a',
    args: { x: { k: [1, 'b c'] }, y: ['z', false], n: null, f: '1.5', q: '12', r: 'tru"e' },
  });
  assert.deepEqual(line('a {"x": 1} y.z=2 y.w=3'), { command: 'a', args: { x: 1, y: { z: 2, w: 3 } } });
  assert.deepEqual(line("{'execute': 'stop', 'arguments': {'a': 1}, 'id': 7}"), {
    command: 'stop',
    args: { a: 1 },
  });
  assert.deepEqual(line('a n=18446744073709551615 e= p==x=y'), {
    command: 'a',
    args: { n: 18446744073709551615n, e: '', p: '=x=y' },
  });
  for (const nothing of ['', '   ', '# a remark']) assert.equal(line(nothing), null);
});

test('words that a shell has split', () => {
  const words = (...given: string[]): unknown => parseWords(given);
  assert.deepEqual(words('a', 'file=/x y', 'id="1"', '{"j": 1}', 'n=2'), {
    command: 'a',
    args: { file: '/x y', id: '1', j: 1, n: 2 },
  });
  assert.deepEqual(words('{"execute": "stop"}'), { command: 'stop', args: {} });
  assert.throws(() => words('{"execute": "stop"}', 'x'), /nothing may follow/);
});

test('what is wrong is told, in the words of QEMU where it has some', () => {
  const wrong: [string, RegExp][] = [
    ['a b', /^Expected a key=value pair, got 'b'$/],
    ['a x=1 x=2', /^Cannot set "x" multiple times$/],
    ['a x=1 x.y=2', /^Cannot use "x" as both leaf and non-leaf key$/],
    ['a x.y=2 x=1', /^Cannot use "x" as both leaf and non-leaf key$/],
    ['a x="1', /^a quote \("\) is not closed$/],
    ['a x={"k": 1', /^a bracket \({\) is not closed$/],
    ['a x={1}', /^JSON parse error, key is not a string in object$/],
    ['{"execute": "a"', /^JSON parse error, /],
    ['{"exec-oob": "a"}', /^QMP input member 'exec-oob' is unexpected$/],
    ['{"arguments": {}}', /^QMP input lacks member 'execute'$/],
  ];
  for (const [text, message] of wrong)
    assert.throws(() => line(text), { name: 'ParameterError', message }, text);
});

test('a key __proto__ is a key like any other', () => {
  const { args } = parseLine('a __proto__.x=1')!;
  assert.deepEqual(Object.keys(args), ['__proto__']);
  assert.equal(({} as Record<string, unknown>)['x'], undefined);
});

/** How a person would write it: strings in quotes, objects with dots or as JSON. */
function written(args: JsonObject, prefix: string, isDotted: boolean): string[] {
  return Object.entries(args).flatMap(([key, value]) => {
    const at = prefix + key;
    if (typeof value === 'string') return [`${at}="${value.replace(/["\\]/g, '\\$&')}"`];
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    if (isObject && isDotted && Object.keys(value).length > 0) return written(value, `${at}.`, isDotted);
    return [`${at}=${stringifyJson(value)}`];
  });
}

const leaf = fc.oneof(
  fc.string({ unit: 'grapheme' }).filter((text) => !/\p{Noncharacter_Code_Point}/u.test(text)),
  fc.maxSafeInteger(),
  fc.boolean(),
  fc.constant(null),
);
const key = fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/);
const { tree } = fc.letrec<{ tree: JsonValue; value: JsonValue }>((tie) => ({
  value: fc.oneof({ maxDepth: 3 }, leaf, fc.array(leaf, { maxLength: 3 }), tie('tree')),
  tree: fc.dictionary(key, tie('value'), { maxKeys: 4, noNullPrototype: true }),
}));

test('property: what is written as key=value is read back', () => {
  fc.assert(
    fc.property(tree, fc.boolean(), (value, isDotted) => {
      const args = value as JsonObject;
      const text = ['cmd', ...written(args, '', isDotted)].join(' ');
      assert.deepEqual(parseLine(text), { command: 'cmd', args });
    }),
  );
});

test('property: no line is too odd, and words stand where they are said to', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...Array.from(' ab=.{}[]"\'\\:,1')) }), (text) => {
      const { words } = splitWords(text);
      for (const { at } of words) assert.match(text.slice(at, at + 1), /\S/);
      try {
        argumentsOf(words);
        parseLine(text);
      } catch (error) {
        assert.equal((error as Error).name, 'ParameterError');
      }
    }),
  );
});

test('property: printed JSON is JSON, with nothing that a terminal obeys', () => {
  fc.assert(
    fc.property(tree, (value) => {
      const text = prettyJson(value, plain);
      assert.deepEqual(JSON.parse(text), value);
      assert.doesNotMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
      assert.equal(prettyJson(value, coloured).replace(/\x1b\[\d+m/g, ''), text);
    }),
  );
  assert.equal(
    prettyJson({ a: 2n ** 64n - 1n, e: [], o: {} }, plain),
    '{\n  "a": 18446744073709551615,\n  "e": [],\n  "o": {}\n}',
  );
});

test('history keeps no secrets', () => {
  assert.ok(isKept('query-status'));
  for (const text of [
    '',
    ' stop',
    'set_password protocol=vnc password=x',
    'object-add qom-type=secret id=s data=x',
  ]) {
    assert.ok(!isKept(text), text);
  }
});
