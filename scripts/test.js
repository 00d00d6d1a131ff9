// The project's test command: types, lint, format, then the test groups in order of what they cost.
// `./colo test` runs all; `./colo test unit interop` runs groups; `./colo test test/unit/net/framing.test.ts` files.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';

const GROUPS = ['unit', 'conformance', 'interop', 'e2e'];
/** Long runs, only when asked for: `COLO_CHAOS=50 ./colo test chaos`. */
const ON_REQUEST = ['chaos'];
/** Files of these groups start machines or other programs: one at a time, so that none starves another. */
const SERIAL = new Set(['e2e', 'chaos']);
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
const totals = { pass: 0, fail: 0, skipped: 0 };

function run(title, command, commandArgs, env = {}) {
  console.log(`\n== ${title}`);
  const result = spawnSync(command, commandArgs, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  process.stdout.write(result.stdout ?? '');
  if (result.status !== 0) failed++;
  for (const key of Object.keys(totals)) {
    const line = [...(result.stdout ?? '').matchAll(new RegExp(`^(?:#|ℹ) ${key} (\\d+)$`, 'gm'))].at(-1);
    totals[key] += line ? Number(line[1]) : 0;
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

function guestImage() {
  const given = process.env.COLO_GUEST_IMAGE;
  if (given) return given;
  const image = path.resolve('.cache/guest.raw');
  mkdirSync('.cache', { recursive: true });
  run('guest image', 'node', ['dist/cli/main.js', 'guest', image]);
  return image;
}

if (all || wanted.includes('check')) {
  run('types', 'npx', ['tsc', '--noEmit', '-p', 'tsconfig.json']);
  run('lint', 'npx', ['eslint', 'src', 'test', 'bench']);
  run('format', 'npx', ['prettier', '--check', '--log-level=warn', 'src', 'test', 'bench', 'docs', '*.md']);
}
const needsGuest = (name) => /(^|\/)(interop|e2e|chaos)(\/|$)/.test(name);
const image = all || args.some(needsGuest) ? guestImage() : '';
const env = image ? { COLO_GUEST_IMAGE: image } : {};
// A test that hangs fails, and a handle that one forgot does not keep its process.
const nodeTest = [
  '--import',
  'tsx',
  '--test',
  '--test-reporter=spec',
  '--test-timeout=300000',
  '--test-force-exit',
];
for (const group of [...GROUPS, ...ON_REQUEST]) {
  if (!wanted.includes(group) && !(all && GROUPS.includes(group))) continue;
  const list = testFiles(`test/${group}`);
  const concurrency = `--test-concurrency=${SERIAL.has(group) ? 1 : 2}`;
  if (list.length > 0) run(`${group} tests`, 'node', [...nodeTest, concurrency, ...list], env);
}
if (files.length > 0) run('chosen tests', 'node', [...nodeTest, '--test-concurrency=1', ...files], env);

// What can run here has to: in CI a skipped test is a missing tool that nobody noticed.
if (process.env.CI && totals.skipped > 0 && !process.env.COLO_ALLOW_SKIPS) {
  console.error(
    `\n${totals.skipped} test(s) were skipped in CI; install what they need or say in docs/ why they cannot run`,
  );
  failed++;
}
console.log(`\n${totals.pass} passed, ${totals.fail} failed, ${totals.skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
