/** Block jobs while they run and when they end (QEMU qapi/block-core.json, qapi/job.json). start-jobs.ts starts them. */
import { z } from 'zod';
import { command, int64, noArguments } from '../registry.ts';

const device = z.strictObject({ device: z.string() });
const id = z.strictObject({ id: z.string() });

export const jobCommands = [
  command(
    'block-job-cancel',
    z.strictObject({ device: z.string(), force: z.boolean().optional() }),
    (vm, args) => {
      vm.blockJobs.cancel(vm.jobs.get(args.device), args.force ?? false);
    },
  ),
  command('block-job-complete', device, (vm, args) => vm.jobs.complete(args.device)),
  command('block-job-pause', device, (vm, args) => vm.jobs.pause(args.device)),
  command('block-job-resume', device, (vm, args) => vm.jobs.resume(args.device)),
  command('block-job-finalize', id, (vm, args) => vm.jobs.get(args.id).finalize()),
  command('block-job-dismiss', id, (vm, args) => vm.jobs.get(args.id).dismiss()),
  command('block-job-set-speed', z.strictObject({ device: z.string(), speed: int64 }), (vm, args) => {
    vm.jobs.setSpeed(args.device, args.speed);
  }),
  // A job-cancel is always forced.
  command('job-cancel', id, (vm, args) => vm.blockJobs.cancel(vm.jobs.getJob(args.id), true)),
  command('job-complete', id, (vm, args) => vm.jobs.getJob(args.id).complete()),
  command('job-pause', id, (vm, args) => vm.jobs.getJob(args.id).pause()),
  command('job-resume', id, (vm, args) => vm.jobs.getJob(args.id).resume()),
  command('job-finalize', id, (vm, args) => vm.jobs.getJob(args.id).finalize()),
  command('job-dismiss', id, (vm, args) => vm.jobs.getJob(args.id).dismiss()),
  command('query-block-jobs', noArguments, (vm) => vm.jobs.list()),
  command('query-jobs', noArguments, (vm) => vm.jobs.listJobs()),
];
