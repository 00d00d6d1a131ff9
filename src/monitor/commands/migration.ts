/** Migration and COLO (QEMU qapi/migration.json). */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';
import { CAPABILITIES, requireCapability } from '../../vm/migration.ts';
import { command, noArguments } from '../registry.ts';

const parameters = z.looseObject({ 'x-checkpoint-delay': z.unknown().optional() });
const UINT32_MAX = 0xffffffff;

export const migrationCommands = [
  command(
    'migrate-set-capabilities',
    z.strictObject({
      capabilities: z.array(z.strictObject({ capability: z.string(), state: z.boolean() })),
    }),
    (vm, { capabilities }) => {
      vm.migration.setCapabilities(
        capabilities.map(({ capability, state }) => ({ capability: requireCapability(capability), state })),
      );
    },
  ),
  command('query-migrate-capabilities', noArguments, (vm) =>
    CAPABILITIES.map((capability) => ({
      capability,
      state: vm.migration.capabilities.get(capability) === true,
    })),
  ),
  command('migrate-set-parameters', parameters, (vm, args) => {
    for (const [name, value] of Object.entries(args)) {
      if (name !== 'x-checkpoint-delay') throw new ParameterError(`Parameter '${name}' is unexpected`);
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > UINT32_MAX) {
        throw new ParameterError("Parameter 'x-checkpoint-delay' expects uint32_t");
      }
      vm.migration.checkpointDelayMs = value;
    }
  }),
  command('query-migrate-parameters', noArguments, (vm) => ({
    'x-checkpoint-delay': vm.migration.checkpointDelayMs,
  })),
  command(
    'migrate',
    z.strictObject({
      uri: z.string(),
      detach: z.boolean().optional(),
      blk: z.literal(false).optional(),
      inc: z.literal(false).optional(),
    }),
    (vm, { uri }) => {
      vm.migration.migrate(uri);
    },
  ),
  command('migrate_cancel', noArguments, (vm) => vm.migration.cancel()),
  command('query-migrate', noArguments, (vm) => vm.migration.queryMigrate()),
  command('query-colo-status', noArguments, (vm) => vm.migration.queryColoStatus()),
  command('x-colo-lost-heartbeat', noArguments, (vm) => vm.migration.lostHeartbeat()),
  command('x-colo-checkpoint', noArguments, (vm) => vm.migration.requestCheckpoint('request')),
  command('query-colo-checkpoints', noArguments, (vm) => {
    const { count, byCause, records, loadsMs } = vm.migration.stats;
    return { count, 'by-cause': byCause, records, 'loads-ms': loadsMs };
  }),
];
