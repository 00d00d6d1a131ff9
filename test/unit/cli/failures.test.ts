/** Errors: one line that says what to do next, the rest with --verbose, an object with --json, and the documented status. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ColoError, ParameterError } from '../../../src/base/errors.ts';
import { EXIT_CODES } from '../../../src/cli/exit-codes.ts';
import { failureText } from '../../../src/cli/failure.ts';
import type { Presentation } from '../../../src/cli/presentation.ts';
import { COLO } from '../../helpers/colo.ts';
import { coloHere } from '../../helpers/colo-here.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fail-'));
  await writeFile(path.join(folder, 'node.yaml'), 'arbiter: { file: /x }\nnmae: alpha\n');
});
after(() => rm(folder, { recursive: true, force: true }));

const HOW: Presentation = { command: 'status', isJson: false, isVerbose: false, mayColour: false };
const SOURCES = fileURLToPath(new URL('../../../src/', import.meta.url));

/** Every class of ours that derives from Error, without being constructed. */
async function errorClasses(): Promise<Map<string, ColoError>> {
  const found = new Map<string, ColoError>();
  for (const name of readdirSync(SOURCES, { recursive: true }).map(String)) {
    if (!name.endsWith('.ts') || name.startsWith('cli/')) continue;
    const file = path.join(SOURCES, name);
    const classes = [...readFileSync(file, 'utf8').matchAll(/^export class (\w+Error) extends/gm)];
    if (classes.length === 0) continue;
    const module = (await import(file)) as Record<string, { prototype: object }>;
    for (const [, className = ''] of classes) {
      const made = Object.create(module[className]?.prototype ?? null) as ColoError;
      Object.defineProperty(made, 'message', { value: "the thing 'x' is\nbroken\x1b[2J; do this" });
      Object.defineProperty(made, 'stack', { value: `${className}: …\n    at here (x.ts:1:1)` });
      Object.defineProperty(made, 'name', { value: className });
      found.set(className, made);
    }
  }
  return found;
}

test('an error of any class is one line without a stack, and a JSON object', async () => {
  const classes = await errorClasses();
  assert.ok(classes.size > 35, `${classes.size} classes`);
  const codes: number[] = EXIT_CODES.map(([code]) => code);
  for (const [name, error] of classes) {
    const text = failureText(HOW, error);
    if (name !== 'SpecFileError')
      assert.match(text, /^colo status: the thing 'x' is broken\?\[2J; do this.*\n$/, name);
    assert.doesNotMatch(text, /at here|[\x00-\x09\x0b-\x1f]/, name);
    assert.match(failureText({ ...HOW, isVerbose: true }, error), /^ +at here/m, name);
    const json = failureText({ ...HOW, isJson: true }, error);
    assert.equal(json.indexOf('\n'), json.length - 1, name);
    const { error: told } = JSON.parse(json) as { error: Record<string, unknown> };
    assert.deepEqual([told['command'], told['class']], ['status', name]);
    assert.ok(codes.includes(Number(told['exitCode'])) && told['exitCode'] !== 0, name);
    assert.ok(!('stack' in told), name);
  }
});

test('--verbose adds causes and the place; what is no ColoError asks to be reported', () => {
  const deep = new ColoError('the disk is full', { cause: new Error('ENOSPC: no\nspace') });
  const verbose = failureText({ ...HOW, isVerbose: true }, deep);
  assert.match(
    verbose,
    /^colo status: the disk is full\n {2}ColoError, exit status 1\n {2}because of Error: ENOSPC: no space\n {4}at /,
  );
  const { error } = JSON.parse(failureText({ ...HOW, isJson: true, isVerbose: true }, deep)) as {
    error: { causes: unknown; stack: string };
  };
  assert.deepEqual(error.causes, [{ class: 'Error', message: 'ENOSPC: no\nspace' }]);
  assert.match(error.stack, /at /);
  assert.match(
    failureText(HOW, new TypeError('x is undefined')),
    /fault of colo, please report what --verbose/,
  );
  assert.doesNotMatch(failureText(HOW, new ParameterError('x')), /fault/);
});

test('typical failures are one line each, with what to do next', async () => {
  const none = path.join(folder, 'none');
  const nobody = ['--node', `unix:${folder}/none.sock`];
  const cases: [string[], number, RegExp][] = [
    [['status', ...nobody], 5, /^colo status: no node answers at .*is 'colo node' running there\?$/],
    [
      ['status', '--jsn'],
      2,
      /^colo status: unknown option '--jsn'; did you mean --json\? \(see colo status --help\)$/,
    ],
    [['migrate', 'web1'], 2, /^colo migrate: missing required argument 'host'; see colo migrate --help$/],
    [['stauts'], 2, /^colo: unknown command 'stauts'; did you mean status\? \(see colo --help\)$/],
    [
      ['top', '-d', 'x'],
      2,
      /^colo top: option '-d, --delay <seconds>' argument 'x' is invalid\. expected a number/,
    ],
    [
      ['guest', '--size', 'big', 'x'],
      2,
      /^colo guest: .*Give a size such as 64M or 1G; see colo guest --help$/,
    ],
    [['down', 'web1', '--purge', ...nobody], 2, /^colo down: --purge deletes the disks .*add --yes/],
    [['node'], 2, /^colo node: required option '--config <file>' not specified; see colo node --help$/],
    [
      ['node', '--config', path.join(folder, 'node.yaml')],
      2,
      /node\.yaml:2:1: nmae: is no key here; did you mean 'name'\?$/,
    ],
    [['arbiter', 'prepare', '/proc/none/x'], 1, /^colo arbiter prepare: .*\/proc\/none/],
    [['up', `${none}.yaml`, ...nobody], 2, /none\.yaml/],
    [
      ['nbd', 'serve', `${none}.raw`, '--listen', `unix:${none}.sock`],
      1,
      /^colo nbd serve: .*none\.raw.*No such file/,
    ],
    [['switch', '--net', '10.0.0.0/24'], 2, /^colo switch: --net, .* are for the NAT: add --nat$/],
    [['qmp', `${none}.qmp`, 'query-status'], 5, /^colo qmp: Failed to connect to .*; is the monitor there/],
    [
      ['img', 'info', `${none}.raw`],
      1,
      /^colo img: Could not open '.*none\.raw': .*No such file or directory$/,
    ],
    [
      ['img', 'check', '--nonsense', 'x'],
      1,
      /^colo img check: unknown option '--nonsense'; see colo img check --help$/,
    ],
    [['demo', '--generations', 'x'], 2, /^colo demo: .*see colo demo --help$/],
  ];
  for (const [args, status, text] of cases) {
    const ran = await coloHere(...args);
    const lines = ran.err.split('\n');
    assert.deepEqual([ran.status, lines.length], [status, 2], `colo ${args.join(' ')}: ${ran.err}`);
    assert.match(lines[0] ?? '', text);
    assert.equal(ran.out, '');
    // And as JSON, wherever there is any.
    const json = await coloHere(...args, '--json');
    const { error } = JSON.parse(json.err) as { error: { exitCode: number; message: string } };
    assert.deepEqual([json.status, error.exitCode, json.out], [status, status, ''], json.err);
  }
});

test('the built program: --verbose before and behind the command, JSON, the status', async () => {
  const colo = (...args: string[]): Promise<{ err: string; status: unknown }> =>
    new Promise((resolve) => {
      execFile(process.execPath, [COLO, ...args], (error, _out, err) =>
        resolve({ err, status: error?.code ?? 0 }),
      );
    });
  const nobody = ['status', '--node', `unix:${folder}/none.sock`];
  const [plain, before_, behind, wrong, json] = await Promise.all([
    colo(...nobody),
    colo('--verbose', ...nobody),
    colo(...nobody, '--verbose'),
    colo('nosuch'),
    colo('status', '--nosuch', '--json'),
  ]);
  assert.equal(plain.status, 5);
  assert.equal(plain.err.split('\n').length, 2);
  for (const { err, status } of [before_, behind]) {
    assert.equal(status, 5);
    assert.match(err, /\n {2}NodeUnreachableError, exit status 5\n(.*\n)* +at /);
  }
  assert.deepEqual(wrong, { err: "colo: unknown command 'nosuch'; see colo --help\n", status: 2 });
  assert.equal(json.status, 2);
  assert.deepEqual(JSON.parse(json.err), {
    error: {
      command: 'status',
      exitCode: 2,
      class: 'ParameterError',
      message: "unknown option '--nosuch'",
      hint: 'see colo status --help',
    },
  });
});
