/**
 * The API reference is made of the code, as docs/library.md says (npm run docs): everything that the package exports has a
 * text, every link in one leads somewhere, and no type that a signature names is left out.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const TOP = fileURLToPath(new URL('../../../', import.meta.url));
const TYPEDOC = path.join(TOP, 'node_modules/typedoc/bin/typedoc');
const OPTIONS = path.join(TOP, 'typedoc.json');
let folder = '';

before(async () => (folder = await mkdtemp(path.join(tmpdir(), 'colo-reference-'))));
after(() => rm(folder, { recursive: true, force: true }));

/** Everything that was said, and the exit status. */
function typedoc(...args: string[]): Promise<{ said: string; status: number }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [TYPEDOC, ...args], { cwd: TOP }, (error, out, err) =>
      resolve({ said: out + err, status: error === null ? 0 : Number(error.code ?? -1) }),
    );
  });
}

test('the reference has a page for everything that the package exports, and nothing is left unsaid', async () => {
  const { scripts, exports } = JSON.parse(readFileSync(path.join(TOP, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
    exports: Record<string, unknown>;
  };
  assert.equal(scripts['docs'], 'typedoc');
  const out = path.join(folder, 'html');
  const { said, status } = await typedoc('--options', OPTIONS, '--out', out);
  assert.equal(status, 0, said);
  const modules = Object.keys(exports).filter((name) => name !== './package.json');
  assert.deepEqual(
    readdirSync(path.join(out, 'modules')).sort(),
    modules.map((name) => `${name.slice(2)}.html`).sort(),
  );
  for (const page of ['index.html', 'classes/nbd.NbdServer.html', 'classes/qcow2.Qcow2.html'])
    assert.ok(existsSync(path.join(out, page)), page);
  const client = readFileSync(path.join(out, 'classes/qmp.QmpClient.html'), 'utf8');
  assert.ok(client.includes('each reply finds its own'), 'the text of a class is on its page');
});

test('what has no text, and what is named and not exported, ends it', async () => {
  const file = path.join(folder, 'wrong.ts');
  await writeFile(
    file,
    '/** Here. {@link nowhere} */\nexport const a: Hidden = { x: 1 };\ninterface Hidden { x: number }\nexport const b = 2;\n',
  );
  await writeFile(path.join(folder, 'package.json'), JSON.stringify({ name: 'wrong', version: '1.0.0' }));
  const tsconfig = path.join(folder, 'tsconfig.json');
  await writeFile(
    tsconfig,
    JSON.stringify({ compilerOptions: { strict: true, types: [] }, files: ['wrong.ts'] }),
  );
  const options = path.join(folder, 'typedoc.json');
  await writeFile(
    options,
    JSON.stringify({ extends: [OPTIONS], tsconfig, entryPoints: [file], out: 'none' }),
  );
  const { said, status } = await typedoc('--options', options);
  assert.notEqual(status, 0);
  assert.match(said, /Hidden.*not included/);
  assert.match(said, /b .*does not have any documentation/);
  assert.match(said, /nowhere/);
});
