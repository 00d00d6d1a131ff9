// The project's test command: types, lint, format, then the test groups in order of what they cost.
// `./colo test` runs all; `./colo test unit interop` runs groups; `./colo test test/unit/net/framing.test.ts` files.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';

const GROUPS = ['unit', 'conformance', 'interop', 'docs', 'browser', 'e2e'];
/** Long runs, only when asked for: `COLO_CHAOS=50 ./colo test chaos`. */
const ON_REQUEST = ['chaos'];
/** Files of these groups start machines or other programs: one at a time, so that none starves another. */
const SERIAL = new Set(['docs', 'browser', 'e2e', 'chaos']);
const args = process.argv.slice(2);
const files = args.filter((arg) => arg.endsWith('.ts'));
const wanted = args.filter((arg) => !arg.endsWith('.ts'));
const unknown = wanted.filter((group) => ![...GROUPS, ...ON_REQUEST, 'check'].includes(group));
if (unknown.length > 0) {
  console.error(
    `colo test: no group '${unknown[0]}'; there are check, ${[...GROUPS, ...ON_REQUEST].join(', ')}`,
  );
  process.exit(2);
}
const all = args.length === 0;
let failed = 0;
/** Where running-test.js keeps what is running. */
const running = mkdtempSync(path.join(tmpdir(), 'colo-running-'));
process.on('exit', () => rmSync(running, { recursive: true, force: true }));
const totals = { pass: 0, fail: 0, cancelled: 0, skipped: 0, elsewhere: 0 };

function run(title, command, commandArgs, env = {}) {
  console.log(`\n== ${title}`);
  const result = spawnSync(command, commandArgs, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, COLO_RUNNING_TESTS: running, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  process.stdout.write(result.stdout ?? '');
  if (result.status !== 0) failed++;
  tellWhatWasRunning();
  totals.elsewhere += [...(result.stdout ?? '').matchAll(/^\s*﹣ .* # not on this machine: /gm)].length;
  for (const key of ['pass', 'fail', 'cancelled', 'skipped']) {
    const line = [...(result.stdout ?? '').matchAll(new RegExp(`^(?:#|ℹ) ${key} (\\d+)$`, 'gm'))].at(-1);
    totals[key] += line ? Number(line[1]) : 0;
  }
}

/** One after the other, each told as a whole when it has ended. */
async function checks(...list) {
  for (const [title, command, commandArgs] of list) {
    const child = spawn('npx', [command, ...commandArgs], { stdio: ['ignore', 'pipe', 'pipe'] });
    const said = Promise.all([text(child.stdout), text(child.stderr)]);
    const [status] = await once(child, 'close');
    console.log(`\n== ${title}`);
    process.stdout.write((await said).join(''));
    if (status !== 0) failed++;
  }
}

/** Names the tests whose process was killed, by the runner after its timeout or by whatever else. */
function tellWhatWasRunning() {
  for (const name of readdirSync(running)) {
    const note = path.join(running, name);
    const { file, tests } = JSON.parse(readFileSync(note, 'utf8') || '{"file":"a test file","tests":[]}');
    rmSync(note);
    if (tests.length === 0) console.error(`\n${file} was killed outside of its tests`);
    for (const { name, seed } of tests) {
      const again = seed === null ? '' : ` (COLO_SEED=${seed} gives its properties the same input)`;
      console.error(`\n${file} was killed in: ${name}${again}`);
    }
  }
}

function testFiles(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => path.join(folder, name))
    .sort();
}

/** Where a test finds the guest of each architecture, and the file that is built unless one is given. */
const GUESTS = {
  i386: ['COLO_GUEST_IMAGE', '.cache/guest.raw'],
  amd64: ['COLO_GUEST_IMAGE_AMD64', '.cache/guest-amd64.raw'],
};

function guestImages() {
  const images = {};
  for (const [arch, [variable, file]] of Object.entries(GUESTS)) {
    images[variable] = process.env[variable] || path.resolve(file);
    if (process.env[variable]) continue;
    mkdirSync('.cache', { recursive: true });
    run(`guest image (${arch})`, 'node', ['dist/cli/main.js', 'guest', '--arch', arch, images[variable]]);
  }
  return images;
}

if (all || wanted.includes('check')) {
  const tsc = (project) => [`types (${project})`, 'tsc', ['--noEmit', '-p', project]];
  const code = ['src', 'web', 'test', 'bench', 'examples'];
  // The linter takes as long as all the others.
  await Promise.all([
    checks(['lint', 'eslint', code]),
    checks(...['tsconfig.json', 'web/tsconfig.json', 'test/browser/tsconfig.json'].map(tsc), [
      'format',
      'prettier',
      ['--check', '--log-level=warn', ...code, 'docs', '*.md'],
    ]),
  ]);
}
const needsGuest = (name) => /(^|\/)(interop|docs|e2e|chaos)(\/|$)/.test(name);
const env = all || args.some(needsGuest) ? guestImages() : {};
// A handle that a test forgot does not keep its process.
const nodeTest = [
  '--import',
  'tsx',
  '--import',
  new URL('running-test.js', import.meta.url).href,
  '--test',
  '--test-reporter=spec',
  '--test-force-exit',
];
/**
 * A test that hangs fails, and so does a file, which leaves what it has started: one types all pages, those of e2e have
 * limits of their own within it, and those of chaos take as long as one wants.
 */
const TIMEOUTS_MS = { docs: 900_000, e2e: 1_800_000, chaos: Infinity };
function timeoutOf(group) {
  const ms = TIMEOUTS_MS[group] ?? 300_000;
  return ms === Infinity ? [] : [`--test-timeout=${ms}`];
}
for (const group of [...GROUPS, ...ON_REQUEST]) {
  if (!wanted.includes(group) && !(all && GROUPS.includes(group))) continue;
  const list = testFiles(`test/${group}`);
  const options = [`--test-concurrency=${SERIAL.has(group) ? 1 : 2}`, ...timeoutOf(group)];
  if (list.length > 0) run(`${group} tests`, 'node', [...nodeTest, ...options, ...list], env);
}
if (files.length > 0) {
  const options = [
    '--test-concurrency=1',
    ...timeoutOf(files.some((file) => /chaos/.test(file)) ? 'chaos' : 'e2e'),
  ];
  run('chosen tests', 'node', [...nodeTest, ...options, ...files], env);
}

// What can run here has to: in CI a skipped test is a missing tool that nobody noticed, unless it asks for a kernel or a
// processor that cannot be installed.
const avoidable = totals.skipped - totals.elsewhere;
if (process.env.CI && avoidable > 0 && !process.env.COLO_ALLOW_SKIPS) {
  console.error(
    `\n${avoidable} test(s) were skipped in CI; install what they need or say in docs/ why they cannot run`,
  );
  failed++;
}
console.log(`\n${totals.pass} passed, ${totals.fail + totals.cancelled} failed, ${totals.skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
