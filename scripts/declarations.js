// After tsc: it writes declarations with the suffixes of the sources (`./x.ts`), which the package does not hold. Here they
// become those of what it holds (`./x.js`), as tsc does itself in the code.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const SOURCE_SUFFIX = /((?:\bfrom |\bimport |\bimport\()['"]\.{1,2}\/[^'"\n]*)\.ts(?=['"])/g;
const dist = new URL('../dist', import.meta.url).pathname;

for (const name of readdirSync(dist, { recursive: true }).map(String)) {
  if (!name.endsWith('.d.ts')) continue;
  const file = path.join(dist, name);
  const text = readFileSync(file, 'utf8');
  const rewritten = text.replace(SOURCE_SUFFIX, '$1.js');
  if (rewritten !== text) writeFileSync(file, rewritten);
}
