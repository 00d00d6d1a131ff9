/** Objects, chardevs, and properties of objects (QEMU qapi/qom.json, qapi/char.json). */
import { z } from 'zod';
import { ColoError, DeviceNotFoundError, ParameterError } from '../../base/errors.ts';
import type { VirtualMachine } from '../../vm/machine.ts';
import { askEngine } from '../forwarding.ts';
import { command, noArguments } from '../registry.ts';

/** Arguments of object-add: flat since QEMU 6.0, nested in `props` before; both are understood. */
function objectOptions(args: Record<string, unknown>): Record<string, unknown> {
  const { props, ...rest } = args;
  if (props === undefined) return rest;
  if (typeof props !== 'object' || props === null) {
    throw new ParameterError("Invalid parameter type for 'props', expected: dict");
  }
  return { ...props, ...rest };
}

export const objectCommands = [
  command('object-add', z.looseObject({ 'qom-type': z.string(), id: z.string() }), (vm, args) =>
    vm.objects.add(objectOptions(args), 'monitor'),
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
      filename: chardev.filename,
      'frontend-open': chardev.user !== null,
    })),
  ),
  command('qom-get', z.strictObject({ path: z.string(), property: z.string() }), (vm, { path, property }) => {
    if (path in CONTAINERS && property === 'type') return 'container';
    if (isEngines(vm, path)) return askEngine(vm, 'qom-get', { path, property });
    const object = vm.objects.atPath(path);
    if (property === 'type') return object.typeName;
    const properties = object.properties();
    if (!(property in properties)) throw new ColoError(`Property '${object.typeName}.${property}' not found`);
    return properties[property];
  }),
  command(
    'qom-set',
    z.strictObject({ path: z.string(), property: z.string(), value: z.unknown() }),
    async (vm, { path, property, value }) => {
      // A missing value and `null` look alike here; neither is a value of any property.
      if (value === undefined) throw new ParameterError("Parameter 'value' is missing");
      if (isEngines(vm, path)) await askEngine(vm, 'qom-set', { path, property, value });
      else vm.objects.atPath(path).setProperty(property, value);
    },
  ),
  command('qom-list', z.strictObject({ path: z.string() }), (vm, { path }) => {
    const children = Object.hasOwn(CONTAINERS, path) ? CONTAINERS[path] : undefined;
    if (path === '/objects') {
      return [
        TYPE,
        ...vm.objects.list().map(({ id, typeName }) => ({ name: id, type: `child<${typeName}>` })),
      ];
    }
    if (path === '/chardevs') {
      return [TYPE, ...vm.chardevs.all().map(({ id }) => ({ name: id, type: 'child<chardev>' }))];
    }
    if (isEngines(vm, path)) return askEngine(vm, 'qom-list', { path });
    if (children) return [TYPE, ...children.map((name) => ({ name, type: 'child<container>' }))];
    const properties = Object.entries(vm.objects.atPath(path).properties());
    return [TYPE, ...properties.map(([name, value]) => ({ name, type: qomType(name, value) }))];
  }),
  command('set_link', z.strictObject({ name: z.string(), up: z.boolean() }), async (vm, { name, up }) => {
    const netdev = vm.netdevs.get(name);
    if (vm.engine?.monitor) {
      // There the guest sees that its cable is out; and a name may be that of a NIC.
      await askEngine(vm, 'set_link', { name, up }).catch((error: unknown) => {
        if (!netdev) throw error;
      });
    } else if (!netdev) throw new DeviceNotFoundError(`Device '${name}' not found`);
    if (netdev) netdev.linkDown = !up;
  }),
];

/** The part of QEMU's object tree that is here: path → the containers in it. */
const CONTAINERS: Readonly<Record<string, readonly string[]>> = {
  '/': ['objects', 'chardevs'],
  '/objects': [],
  '/chardevs': [],
};

/** With a QEMU below, the rest of the tree is its own. */
function isEngines(vm: VirtualMachine, path: string): boolean {
  return Boolean(vm.engine?.monitor) && !/^\/?(objects|chardevs)(\/|$)/.test(path);
}

const TYPE = { name: 'type', type: 'string' };

/** QEMU's name of a property's type. */
function qomType(name: string, value: unknown): string {
  if (name === 'iothread') return 'link<iothread>';
  if (name === 'queue') return 'NetFilterDirection';
  if (name === 'endpoint') return 'QCryptoTLSCredsEndpoint';
  if (name === 'compare_timeout') return 'uint64';
  if (typeof value === 'number') return 'uint32';
  return typeof value === 'boolean' ? 'bool' : 'string';
}
