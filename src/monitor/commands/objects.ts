/** Objects, chardevs, and properties of objects (QEMU qapi/qom.json, qapi/char.json). */
import { z } from 'zod';
import { DeviceNotFoundError, ParameterError } from '../../base/errors.ts';
import { flatten } from '../../vm/command-line/keyval.ts';
import { command, noArguments } from '../registry.ts';

/** Arguments of object-add: flat since QEMU 6.0, nested in `props` before; both are understood. */
function objectOptions(args: Record<string, unknown>): Record<string, string> {
  const { props, ...rest } = args;
  const flat = Object.create(null) as Record<string, string>;
  if (props !== undefined) {
    if (typeof props !== 'object' || props === null) {
      throw new ParameterError("Invalid parameter type for 'props', expected: dict");
    }
    flatten(props, '', flat);
  }
  flatten(rest, '', flat);
  return flat;
}

export const objectCommands = [
  command('object-add', z.looseObject({ 'qom-type': z.string(), id: z.string() }), (vm, args) =>
    vm.objects.add(objectOptions(args)),
  ),
  command('object-del', z.strictObject({ id: z.string() }), (vm, { id }) => vm.objects.remove(id)),
  command(
    'chardev-add',
    z.strictObject({
      id: z.string(),
      backend: z.looseObject({ type: z.string(), data: z.unknown().optional() }),
    }),
    (vm, { id, backend }) => vm.addChardev(id, backend),
  ),
  command('chardev-remove', z.strictObject({ id: z.string() }), (vm, { id }) => vm.chardevs.remove(id)),
  command('query-chardev', noArguments, (vm) =>
    vm.chardevs.all().map((chardev) => ({
      label: chardev.id,
      filename: chardev.connection?.outgoing ?? 'disconnected',
      'frontend-open': chardev.user !== null,
    })),
  ),
  command('qom-get', z.strictObject({ path: z.string(), property: z.string() }), (vm, { path, property }) => {
    const properties = vm.objects.require(objectId(path)).properties();
    if (!(property in properties)) throw new ParameterError(`Property '${path}.${property}' not found`);
    return properties[property];
  }),
  command(
    'qom-set',
    z.strictObject({ path: z.string(), property: z.string(), value: z.unknown() }),
    (vm, { path, property, value }) => {
      vm.objects.require(objectId(path)).setProperty(property, value);
    },
  ),
  command('qom-list', z.strictObject({ path: z.string() }), (vm, { path }) =>
    path === '/objects'
      ? vm.objects.list().map(({ id, typeName }) => ({ name: id, type: `child<${typeName}>` }))
      : Object.entries(vm.objects.require(objectId(path)).properties()).map(([name, value]) => ({
          name,
          type: typeof value,
        })),
  ),
  command('set_link', z.strictObject({ name: z.string(), up: z.boolean() }), (vm, { name, up }) => {
    const netdev = vm.netdevs.get(name);
    if (!netdev) throw new DeviceNotFoundError(`Device '${name}' not found`);
    netdev.linkDown = !up;
  }),
];

/** `/objects/m0` and the bare `m0`. */
function objectId(path: string): string {
  return path.startsWith('/objects/') ? path.slice('/objects/'.length) : path;
}
