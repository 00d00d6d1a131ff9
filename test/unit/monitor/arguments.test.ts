// Arguments of QMP commands: every kind of mistake has QEMU's text (asked of 7.2).
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { z } from 'zod';
import { CommandNotFoundError, ParameterError } from '../../../src/base/errors.ts';
import { commands } from '../../../src/monitor/commands/index.ts';
import { int64, noArguments, parseArguments, uint32 } from '../../../src/monitor/registry.ts';
import type { VirtualMachine } from '../../../src/vm/machine.ts';

const address = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('inet'), data: z.strictObject({ port: z.string() }) }),
  z.strictObject({ type: z.literal('unix'), path: z.string() }),
]);
const schema = z.strictObject({
  name: z.string(),
  on: z.boolean().optional(),
  mode: z.enum(['full', 'top']).optional(),
  speed: int64.optional(),
  delay: uint32.optional(),
  list: z.array(z.strictObject({ a: z.string(), b: z.boolean() })).optional(),
  addr: address.optional(),
  small: z.number().min(2).max(3).optional(),
  never: z.literal(false).optional(),
});

const cases: [unknown, string][] = [
  [{}, "Parameter 'name' is missing"],
  [{ name: 5 }, "Invalid parameter type for 'name', expected: string"],
  [{ name: null }, "Invalid parameter type for 'name', expected: string"],
  [{ name: 'x', other: 1 }, "Parameter 'other' is unexpected"],
  [{ name: 'x', on: 'on' }, "Invalid parameter type for 'on', expected: boolean"],
  [{ name: 'x', mode: 'zig' }, "Parameter 'mode' does not accept value 'zig'"],
  [{ name: 'x', mode: 5 }, "Invalid parameter type for 'mode', expected: string"],
  [{ name: 'x', speed: 'x' }, "Invalid parameter type for 'speed', expected: integer"],
  [{ name: 'x', speed: 1.5 }, "Invalid parameter type for 'speed', expected: integer"],
  [{ name: 'x', delay: 'x' }, "Parameter 'delay' expects uint64"],
  [{ name: 'x', delay: 1.5 }, "Parameter 'delay' expects uint64"],
  [{ name: 'x', delay: -1 }, "Parameter 'delay' expects uint32_t"],
  [{ name: 'x', delay: 2 ** 32 }, "Parameter 'delay' expects uint32_t"],
  [{ name: 'x', list: {} }, "Invalid parameter type for 'list', expected: array"],
  [{ name: 'x', list: [5] }, "Invalid parameter type for 'list[0]', expected: object"],
  [{ name: 'x', list: [{ a: 'a', b: true }, { a: 'a' }] }, "Parameter 'list[1].b' is missing"],
  [{ name: 'x', list: [{ a: 'a', b: 1 }] }, "Invalid parameter type for 'list[0].b', expected: boolean"],
  [{ name: 'x', list: [{ a: 'a', b: true, c: 1 }] }, "Parameter 'list[0].c' is unexpected"],
  [{ name: 'x', addr: {} }, "Parameter 'addr.type' is missing"],
  [{ name: 'x', addr: 5 }, "Invalid parameter type for 'addr', expected: object"],
  [{ name: 'x', addr: { type: 'zig' } }, "Parameter 'type' does not accept value 'zig'"],
  [{ name: 'x', addr: { type: 'inet' } }, "Parameter 'addr.data' is missing"],
  [{ name: 'x', addr: { type: 'inet', data: {} } }, "Parameter 'addr.data.port' is missing"],
  [{ name: 'x', small: 1 }, "Parameter 'small' expects a value >= 2"],
  [{ name: 'x', small: 4 }, "Parameter 'small' expects a value <= 3"],
  [{ name: 'x', never: 'x' }, "Invalid parameter type for 'never', expected: boolean"],
];

test('every kind of mistake is told in QEMU’s words', () => {
  for (const [args, message] of cases) {
    assert.throws(
      () => parseArguments(schema, args),
      { name: 'ParameterError', message },
      JSON.stringify(args),
    );
  }
});

test('what is right passes, at the bounds too', () => {
  const right = {
    name: 'x',
    speed: -(2 ** 53),
    delay: 0xffff_ffff,
    list: [],
    addr: { type: 'unix', path: '/x' },
  };
  assert.deepEqual(parseArguments(schema, right), right);
  assert.deepEqual(parseArguments(noArguments, {}), {});
});

test('an unknown command has its own class, and missing arguments are an empty object', async () => {
  const nobody = Object.create(null) as VirtualMachine;
  await assert.rejects(commands.execute(nobody, 'nope', {}), (error) => {
    assert.ok(error instanceof CommandNotFoundError);
    assert.equal(error.message, 'The command nope has not been found');
    return true;
  });
  const listed = (await commands.execute(nobody, 'query-commands', undefined)) as { name: string }[];
  assert.deepEqual(
    listed.map(({ name }) => name),
    commands.names().filter((name) => !/^(query-qmp-schema|set-action|query-vnc.*)$/.test(name)),
  );
});

test('no command takes an argument that it does not know', async () => {
  const nobody = Object.create(null) as VirtualMachine;
  // These hand unknown members to a driver or an object, which refuses them (blockdev-add, object-add), or check
  // names themselves.
  const open = new Set(['blockdev-add', 'object-add', 'migrate-set-parameters']);
  for (const name of commands
    .names()
    .filter((name) => !/^(query-qmp-schema|set-action|query-vnc.*)$/.test(name))) {
    if (open.has(name)) continue;
    await assert.rejects(commands.execute(nobody, name, { 'no-such-argument': 1 }), (error) => {
      assert.ok(error instanceof ParameterError, `${name}: ${String(error)}`);
      assert.match(error.message, /^Parameter '[\w-]+' is (unexpected|missing)$/, name);
      return true;
    });
  }
});
