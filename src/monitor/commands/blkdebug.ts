/**
 * `x-blkdebug` (ours): other rules for a blkdebug node while it is in use, and what has happened to it. QEMU has only
 * the rules of the moment it was opened, and breakpoints (human monitor, `qemu-io`).
 */
import { z } from 'zod';
import { ColoError, ParameterError } from '../../base/errors.ts';
import { EVENT_NAMES, IO_TYPES, readProgram } from '../../block/drivers/blkdebug.ts';
import { Blkdebug } from '../../block/filters/blkdebug.ts';
import { OptionReader, nestOptions } from '../../block/options.ts';
import { flatten } from '../../vm/command-line/keyval.ts';
import { command, int64, parseArguments } from '../registry.ts';

const injectError = z.strictObject({
  event: z.enum(EVENT_NAMES),
  state: int64.optional(),
  iotype: z.enum(IO_TYPES).optional(),
  errno: int64.optional(),
  sector: int64.optional(),
  once: z.boolean().optional(),
  immediately: z.boolean().optional(),
  // Ours.
  sectors: int64.optional(),
  skip: int64.optional(),
  times: int64.optional(),
  'delay-ms': int64.optional(),
  'partial-bytes': int64.optional(),
  torn: z.boolean().optional(),
});
const setState = z.strictObject({ event: z.enum(EVENT_NAMES), state: int64.optional(), new_state: int64 });
const rules = {
  'inject-error': z.array(injectError).optional(),
  'set-state': z.array(setState).optional(),
};
const present = z.custom<unknown>((value) => value !== undefined);
const blockdev = z.looseObject({ image: present, ...rules });

/** What QEMU's schema demands of a blkdebug node before the driver is asked. Throws ParameterError. */
export function checkBlkdebug(options: Record<string, unknown>): void {
  parseArguments(blockdev, options);
}

export const blkdebugCommands = [
  command(
    'x-blkdebug',
    z.strictObject({
      'node-name': z.string(),
      ...rules,
      seed: z.int().optional(),
    }),
    (vm, { 'node-name': name, ...program }) => {
      const node = vm.graph.findNode(name);
      if (!node) throw new ColoError(`Failed to find node with node-name='${name}'`);
      const { driver } = node;
      if (!(driver instanceof Blkdebug)) {
        throw new ParameterError(`Node '${name}' is of driver '${driver.driverName}', not blkdebug`);
      }
      if (program['inject-error'] !== undefined || program['set-state'] !== undefined) {
        const flat = Object.create(null) as Record<string, string>;
        flatten(program, '', flat);
        const { injects, states, seed } = readProgram(new OptionReader(nestOptions(flat)));
        driver.program(injects, states, seed);
      }
      return {
        state: driver.rules.state,
        injected: driver.failed,
        suspended: driver.suspendedRequests,
        requests: { ...driver.requests },
      };
    },
  ),
];
