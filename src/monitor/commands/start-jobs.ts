/** Commands that start a block job (QEMU qapi/block-core.json: DriveMirror, BackupCommon, DriveBackup…). */
import { z } from 'zod';
import { ColoError } from '../../base/errors.ts';
import type { BitmapMode } from '../../block/jobs/bitmap-sync.ts';
import type { OnError } from '../../block/jobs/job.ts';
import type { BitmapRequest } from '../../vm/block-jobs.ts';
import { command, int64, uint32 } from '../registry.ts';

const onError = z.enum(['report', 'ignore', 'enospc', 'stop', 'auto']).optional();
const sync = z.enum(['top', 'full', 'none', 'incremental', 'bitmap']);

const bitmapMode = z.enum(['on-success', 'never', 'always']);

const ends = {
  'auto-finalize': z.boolean().optional(),
  'auto-dismiss': z.boolean().optional(),
};
const errors = { 'on-source-error': onError, 'on-target-error': onError };
const named = {
  target: z.string(),
  format: z.string().optional(),
  mode: z.enum(['existing', 'absolute-paths']).optional(),
};
const mirror = {
  'job-id': z.string().optional(),
  device: z.string(),
  replaces: z.string().optional(),
  sync,
  speed: int64.optional(),
  granularity: uint32.optional(),
  'buf-size': int64.optional(),
  // Not in QEMU 7.2's mirror; as in its backup.
  bitmap: z.string().optional(),
  'bitmap-mode': bitmapMode.optional(),
  ...errors,
  'copy-mode': z.enum(['background', 'write-blocking']).optional(),
  ...ends,
};
const backup = {
  'job-id': z.string().optional(),
  device: z.string(),
  sync,
  speed: int64.optional(),
  bitmap: z.string().optional(),
  'bitmap-mode': bitmapMode.optional(),
  compress: z.boolean().optional(),
  ...errors,
  ...ends,
};

export const startJobCommands = [
  command(
    'drive-mirror',
    z.strictObject({
      ...mirror,
      ...named,
      'node-name': z.string().optional(),
      unmap: z.boolean().optional(),
    }),
    async (vm, args) => {
      vm.graph.require(args.device);
      if (args.replaces !== undefined && args['node-name'] === undefined) {
        throw new ColoError('a node-name must be provided when replacing a named node of the graph');
      }
      refuseReplaces(args.replaces);
      await vm.blockJobs.driveMirror({
        ...common(args),
        ...tuning(args),
        ...mirrorSync(args),
        target: args.target,
        mode: args.mode ?? 'absolute-paths',
        format: args.format,
        nodeName: args['node-name'],
        unmap: args.unmap,
      });
    },
  ),
  command(
    'blockdev-mirror',
    z.strictObject({ ...mirror, target: z.string(), 'filter-node-name': z.string().optional() }),
    (vm, args) => {
      vm.graph.require(args.device);
      vm.graph.require(args.target);
      refuseReplaces(args.replaces);
      vm.blockJobs.blockdevMirror({
        ...common(args),
        ...tuning(args),
        ...mirrorSync(args),
        target: args.target,
      });
    },
  ),
  command('drive-backup', z.strictObject({ ...backup, ...named }), async (vm, args) => {
    vm.graph.require(args.device);
    await vm.blockJobs.driveBackup({
      ...common(args),
      sync: backupSync(args),
      target: args.target,
      mode: args.mode ?? 'absolute-paths',
      format: args.format,
    });
  }),
  command(
    'blockdev-backup',
    z.strictObject({ ...backup, target: z.string(), 'filter-node-name': z.string().optional() }),
    (vm, args) => {
      vm.graph.require(args.device);
      vm.graph.require(args.target);
      vm.blockJobs.blockdevBackup({ ...common(args), sync: backupSync(args), target: args.target });
    },
  ),
  command(
    'block-commit',
    z.strictObject({
      'job-id': z.string().optional(),
      device: z.string(),
      'base-node': z.string().optional(),
      base: z.string().optional(),
      'top-node': z.string().optional(),
      top: z.string().optional(),
      'backing-file': z.string().optional(),
      speed: int64.optional(),
      'on-error': onError,
      'filter-node-name': z.string().optional(),
      ...ends,
    }),
    (vm, args) =>
      vm.blockJobs.commit({
        ...common({ ...args, 'on-source-error': args['on-error'], 'on-target-error': args['on-error'] }),
        top: args.top,
        topNode: args['top-node'],
        base: args.base,
        baseNode: args['base-node'],
        backingFile: args['backing-file'],
      }),
  ),
];

interface CommonArguments {
  readonly device: string;
  readonly 'job-id'?: string | undefined;
  readonly speed?: number | undefined;
  readonly 'on-source-error'?: OnError | 'auto' | undefined;
  readonly 'on-target-error'?: OnError | 'auto' | undefined;
  readonly 'auto-finalize'?: boolean | undefined;
  readonly 'auto-dismiss'?: boolean | undefined;
}

function common(args: CommonArguments) {
  return {
    device: args.device,
    jobId: args['job-id'],
    speed: args.speed,
    onSourceError: policy(args['on-source-error']),
    onTargetError: policy(args['on-target-error']),
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
  };
}

function tuning(args: {
  readonly granularity?: number | undefined;
  readonly 'buf-size'?: number | undefined;
  readonly 'copy-mode'?: 'background' | 'write-blocking' | undefined;
}) {
  return {
    granularityBytes: args.granularity,
    bufferBytes: args['buf-size'],
    copyMode: args['copy-mode'],
  };
}

/** QEMU: auto is enospc for a job. */
function policy(value: OnError | 'auto' | undefined): OnError | undefined {
  return value === 'auto' ? 'enospc' : value;
}

type Sync = z.infer<typeof sync>;

/** A bitmap narrows what a full mirror copies down. Texts: QEMU 7.2's for drive-backup, in its order. */
function mirrorSync(args: {
  readonly sync: Sync;
  readonly bitmap?: string | undefined;
  readonly 'bitmap-mode'?: BitmapMode | undefined;
}): { readonly sync: 'full' | 'top' | 'none'; readonly bitmap?: BitmapRequest } {
  const { sync: value, bitmap: name, 'bitmap-mode': given } = args;
  if (value === 'incremental' && given !== undefined && given !== 'on-success') {
    throw new ColoError("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
  }
  const mode = value === 'incremental' ? 'on-success' : given;
  if (value !== 'bitmap' && value !== 'incremental') {
    if (name !== undefined || mode !== undefined) {
      throw new ColoError(`A mirror with sync mode '${value}' uses no bitmap; use sync mode 'bitmap'`);
    }
    return { sync: value };
  }
  // Without a bitmap it is QEMU's question, and gets QEMU's answer.
  if (name === undefined) throw new ColoError(`Sync mode '${value}' not supported`);
  if (mode === undefined) throw new ColoError('Bitmap sync mode must be given when providing a bitmap');
  return { sync: 'full', bitmap: { name, mode } };
}

function backupSync(args: {
  readonly sync: Sync;
  readonly bitmap?: string | undefined;
  readonly 'bitmap-mode'?: string | undefined;
  readonly compress?: boolean | undefined;
}): 'full' | 'top' | 'none' {
  const { sync: value } = args;
  if (value === 'bitmap' || value === 'incremental') {
    throw new ColoError(`must provide a valid bitmap name for '${value}' sync mode`);
  }
  if (args.bitmap !== undefined) throw new ColoError(`Bitmap '${args.bitmap}' could not be found`);
  if (args['bitmap-mode'] !== undefined) {
    throw new ColoError('Cannot specify bitmap sync mode without a bitmap');
  }
  if (args.compress) throw new ColoError('Compression is not supported for this drive ');
  return value;
}

function refuseReplaces(replaces: string | undefined): void {
  if (replaces === undefined) return;
  throw new ColoError("Parameter 'replaces' is not supported; the device itself shows the target afterwards");
}
