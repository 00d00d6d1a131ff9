// Makes dist/web/, the page that the dashboard serves: index.html, app.js, app.css, and what app.js loads when it is wanted
// (noVNC). Nothing is fetched from anywhere else. Licences of what is inside go with it.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const top = fileURLToPath(new URL('..', import.meta.url));
const source = path.join(top, 'web');
const out = path.join(top, 'dist/web');
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

const { metafile } = await build({
  absWorkingDir: top,
  entryPoints: { app: 'web/main.tsx' },
  outdir: out,
  bundle: true,
  format: 'esm',
  splitting: true,
  chunkNames: '[name]-[hash]',
  target: ['es2022'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  minify: true,
  legalComments: 'eof',
  metafile: true,
  logLevel: 'warning',
});
for (const name of ['index.html', 'icon.svg']) copyFileSync(path.join(source, name), path.join(out, name));

const packages = new Set(
  Object.keys(metafile.inputs)
    .map((input) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1])
    .filter((name) => name !== undefined),
);
const notices = [...packages].sort().map((name) => {
  const folder = path.join(top, 'node_modules', name);
  const file = readdirSync(folder).find((entry) => /^LICEN[CS]E/i.test(entry));
  const {
    version,
    license,
    homepage = '',
  } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  if (file === undefined || !existsSync(path.join(folder, file)))
    throw new Error(`${name} has no licence file`);
  return `${name} ${version} (${license}) ${homepage}\n\n${readFileSync(path.join(folder, file), 'utf8').trim()}\n`;
});
writeFileSync(path.join(out, 'licences.txt'), notices.join(`\n${'-'.repeat(72)}\n\n`));
