/**
 * The package as a user gets it: packed, looked at by publint and attw, installed into a clean folder, and run from there:
 * the programs, and every example of examples/ on the installed package. Where no npm registry can be reached the installed
 * dependencies of the repository are linked in, those that the package declares and no others.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { until } from '../../helpers/colo.ts';

const TOP = fileURLToPath(new URL('../../../', import.meta.url));
const TOOL = (name: string): string => path.join(TOP, 'node_modules/.bin', name);
const exec = promisify(execFile);
const INSTALL_TIMEOUT_MS = 120_000;

let folder = '';
let tarball = '';
let files: string[] = [];
const clean = (...names: string[]): string => path.join(folder, 'clean', ...names);
const colo = (...args: string[]): Promise<{ stdout: string }> =>
  exec(clean('node_modules/.bin/colo'), args, { cwd: clean() });

/** Runs an example where the package is installed; its lines. */
async function example(name: string, ...args: string[]): Promise<string[]> {
  const { stdout } = await exec(process.execPath, [clean('examples', name), ...args], { cwd: clean() });
  return stdout.trimEnd().split('\n');
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'colo-package-'));
  // dist/ is built already, and others use it.
  const { stdout } = await exec('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder], {
    cwd: TOP,
    maxBuffer: 1 << 24,
  });
  const [packed] = JSON.parse(stdout) as { filename: string; files: { path: string }[] }[];
  assert.ok(packed);
  tarball = path.join(folder, packed.filename);
  files = packed.files.map((file) => file.path);
  await mkdir(clean());
  await writeFile(clean('package.json'), JSON.stringify({ name: 'clean', private: true, type: 'module' }));
  await install();
  await cp(clean('node_modules/colo-ft/examples'), clean('examples'), { recursive: true });
});
after(() => rm(folder, { recursive: true, force: true }));

async function install(): Promise<void> {
  const args = ['install', '--prefer-offline', '--no-audit', '--no-fund', '--fetch-retries=0', tarball];
  try {
    await exec('npm', args, { cwd: clean(), timeout: INSTALL_TIMEOUT_MS });
  } catch (error) {
    if (!/ENOTCACHED|ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|E40[34]/.test(String(error))) throw error;
    await rm(clean('node_modules'), { recursive: true, force: true });
    await link();
  }
}

async function link(): Promise<void> {
  const target = clean('node_modules/colo-ft');
  await mkdir(target, { recursive: true });
  await exec('tar', ['-xzf', tarball, '-C', target, '--strip-components=1']);
  const { dependencies = {}, bin = {} } = JSON.parse(
    await readFile(path.join(target, 'package.json'), 'utf8'),
  ) as {
    dependencies?: Record<string, string>;
    bin?: Record<string, string>;
  };
  for (const name of Object.keys(dependencies)) {
    await symlink(path.join(TOP, 'node_modules', name), clean('node_modules', name));
  }
  await mkdir(clean('node_modules/.bin'));
  for (const [name, file] of Object.entries(bin)) {
    await exec('chmod', ['+x', path.join(target, file)]);
    await symlink(path.join(target, file), clean('node_modules/.bin', name));
  }
}

test('the package holds the programs, declarations, documents and examples, and nothing of sources and tests', () => {
  for (const needed of [
    'dist/cli/main.js',
    'dist/cli/colo-system.js',
    'dist/lib/nbd.d.ts',
    'docs/library.md',
    'docs/errors.md',
    'examples/nbd-file.js',
    'packaging/systemd/colo-node.service',
    // The page of the dashboard, whole: without it `colo demo` and `colo node` would serve nothing.
    'dist/web/index.html',
    'dist/web/app.js',
    'dist/web/app.css',
    'LICENSE',
  ]) {
    assert.ok(files.includes(needed), needed);
  }
  const foreign = files.filter((name) =>
    /^(?:src|web|test|bench|scripts|docs-api)\/|\.map$|\.test\.|(?<!\.d)\.tsx?$|\/\./.test(name),
  );
  assert.deepEqual(foreign, []);
});

test('publint finds nothing to say', async () => {
  const { stdout } = await exec(TOOL('publint'), ['run', '--strict', tarball]);
  assert.match(stdout, /All good!/);
});

test('types are found by those who import it', async () => {
  // An ESM package: what only CommonJS sees is not looked at.
  const { stdout } = await exec(TOOL('attw'), ['--profile', 'esm-only', '--format', 'json', tarball]);
  const { analysis } = JSON.parse(stdout) as { analysis: { entrypoints: Record<string, unknown> } };
  assert.deepEqual(Object.keys(analysis.entrypoints).sort(), [
    './compare',
    './nbd',
    './package.json',
    './qcow2',
    './qmp',
  ]);
});

test('the installed programs run', async () => {
  const { version } = JSON.parse(await readFile(path.join(TOP, 'package.json'), 'utf8')) as {
    version: string;
  };
  assert.equal((await colo('--version')).stdout.trim(), version);
  await colo('img', 'create', '-f', 'qcow2', clean('made.qcow2'), '1M');
  assert.match((await colo('img', 'check', clean('made.qcow2'))).stdout, /No errors were found/);
  assert.match((await colo('completion', 'bash')).stdout, /complete/);
});

test('internals cannot be imported from outside', async () => {
  const script = "import('colo-ft/dist/nbd/server.js').catch((error) => console.log(error.code))";
  const { stdout } = await exec(process.execPath, ['-e', script], { cwd: clean() });
  assert.equal(stdout.trim(), 'ERR_PACKAGE_PATH_NOT_EXPORTED');
});

test('examples/nbd-file.js', async () => {
  const file = clean('disk.raw');
  await writeFile(file, 'served'.padEnd(4096, '.'));
  const lines = await example('nbd-file.js', file);
  assert.match(lines[0]!, /127\.0\.0\.1.*disk/);
  assert.equal(lines[1], '4096 bytes, read-only: true');
  assert.match(lines[2]!, /^begins with "served\.+"$/);
  assert.equal(lines[3], '0 + 4096: data');
});

test('examples/qcow2-image.js', async () => {
  const there = clean('images');
  await mkdir(there);
  assert.deepEqual(await example('qcow2-image.js', there), [
    'of the base, of the overlay',
    '134217728 bytes in clusters of 65536, over base.qcow2',
    'sizeBytes is 1000: it has to be a multiple of 512, and no less than 134217728',
    '0 errors, 0 leaks, 1 of 2048 clusters in use',
  ]);
});

test('examples/qmp-talk.js with a machine that the installed colo runs', async (t) => {
  const socket = clean('vm.qmp');
  const vm = spawn(
    clean('node_modules/.bin/colo'),
    ['vm', '-machine', 'none', '-qmp', `unix:${socket},server=on,wait=off`],
    { stdio: 'inherit' },
  );
  t.after(() => vm.kill('SIGKILL'));
  const ended = once(vm, 'exit');
  await until('the monitor', 60_000, () => existsSync(socket));
  assert.deepEqual(await example('qmp-talk.js', socket), [
    'QMP of version 7.2',
    "{ status: 'running', singlestep: false, running: true }",
    'event STOP',
    'event RESUME',
    "GenericError: Cannot find device='' nor node-name='nowhere'",
    'event SHUTDOWN',
  ]);
  assert.deepEqual(await ended, [0, null]);
});

test('examples/qmp-serve.js', async () => {
  assert.deepEqual(await example('qmp-serve.js', clean('own.qmp')), [
    'reply { rounds: 3 }',
    'event { rounds: 3 }',
    'QmpCommandError: fly: The command fly has not been found',
  ]);
});

test('examples/compare-streams.js', async () => {
  assert.deepEqual(await example('compare-streams.js'), [
    '3 frames wait',
    'out: tick 1',
    'out: tick 2',
    'checkpoint: payload of udp/10.0.0.1:7>10.0.0.2:9, at byte 43',
    '1 frame waits',
    'out: tick 3',
    '2 were said by both, 1 left by the checkpoint',
  ]);
});
