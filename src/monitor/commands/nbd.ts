/** The NBD server's commands (QEMU qapi/block-export.json). */
import { z } from 'zod';
import { ParameterError } from '../../base/errors.ts';
import { command, noArguments, uint32 } from '../registry.ts';

const inetAddress = z.strictObject({
  type: z.literal('inet'),
  data: z.strictObject({
    host: z.string(),
    port: z.string(),
    ipv4: z.boolean().optional(),
    ipv6: z.boolean().optional(),
    'keep-alive': z.boolean().optional(),
  }),
});
const unixAddress = z.strictObject({ type: z.literal('unix'), data: z.strictObject({ path: z.string() }) });

export const nbdCommands = [
  command(
    'nbd-server-start',
    z.strictObject({
      addr: z.discriminatedUnion('type', [inetAddress, unixAddress]),
      'max-connections': uint32.optional(),
      'tls-creds': z.string().optional(),
      'tls-authz': z.string().optional(),
    }),
    async (vm, { addr, 'max-connections': maxConnections, 'tls-creds': tls, 'tls-authz': authz }) => {
      if (authz !== undefined) {
        throw new ParameterError('tls-authz is not supported; whoever has a certificate of the CA is let in');
      }
      if (addr.type === 'unix') {
        await vm.exports.start({ path: addr.data.path }, maxConnections, tls);
        return;
      }
      const { host, port: text } = addr.data;
      const port = /^\d{1,6}$/.test(text) ? Number(text) : NaN;
      if (Number.isNaN(port)) {
        throw new ParameterError(
          `address resolution failed for ${host}:${text}: Servname not supported for ai_socktype`,
        );
      }
      if (port > 65535) throw new ParameterError(`Parameter 'port' expects a port number, not '${text}'`);
      await vm.exports.start({ host, port }, maxConnections, tls);
    },
  ),
  command(
    'nbd-server-add',
    z.strictObject({ device: z.string(), name: z.string().optional(), writable: z.boolean().optional() }),
    (vm, { device, name, writable }) => {
      vm.exports.add(device, name ?? device, writable ?? false);
    },
  ),
  command(
    'nbd-server-remove',
    z.strictObject({ name: z.string(), mode: z.enum(['safe', 'hard']).optional() }),
    (vm, { name }) => vm.exports.remove(name),
  ),
  command('nbd-server-stop', noArguments, (vm) => vm.exports.stop()),
  command('query-block-exports', noArguments, (vm) => vm.exports.query()),
];
