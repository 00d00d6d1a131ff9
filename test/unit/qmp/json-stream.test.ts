import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { JSON_LIMITS, JsonStream, stringifyJson } from '../../../src/qmp/json-stream.ts';
import type { JsonLimits } from '../../../src/qmp/json-stream.ts';

/** Everything that comes out of the chunks, errors as `!text`. */
function parse(chunks: readonly (string | Uint8Array)[], limits: JsonLimits = JSON_LIMITS): unknown[] {
  const out: unknown[] = [];
  const stream = new JsonStream(
    { onMessage: (value) => out.push(value), onError: (text) => out.push(`!${text}`) },
    limits,
  );
  for (const chunk of chunks) stream.push(Buffer.from(chunk as string));
  return out;
}

test('several messages in a chunk, one message in several lines, single quotes', () => {
  assert.deepEqual(parse(['{"a":1}{\'b\':\'it\\\'s "x"\'}\n[1,-2.5e1,true,null]\r\n{"c":\n\t{}\r\n}']), [
    { a: 1 },
    { b: 'it\'s "x"' },
    [1, -25, true, null],
    { c: {} },
  ]);
});

test('integers are exact to 64 bits, larger ones become floating point as in QEMU', () => {
  const text = '[9007199254740993,18446744073709551615,-9223372036854775808,18446744073709551616,-0] ';
  assert.deepEqual(parse([text]), [[9007199254740993n, 18446744073709551615n, -(2n ** 63n), 2 ** 64, 0]]);
  assert.equal(stringifyJson(parse(['[18446744073709551615]'])[0]), '[18446744073709551615]');
});

// Input and QEMU 7.2.22's reaction. Each ends in a line feed, which ends the recovery after an error.
const ERRORS: readonly [string | Buffer, readonly unknown[]][] = [
  ['{"execute":"query-name" "id":2}', ['!JSON parse error, expected separator in dict']],
  ['{"execute" "x"}', ['!JSON parse error, missing : in object pair']],
  ['{1:2}', ['!JSON parse error, key is not a string in object']],
  ['{"a":}', ['!JSON parse error, expecting value']],
  ['{"a":1,}', ['!JSON parse error, expecting value']],
  ['[1 2]', ['!JSON parse error, expected separator in list']],
  ['{"a":1]', ['!JSON parse error, expected separator in dict']],
  ['}}', ['!JSON parse error, expecting value', '!JSON parse error, expecting value']],
  ['foo', ["!JSON parse error, invalid keyword 'foo'"]],
  ['fooBar', ["!JSON parse error, invalid keyword 'foo'", "!JSON parse error, stray 'B'"]],
  ['1x', [1, "!JSON parse error, invalid keyword 'x'"]],
  ['{"a":%s}', ["!JSON parse error, stray '%'", '!JSON parse error, expecting value']],
  ['"abc\ndef"', ["!JSON parse error, stray '\"abc\n'"]],
  ['"\\q"', ['!JSON parse error, invalid escape sequence in string']],
  ['"\\u12"', ['!JSON parse error, \\u12" is not a valid Unicode character']],
  ['"\\ud800x"', ['!JSON parse error, \\ud800 is not a valid Unicode character']],
  ['"\\udc00x"', ['!JSON parse error, \\udc00 is not a valid Unicode character']],
  ['"\\ufffe"', ['!JSON parse error, \\ufffe is not a valid Unicode character']],
  ['"\uffff"', ['!JSON parse error, invalid UTF-8 sequence in string']],
  [
    Buffer.from('"\xc3"x', 'latin1'),
    ['!JSON parse error, invalid UTF-8 sequence in string', "!JSON parse error, invalid keyword 'x'"],
  ],
  [Buffer.from('"\xed\xa0\x80"', 'latin1'), ['!JSON parse error, invalid UTF-8 sequence in string']],
  [Buffer.from('"a\xffb"', 'latin1'), ["!JSON parse error, stray '\"a\ufffd'"]],
  [Buffer.from('\xff{}', 'latin1'), ["!JSON parse error, stray '\ufffd'", {}]],
  ['01', ["!JSON parse error, stray '01'"]],
  ['1.', ["!JSON parse error, stray '1.\n'"]],
  ['-x', ["!JSON parse error, stray '-x'"]],
  ['+1 1', ["!JSON parse error, stray '+'"]],
  ['\u0004{}', ["!JSON parse error, stray '\u0004'", {}]],
  ['{"a":1,"a":2}', ['!JSON parse error, duplicate key']],
  ['{"__proto__":1,"__proto__":2}', ['!JSON parse error, duplicate key']],
  ['{"__proto__":{"a":1}}', [JSON.parse('{"__proto__":{"a":1}}')]],
  ['/* */ {}', ["!JSON parse error, stray '/'", {}]],
];

test('errors have QEMU’s texts, and the next message is read', () => {
  for (const [input, expected] of ERRORS) {
    const got = parse([input, '\n\n', '{"next":1}']);
    assert.deepEqual(got.slice(0, -1), expected, JSON.stringify(input.toString()));
    assert.deepEqual(got.at(-1), { next: 1 });
  }
});

test('the same comes out wherever the input is cut', () => {
  const text = Buffer.from(
    '{"é😀":["\\ud83d\\ude00\\n",-1.5e+3,0,true]}\'x\'{"a":%}12 [[]]nul "ü"\n{"b":{"c":18446744073709551615}}\n',
  );
  const whole = parse([text]);
  assert.equal(whole.length, 9);
  for (let cut = 0; cut <= text.length; cut++) {
    assert.deepEqual(parse([text.subarray(0, cut), text.subarray(cut)]), whole, `cut at ${cut}`);
  }
  assert.deepEqual(parse([...text].map((byte) => Buffer.of(byte))), whole);
});

test('any bytes give messages or errors, never an exception', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 5 }), (chunks) => {
      parse(chunks);
    }),
    { numRuns: 300 },
  );
});

test('what is written is ASCII and reads back', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = stringifyJson(value);
      assert.match(text, /^[\x20-\x7e]*$/);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
    }),
    { numRuns: 300 },
  );
  assert.equal(
    stringifyJson({ a: [1, 'é\u007f"\n'], b: undefined, c: null }),
    '{"a": [1, "\\u00E9\\u007F\\"\\n"], "c": null}',
  );
});

test('size, tokens and depth are bounded, whether in one piece or in many', () => {
  const limits = { messageBytes: 1000, tokens: 100, nesting: 10 };
  const long = `"${'x'.repeat(2000)}"\n`;
  assert.deepEqual(parse([long, '1\n'], limits), ['!JSON token size limit exceeded', 1]);
  assert.deepEqual(
    parse([...Buffer.from(long)].map((byte) => Buffer.of(byte)).concat(Buffer.from('1\n')), limits),
    ['!JSON token size limit exceeded', 1],
  );
  assert.deepEqual(parse([`{"a":"${'x'.repeat(600)}","b":"${'x'.repeat(600)}"`, '\n1 '], limits).at(-1), 1);
  assert.equal(parse([`[${'1,'.repeat(200)}`], limits)[0], '!JSON token count limit exceeded');
  const deep = parse(['['.repeat(10), ']'.repeat(10), '['.repeat(11)], limits);
  assert.equal(deep.length, 2);
  assert.equal(deep[1], '!JSON nesting depth limit exceeded');
});

test('a value at the very end is a message when the input ends', () => {
  const out: unknown[] = [];
  const stream = new JsonStream({ onMessage: (value) => out.push(value), onError: (text) => out.push(text) });
  stream.push(Buffer.from('tru'));
  stream.push(Buffer.from('e'));
  assert.deepEqual(out, []);
  stream.end();
  assert.deepEqual(out, [true]);
});
