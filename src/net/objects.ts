/**
 * Makes the network objects of `-object` and `object-add` from their properties: the filters, put into their netdev's
 * chain, and colo-compare. What a name stands for comes through NetObjectContext, so that this file knows no VM.
 * Property names, defaults and error texts: docs/qemu-behaviour.md 2.3-2.5 and 3.1. An object that cannot be made leaves
 * nothing behind.
 */
import { DeviceNotFoundError, ParameterError } from '../base/errors.ts';
import type { Chardev } from '../chardev/chardev.ts';
import { ColoCompare } from './compare/compare.ts';
import {
  DEFAULT_COMPARE_TIMEOUT_MS,
  DEFAULT_EXPIRED_SCAN_CYCLE_MS,
  DEFAULT_MAX_QUEUE_SIZE,
} from './compare/options.ts';
import type { FilterQueue, NetFilter } from './filter.ts';
import { BufferFilter } from './filters/buffer.ts';
import { DumpFilter } from './filters/dump.ts';
import { MirrorFilter } from './filters/mirror.ts';
import { RedirectorFilter } from './filters/redirector.ts';
import { RewriterFilter } from './filters/rewriter.ts';
import type { Netdev } from './netdev.ts';
import { PropertyReader } from './properties.ts';
import type { Properties, PropertySource } from './properties.ts';

export const FILTER_TYPES = [
  'filter-mirror',
  'filter-redirector',
  'filter-rewriter',
  'filter-dump',
  'filter-buffer',
] as const;
export type FilterType = (typeof FILTER_TYPES)[number];

export interface NetObjectContext {
  netdev(id: string): Netdev | null;
  chardev(id: string): Chardev | null;
  /** The netdev that a filter sits on, for the error text of a misplaced position. */
  netdevOfFilter?(filterId: string): Netdev | null;
  /** Whether there is an iothread object of that name. Without it any name is taken. */
  hasIothread?(id: string): boolean;
  /** See ColoCompareOptions. */
  findSender?(incomingStream: string): Chardev | null;
  /** The netdev that what is written to `outdev` ends up on. */
  findOutputNetdev?(outdev: Chardev): string | null;
  readonly bypassUntilStarted?: boolean;
}

export interface PlacedFilter {
  readonly filter: NetFilter;
  readonly netdev: Netdev;
  /** As it was asked for. */
  readonly place: { readonly position: string; readonly insert: string };
}

const QUEUES: readonly FilterQueue[] = ['all', 'rx', 'tx'];

const COMMON = ['netdev', 'queue', 'status', 'position', 'insert'];
const OWN: Readonly<Record<FilterType, readonly string[]>> = {
  'filter-mirror': ['outdev', 'vnet_hdr_support'],
  'filter-redirector': ['indev', 'outdev', 'vnet_hdr_support'],
  'filter-rewriter': ['vnet_hdr_support'],
  'filter-dump': ['file', 'maxlen'],
  'filter-buffer': ['interval'],
};

const REQUIRED: Readonly<Record<FilterType, readonly string[]>> = {
  'filter-mirror': ['outdev'],
  'filter-redirector': [],
  'filter-rewriter': [],
  'filter-dump': ['file'],
  'filter-buffer': ['interval'],
};

export function isFilterType(type: string): type is FilterType {
  return (FILTER_TYPES as readonly string[]).includes(type);
}

/** Throws ParameterError, DeviceNotFoundError or ChardevInUseError. */
export function createFilter(
  type: FilterType,
  id: string,
  properties: Properties,
  context: NetObjectContext,
  source?: PropertySource,
): PlacedFilter {
  const reader = new PropertyReader(properties, [...COMMON, ...OWN[type]], source);
  // As in QEMU what is missing or malformed is told before what a name does not lead to.
  const netdevId = reader.text('netdev');
  for (const name of REQUIRED[type]) reader.require(name);
  const queue = reader.oneOf<FilterQueue>('queue', QUEUES, 'all');
  const enabled = parseFilterStatus(reader.optionalText('status') ?? 'on');
  const place = {
    position: reader.optionalText('position') ?? 'tail',
    insert: reader.oneOf('insert', ['behind', 'before'], 'behind'),
  };
  const netdev = context.netdev(netdevId);
  if (!netdev) throw new ParameterError("Parameter 'netdev' expects a network backend id");
  checkPosition(place.position, id, netdev, context);
  checkVnetHeader(type, netdev, reader);
  const filter = build(type, id, reader, { queue, enabled }, context);
  try {
    netdev.insert(filter, place);
  } catch (cause) {
    filter.close();
    throw cause;
  }
  return { filter, netdev, place };
}

/**
 * `qom-set` of what may change while the filter is at work. The rest QEMU takes and does nothing with, or worse changes
 * the framing in the middle of a stream; here it is refused.
 */
export function setFilterProperty(filter: NetFilter, name: string, value: unknown): void {
  const reader = new PropertyReader({ [name]: value }, [name], 'monitor');
  if (name === 'status') filter.enabled = parseFilterStatus(reader.text(name));
  else if (name === 'queue') filter.queue = reader.oneOf(name, QUEUES, 'all');
  else if (name === 'interval' && filter instanceof BufferFilter) {
    filter.intervalUs = reader.positive(name, 0, filter.typeName);
  } else throw new ParameterError(`Property '${filter.typeName}.${name}' cannot be changed`);
}

function parseFilterStatus(value: string): boolean {
  if (value === 'on') return true;
  if (value === 'off') return false;
  throw new ParameterError("Invalid value for netfilter status, should be 'on' or 'off'");
}

function build(
  type: FilterType,
  id: string,
  reader: PropertyReader,
  common: { queue: FilterQueue; enabled: boolean },
  context: NetObjectContext,
): NetFilter {
  switch (type) {
    case 'filter-mirror': {
      const outdev = findChardev(context, reader.text('outdev'));
      return new MirrorFilter(id, {
        ...common,
        outdev,
        vnetHdrSupport: reader.bool('vnet_hdr_support', false),
      });
    }
    case 'filter-redirector':
      return buildRedirector(id, reader, common, context);
    case 'filter-rewriter':
      return new RewriterFilter(id, { ...common, vnetHdrSupport: reader.bool('vnet_hdr_support', false) });
    case 'filter-dump': {
      const file = reader.text('file');
      return new DumpFilter(id, {
        ...common,
        file,
        maxBytes: reader.positive('maxlen', 65_536, 'filter-dump', "doesn't take value '0'"),
      });
    }
    case 'filter-buffer':
      return new BufferFilter(id, { ...common, intervalUs: reader.positive('interval', 0, 'filter-buffer') });
  }
}

function buildRedirector(
  id: string,
  reader: PropertyReader,
  common: { queue: FilterQueue; enabled: boolean },
  context: NetObjectContext,
): NetFilter {
  const indevId = reader.optionalText('indev');
  const outdevId = reader.optionalText('outdev');
  if (indevId === undefined && outdevId === undefined) {
    throw new ParameterError("filter redirector needs 'indev' or 'outdev' at least one property set");
  }
  if (indevId === outdevId) {
    throw new ParameterError("'indev' and 'outdev' could not be same for filter redirector");
  }
  const indev = indevId === undefined ? null : context.chardev(indevId);
  if (indevId !== undefined && !indev) throw new DeviceNotFoundError(`IN Device '${indevId}' not found`);
  const outdev = outdevId === undefined ? null : context.chardev(outdevId);
  if (outdevId !== undefined && !outdev) throw new DeviceNotFoundError(`OUT Device '${outdevId}' not found`);
  const vnetHdrSupport = reader.bool('vnet_hdr_support', false);
  return new RedirectorFilter(id, { ...common, indev, outdev, vnetHdrSupport });
}

/** Before any chardev is taken: a filter named as the place may be on another netdev, or, in QEMU's words too, itself. */
function checkPosition(position: string, self: string, netdev: Netdev, context: NetObjectContext): void {
  if (position === 'head' || position === 'tail') return;
  const id = position.startsWith('id=') ? position.slice('id='.length) : position;
  const owner = context.netdevOfFilter?.(id);
  if (position === `id=${self}` || (owner && owner !== netdev && position.startsWith('id=')))
    throw new ParameterError(`filter '${id}' belongs to a different netdev`);
}

/** QEMU makes it, and its packets are garbage to whoever reads them; here it is refused. */
function checkVnetHeader(type: FilterType, netdev: Netdev, reader: PropertyReader): void {
  if (netdev.vnetHeaderBytes === 0 || !OWN[type].includes('vnet_hdr_support')) return;
  if (reader.bool('vnet_hdr_support', false)) return;
  throw new ParameterError(
    `the packets of netdev '${netdev.id}' have vnet headers (vnet_hdr=on): ${type} and the comparer need vnet_hdr_support=on`,
  );
}

const COMPARE_PROPERTIES = [
  'primary_in',
  'secondary_in',
  'outdev',
  'iothread',
  'vnet_hdr_support',
  'notify_dev',
  'compare_timeout',
  'expired_scan_cycle',
  'max_queue_size',
];

/** Throws ParameterError, DeviceNotFoundError or ChardevInUseError. */
export function createColoCompare(
  id: string,
  properties: Properties,
  context: NetObjectContext,
  source?: PropertySource,
): ColoCompare {
  const reader = new PropertyReader(properties, COMPARE_PROPERTIES, source);
  const primaryIn = reader.text('primary_in');
  const secondaryIn = reader.text('secondary_in');
  const outdev = reader.text('outdev');
  const iothread = reader.text('iothread');
  const notifyDev = reader.optionalText('notify_dev') ?? '';
  if (context.hasIothread && !context.hasIothread(iothread)) {
    throw new DeviceNotFoundError(`Device '${iothread}' not found`);
  }
  if (new Set([primaryIn, secondaryIn, outdev]).size < 3) {
    throw new ParameterError("'indev' and 'outdev' could not be same for compare module");
  }
  const compareTimeoutMs = reader.positive('compare_timeout', DEFAULT_COMPARE_TIMEOUT_MS, 'colo-compare');
  const expiredScanCycleMs = reader.positive(
    'expired_scan_cycle',
    DEFAULT_EXPIRED_SCAN_CYCLE_MS,
    'colo-compare',
  );
  const maxQueueSize = reader.positive('max_queue_size', DEFAULT_MAX_QUEUE_SIZE, 'colo-compare');
  const findSender = context.findSender?.bind(context);
  const outputChardev = findChardev(context, outdev);
  return new ColoCompare(id, {
    primaryIn: findChardev(context, primaryIn),
    secondaryIn: findChardev(context, secondaryIn),
    outdev: outputChardev,
    findOutputNetdev: () => context.findOutputNetdev?.(outputChardev) ?? null,
    notifyDev: notifyDev === '' ? null : findChardev(context, notifyDev),
    iothread,
    vnetHdrSupport: reader.bool('vnet_hdr_support', false),
    compareTimeoutMs,
    expiredScanCycleMs,
    maxQueueSize,
    bypassUntilStarted: context.bypassUntilStarted ?? false,
    ...(findSender && { findSender }),
  });
}

/** `qom-set` of the properties that may change while the comparer runs. */
export function setCompareProperty(compare: ColoCompare, name: string, value: unknown): void {
  const known = ['compare_timeout', 'expired_scan_cycle', 'max_queue_size'];
  const reader = new PropertyReader({ [name]: value }, known, 'monitor');
  const number = reader.positive(name, 1, 'colo-compare');
  if (name === 'compare_timeout') compare.compareTimeoutMs = number;
  else if (name === 'expired_scan_cycle') compare.expiredScanCycleMs = number;
  else compare.maxQueueSize = number;
}

function findChardev(context: NetObjectContext, id: string): Chardev {
  const chardev = context.chardev(id);
  if (!chardev) throw new DeviceNotFoundError(`Device '${id}' not found`);
  return chardev;
}
