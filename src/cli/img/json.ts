/**
 * `--json` of the commands that qemu-img has no JSON for: what `info` tells of the image that has been made or changed. The
 * commands' own words are left out; errors and warnings are objects on standard error.
 */
import type { ImageName } from './common.ts';
import { infoCommand } from './info.ts';
import type { ImgIo } from './io.ts';

export function silent(io: ImgIo): ImgIo {
  return { ...io, out: () => undefined };
}

/** `image`: null when none was named, which the command tells. */
export async function asJsonInfo(
  io: ImgIo,
  isJson: boolean | undefined,
  image: ImageName | null,
  run: (io: ImgIo) => Promise<number>,
): Promise<number> {
  if (!isJson || image === null) return run(io);
  const code = await run(silent(io));
  return code === 0 ? infoCommand(io, image, { output: 'json' }) : code;
}
