/** Runs a subcommand of `colo` in this process: as fast as a call, with its output and exit status. */
import { createProgram } from '../../src/cli/program.ts';

export interface Ran {
  readonly out: string;
  readonly err: string;
  readonly status: number;
}

/** One at a time. A usage error would end the process: not for those. */
export async function coloHere(...args: string[]): Promise<Ran> {
  const ran = { out: '', err: '' };
  const streams = { out: process.stdout, err: process.stderr };
  const saved = { out: streams.out.write.bind(streams.out), err: streams.err.write.bind(streams.err) };
  for (const name of ['out', 'err'] as const) {
    streams[name].write = (text: unknown): boolean => {
      ran[name] += String(text);
      return true;
    };
  }
  process.exitCode = 0;
  try {
    await (await createProgram(args[0])).parseAsync(args, { from: 'user' });
    return { ...ran, status: process.exitCode };
  } finally {
    streams.out.write = saved.out;
    streams.err.write = saved.err;
    process.exitCode = 0;
  }
}
