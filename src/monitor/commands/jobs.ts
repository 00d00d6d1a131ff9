/** Block jobs (QEMU qapi/block-core.json, qapi/job.json). */
import { z } from 'zod';
import { ColoError, ParameterError } from '../../base/errors.ts';
import { command, int64, noArguments } from '../registry.ts';

const device = z.strictObject({ device: z.string() });

export const jobCommands = [
  command(
    'drive-mirror',
    z.strictObject({
      device: z.string(),
      'job-id': z.string().optional(),
      target: z.string(),
      mode: z.enum(['existing', 'absolute-paths']).optional(),
      format: z.string().optional(),
      sync: z.enum(['full', 'top', 'none']),
      speed: int64.optional(),
      'node-name': z.string().optional(),
      // Accepted for QEMU's managers; the copier has its own sizes and stops at the first error.
      granularity: int64.optional(),
      'buf-size': int64.optional(),
      'on-source-error': z.literal('report').optional(),
      'on-target-error': z.literal('report').optional(),
      'copy-mode': z.enum(['background', 'write-blocking']).optional(),
    }),
    async (vm, args) => {
      vm.graph.require(args.device);
      requireSpeed(args.speed);
      if (args.mode !== 'existing') {
        throw new ColoError(
          "drive-mirror: only mode 'existing' is supported; create the target with colo img first",
        );
      }
      const job = args['job-id'] ?? args.device;
      await vm.blockJobs.mirror({
        device: args.device,
        job,
        target: args.target,
        sync: args.sync,
        ...(args.format === undefined ? {} : { format: args.format }),
        ...(args.speed === undefined ? {} : { speed: args.speed }),
      });
    },
  ),
  command(
    'block-job-cancel',
    z.strictObject({ device: z.string(), force: z.boolean().optional() }),
    (vm, args) => {
      vm.blockJobs.cancel(args.device, args.force ?? false);
    },
  ),
  command('block-job-complete', device, (vm, args) => vm.jobs.complete(args.device)),
  command('block-job-pause', device, (vm, args) => vm.jobs.pause(args.device)),
  command('block-job-resume', device, (vm, args) => vm.jobs.resume(args.device)),
  command('block-job-set-speed', z.strictObject({ device: z.string(), speed: int64 }), (vm, args) => {
    vm.jobs.get(args.device);
    requireSpeed(args.speed);
    vm.jobs.setSpeed(args.device, args.speed);
  }),
  command('query-block-jobs', noArguments, (vm) => vm.jobs.list()),
  command('query-jobs', noArguments, (vm) => vm.jobs.listJobs()),
];

function requireSpeed(bytesPerSecond: number | undefined): void {
  if (bytesPerSecond !== undefined && bytesPerSecond < 0) {
    throw new ParameterError("Parameter 'speed' expects a non-negative value");
  }
}
