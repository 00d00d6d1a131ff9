/**
 * `colo img convert`: the content of one image in another format. Holes and zeros of the source stay holes; one piece is
 * read while the one before is written.
 */
import { SingleBar } from 'cli-progress';
import { ParameterError } from '../../base/errors.ts';
import { BlockGraph } from '../../block/graph.ts';
import { copyImage } from '../../block/copy-image.ts';
import { createQcow2 } from '../../block/drivers/qcow2/create.ts';
import { openOptions } from './common.ts';
import { createRaw, parseCreateOptions, qcow2Options } from './create.ts';

export interface ConvertRequest {
  readonly format?: string;
  readonly outputFormat: string;
  readonly options?: string;
  readonly progress?: boolean;
  /** The target is there already (an NBD export, a device). */
  readonly existing?: boolean;
  readonly forceShare?: boolean;
}

export async function convertCommand(
  source: string,
  target: string,
  request: ConvertRequest,
): Promise<number> {
  const graph = new BlockGraph();
  const bar = request.progress ? progressBar() : null;
  try {
    const from = await graph.openImage(source, openOptions(true, request.format, request.forceShare));
    if (!request.existing) await create(target, from.lengthBytes, request);
    const to = await graph.openImage(target, openOptions(false, request.outputFormat));
    if (to.lengthBytes < from.lengthBytes)
      throw new ParameterError(`'${target}' is smaller than '${source}'`);
    bar?.start(Math.max(1, from.lengthBytes), 0);
    await copyImage(from, to, !request.existing, (done) => bar?.update(done));
    await to.flush();
    bar?.update(Math.max(1, from.lengthBytes));
    return 0;
  } finally {
    bar?.stop();
    await graph.closeAll();
  }
}

async function create(target: string, sizeBytes: number, request: ConvertRequest): Promise<void> {
  const options = parseCreateOptions(request.options);
  if (request.outputFormat === 'qcow2') await createQcow2(target, { sizeBytes, ...qcow2Options(options) });
  else if (request.outputFormat === 'raw') await createRaw(target, sizeBytes);
  else throw new ParameterError(`Unknown file format '${request.outputFormat}'`);
}

function progressBar(): SingleBar {
  return new SingleBar({
    format: '{bar} {percentage}%',
    stream: process.stderr,
    barsize: 40,
    hideCursor: true,
  });
}
