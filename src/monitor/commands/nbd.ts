/** The NBD server's commands (QEMU qapi/block-export.json). */
import { z } from 'zod';
import { ColoError, ParameterError } from '../../base/errors.ts';
import type { BlockNode } from '../../block/node.ts';
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

const removeMode = z.enum(['safe', 'hard']).optional();

const blockExport = z.strictObject({
  type: z.enum(['nbd']),
  id: z.string(),
  'node-name': z.string(),
  writable: z.boolean().optional(),
  writethrough: z.boolean().optional(),
  iothread: z.string().optional(),
  'fixed-iothread': z.boolean().optional(),
  name: z.string().optional(),
  description: z.string().optional(),
  bitmaps: z.array(z.string()).optional(),
  'allocation-depth': z.boolean().optional(),
});

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
    z.strictObject({
      device: z.string(),
      name: z.string().optional(),
      description: z.string().optional(),
      writable: z.boolean().optional(),
      bitmap: z.string().optional(),
    }),
    (vm, { device, name = device, description, writable = false, bitmap }) => {
      const node = vm.graph.require(device);
      const bitmaps = bitmap === undefined ? [] : [bitmap];
      refuseBitmaps(node, bitmaps);
      vm.exports.add({
        id: name,
        name,
        node,
        // As in QEMU: this command takes a read-only node for what it is, block-export-add does not.
        writable: writable && !node.readOnly,
        ...(description === undefined ? {} : { description }),
      });
    },
  ),
  command('block-export-add', blockExport, (vm, options) => {
    const { id, name = options['node-name'], description, writable = false, writethrough } = options;
    if (options.iothread !== undefined && !vm.objects.hasIothread(options.iothread)) {
      throw new ParameterError(`iothread "${options.iothread}" not found`);
    }
    if (options['allocation-depth'] === true) {
      throw new ParameterError("The export option 'allocation-depth' is not supported; leave it out");
    }
    const node = vm.graph.findNode(options['node-name']);
    if (!node) throw new ColoError(`Cannot find device='' nor node-name='${options['node-name']}'`);
    refuseBitmaps(node, options.bitmaps ?? []);
    vm.exports.add({
      ...{ id, name, node, writable },
      ...(description === undefined ? {} : { description }),
      ...(writethrough === undefined ? {} : { writethrough }),
    });
  }),
  command('nbd-server-remove', z.strictObject({ name: z.string(), mode: removeMode }), (vm, { name, mode }) =>
    vm.exports.remove(name, mode ?? 'safe'),
  ),
  command('block-export-del', z.strictObject({ id: z.string(), mode: removeMode }), (vm, { id, mode }) =>
    vm.exports.remove(id, mode ?? 'safe'),
  ),
  command('nbd-server-stop', noArguments, (vm) => vm.exports.stop()),
  command('query-block-exports', noArguments, (vm) => vm.exports.query()),
];

/** No meta context of a bitmap can be had from our server. */
function refuseBitmaps(node: BlockNode, names: readonly string[]): void {
  for (const name of names) {
    if (!node.dirtyBitmaps.find(name)) throw new ColoError(`Bitmap '${name}' is not found`);
    throw new ColoError(`Exporting the bitmap '${name}' is not supported; leave bitmaps out`);
  }
}
