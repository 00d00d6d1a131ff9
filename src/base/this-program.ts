/** How to run this program again, from any folder. `COLO_PROGRAM` names another build of it. */
import path from 'node:path';

/** From source when this is source, from dist/ when it is built. */
export function coloCommand(...args: string[]): { command: string; args: string[] } {
  const given = process.env['COLO_PROGRAM'];
  if (given !== undefined) return { command: process.execPath, args: [path.resolve(given), ...args] };
  const isSource = import.meta.url.endsWith('.ts');
  const main = new URL(isSource ? '../cli/main.ts' : '../cli/main.js', import.meta.url);
  return {
    command: process.execPath,
    args: [...(isSource ? ['--import', import.meta.resolve('tsx')] : []), main.pathname, ...args],
  };
}
