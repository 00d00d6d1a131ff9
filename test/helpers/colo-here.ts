/** Runs a subcommand of `colo` in this process: as fast as a call, with its output and exit status. */
import { createProgram } from '../../src/cli/program.ts';

export interface Ran {
  readonly out: string;
  readonly err: string;
  readonly status: number;
}

/** In place of the process's end. */
class Ended extends Error {}

/** One at a time. */
export async function coloHere(...args: string[]): Promise<Ran> {
  const ran = { out: '', err: '' };
  const streams = { out: process.stdout, err: process.stderr };
  const saved = { out: streams.out.write.bind(streams.out), err: streams.err.write.bind(streams.err) };
  for (const name of ['out', 'err'] as const) {
    streams[name].write = (text: string | Uint8Array): boolean => {
      // The test runner's reports are bytes, and not the command's.
      if (typeof text !== 'string') return saved[name](text);
      ran[name] += text;
      return true;
    };
  }
  const { argv } = process;
  const exit = process.exit.bind(process);
  process.argv = [...argv.slice(0, 2), ...args];
  process.exit = (code): never => {
    if (code !== undefined && code !== null) process.exitCode = Number(code);
    throw new Ended();
  };
  process.exitCode = 0;
  try {
    await (await createProgram(args[0])).parseAsync(args, { from: 'user' });
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
  } finally {
    streams.out.write = saved.out;
    streams.err.write = saved.err;
    process.argv = argv;
    process.exit = exit;
  }
  const status = exitStatus();
  process.exitCode = 0;
  return { ...ran, status };
}

/** What the command has left there, whatever the compiler thinks that this file has. */
function exitStatus(): number {
  return Number(process.exitCode);
}
