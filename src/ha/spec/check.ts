/**
 * `colo check`: every reason why a VM could not be started or protected, from its description and what hosts tell about
 * themselves (facts.ts). Pure. An error is a reason; a warning is what would surprise later.
 */
import { parseCommandLine } from '../../vm/command-line/parse.ts';
import { messageOf } from '../../base/errors.ts';
import { firstPrimaryArguments } from '../command-line.ts';
import type { Finding } from '../views.ts';
import { portsNeeded } from './facts.ts';
import type { HostFacts } from './facts.ts';
import { sizeText } from './quantities.ts';
import { contradictionsOf } from './rules.ts';
import type { VmSpec } from './vm-spec.ts';

/** Clocks that differ by more confuse who reads events and logs; nothing decides by them. */
const CLOCK_MS = 1_000;
/** Of this program and of a QEMU, beside the guest's RAM. */
const OVERHEAD_MIB = 200;

/** What came of asking a host. Clocks are this host's, in milliseconds since 1970. */
export interface HostAnswer {
  readonly facts: HostFacts;
  readonly askedMs: number;
  readonly answeredMs: number;
}

export interface SilentHost {
  readonly host: string;
  readonly reason: string;
}

export interface CheckInput {
  /** Every host of the cluster that may be asked and has answered. */
  readonly answers: readonly HostAnswer[];
  readonly silent?: readonly SilentHost[];
  /** Where the VM is started for the first time: it reads the images. */
  readonly home: string;
}

/** All of it: the description alone, each host, and the hosts beside one another. */
export function checkCluster(spec: VmSpec, { answers, silent = [], home }: CheckInput): Finding[] {
  const may = (host: string): boolean => spec.hosts.length === 0 || spec.hosts.includes(host);
  const able = answers.filter(({ facts }) => may(facts.host));
  return [
    ...checkSpec(spec),
    ...able.flatMap(({ facts }) => checkVm(spec, facts, facts.host === home)),
    ...checkHome(spec, able, home),
    ...compareHosts(
      spec,
      able,
      silent.filter(({ host }) => may(host)),
    ),
  ];
}

/** What is wrong whatever the hosts are. */
export function checkSpec(spec: VmSpec): Finding[] {
  const found = contradictionsOf(spec).map((one) => ({ severity: 'error' as const, host: null, ...one }));
  if (found.length > 0) return found;
  try {
    // Files do not matter to it.
    const disks = spec.disks.map(({ id }) => ({
      ...{ id, sizeBytes: 0, image: '/image', active: '/active', hidden: '/hidden' },
    }));
    parseCommandLine(firstPrimaryArguments(spec, disks));
    return [];
  } catch (error) {
    return [{ severity: 'error', host: null, path: 'options', message: messageOf(error) }];
  }
}

/** One host. `isHome`: it would fill the disks from the images. */
export function checkVm(spec: VmSpec, facts: HostFacts, isHome: boolean): Finding[] {
  const found: Finding[] = [];
  const { host } = facts;
  const add = (severity: Finding['severity'], path: string, message: string): void =>
    void found.push({ severity, host, path, message });
  const trouble = (path: string, text: string | null): void => {
    if (text !== null) add('error', path, text);
  };
  const needsImages = isHome && !facts.hasDisks;
  if (needsImages) checkImages(spec, facts, add);
  trouble('state-folder', facts.state.trouble);
  trouble('run-folder', facts.run);
  checkSpace(spec, facts, needsImages, add);
  checkMemory(spec, facts, add);
  const needed = portsNeeded(spec.nics.length);
  trouble('address', facts.ports.trouble);
  if (facts.ports.trouble === null && facts.ports.free < needed)
    add('error', 'pair-ports', `${facts.ports.free} ports are free, ${needed} are needed; widen the range`);
  for (const [at, text] of facts.cables.entries()) trouble(`network[${at}]`, text);
  trouble('engine', facts.engine.trouble);
  for (const [at, { model }] of spec.nics.entries()) {
    if (facts.engine.unknownModels.includes(model))
      add('error', `network[${at}].model`, `QEMU ${facts.engine.version ?? ''} has no NIC '${model}'`);
  }
  trouble('arbiter', facts.arbiter);
  trouble('tls', facts.tls);
  return found;
}

type Add = (severity: Finding['severity'], path: string, message: string) => void;

function checkImages(spec: VmSpec, { images }: HostFacts, add: Add): void {
  for (const [at, image] of images.entries()) {
    if (!image) continue;
    const path = `disks[${at}].image`;
    if (image.trouble !== null) {
      add('error', path, image.trouble);
      continue;
    }
    const size = spec.disks[at]?.sizeBytes;
    if (size !== undefined && image.virtualBytes > size) {
      add(
        'error',
        `disks[${at}].size`,
        `the image has ${sizeText(image.virtualBytes)}, which do not fit into ${sizeText(size)}`,
      );
    }
  }
}

function checkSpace(spec: VmSpec, facts: HostFacts, needsImages: boolean, add: Add): void {
  if (facts.state.trouble !== null || facts.hasDisks) return;
  const sizes = spec.disks.map(({ sizeBytes }, at) => sizeBytes ?? facts.images[at]?.virtualBytes ?? 0);
  const whole = sizes.reduce((sum, size) => sum + size, 0);
  const now = needsImages ? facts.images.reduce((sum, image) => sum + (image?.actualBytes ?? 0), 0) : 0;
  const { freeBytes } = facts.state;
  const free = `${sizeText(roundDown(freeBytes))} are free`;
  if (freeBytes < now)
    add('error', 'state-folder', `${free}, the images alone take ${sizeText(roundUp(now))}`);
  else if (freeBytes < whole)
    add('warning', 'state-folder', `${free}, the disks may grow to ${sizeText(roundUp(whole))}`);
}

function checkMemory({ memoryMiB }: VmSpec, { availableMiB, guestsMiB }: HostFacts, add: Add): void {
  const least = memoryMiB + OVERHEAD_MIB;
  if (guestsMiB < memoryMiB)
    add('error', 'memory', `${guestsMiB} MiB are left for guests, the VM has ${memoryMiB}`);
  else if (availableMiB < least)
    add('error', 'memory', `${availableMiB} MiB are available, the VM takes ${least} with its own`);
  else if (availableMiB < least + memoryMiB)
    add(
      'warning',
      'memory',
      `${availableMiB} MiB are available; once the guest has used all of its RAM, the copy of it for checkpoints takes as much again`,
    );
}

/** The disks are filled where the VM is started. */
function checkHome(spec: VmSpec, able: readonly HostAnswer[], home: string): Finding[] {
  if (able.some(({ facts }) => facts.host === home)) return [];
  if (spec.hosts.length === 0 || spec.hosts.includes(home)) return [];
  const message = `'${home}', where it would be started, is not one of them; start it on one of ${spec.hosts.join(', ')}`;
  return [{ severity: 'error', host: home, path: 'hosts', message }];
}

/** What no host can know alone. */
export function compareHosts(
  spec: VmSpec,
  answers: readonly HostAnswer[],
  silent: readonly SilentHost[] = [],
): Finding[] {
  const found: Finding[] = [];
  const add = (severity: Finding['severity'], path: string, message: string, host: string | null): void =>
    void found.push({ severity, host, path, message });
  const facts = answers.map((answer) => answer.facts);
  const names = facts.map(({ host }) => host);
  for (const { host, reason } of silent)
    add(facts.length < 2 ? 'error' : 'warning', 'hosts', `'${host}' does not answer: ${reason}`, host);
  for (const host of spec.hosts) {
    if (names.includes(host) || silent.some((one) => one.host === host)) continue;
    add(facts.length < 2 ? 'error' : 'warning', 'hosts', `there is no host '${host}' in the cluster`, host);
  }
  if (facts.length < 2) {
    const who = facts.length === 0 ? 'no host' : `'${names.join('')}' alone`;
    add('error', 'hosts', `${who} can carry it: protection needs two hosts`, null);
  }
  const [first, ...others] = answers;
  if (!first) return found;
  for (const other of others) {
    for (const { severity, path, message } of differences(spec, first, other))
      add(severity, path, message, other.facts.host);
  }
  return found;
}

type Difference = Omit<Finding, 'host'>;

function differences(spec: VmSpec, one: HostAnswer, other: HostAnswer): Difference[] {
  const [a, b] = [one.facts, other.facts];
  const found: Difference[] = [];
  const add = (severity: Finding['severity'], path: string, message: string): void =>
    void found.push({ severity, path, message });
  const both = (what: (facts: HostFacts) => string): string =>
    `'${a.host}' has ${what(a)}, '${b.host}' has ${what(b)}`;
  if (a.engine.version !== null && b.engine.version !== null && a.engine.version !== b.engine.version)
    add(
      'error',
      'qemu',
      `${both(({ engine }) => `QEMU ${engine.version ?? ''}`)}: the guest would see two machines; install the same`,
    );
  const apart = versionsApart(a.software, b.software);
  if (apart > 1)
    add('error', 'version', `${both(({ software }) => software)}: only neighbouring versions work together`);
  else if (apart === 1)
    add('warning', 'version', `${both(({ software }) => software)}: neighbours work together; upgrade soon`);
  if (a.isSecure !== b.isSecure)
    add(
      'error',
      'tls',
      both(({ isSecure }) => (isSecure ? 'TLS' : 'none')),
    );
  const clock = clockDifference(one, other);
  if (clock > CLOCK_MS)
    add(
      'warning',
      'clock',
      `the clocks of '${a.host}' and '${b.host}' differ by ${(clock / 1000).toFixed(1)} s; events will look out of order`,
    );
  if (a.machine === b.machine)
    add('warning', 'hosts', `'${a.host}' and '${b.host}' are one machine: its loss takes both`);
  else if (isLoopback(a.address) || isLoopback(b.address))
    add('error', 'address', both(({ address }) => `the address ${address}`) + ', which only itself reaches');
  if (spec.options.includes('host') && spec.engine === 'kvm' && a.cpuModel !== b.cpuModel)
    add('warning', 'options', `-cpu host: ${both(({ cpuModel }) => cpuModel)}; name a model that both have`);
  return found;
}

/** Minor versions apart; another major version is far away. 0 also where one of the two is not told. */
function versionsApart(a: string, b: string): number {
  const [x, y] = [a, b].map((text) => /^(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number));
  if (!x || !y) return a === b ? 0 : 1;
  return x[0] === y[0] ? Math.abs((x[1] ?? 0) - (y[1] ?? 0)) : Infinity;
}

/** What is certain of it: an answer that took long says little. */
function clockDifference(one: HostAnswer, other: HostAnswer): number {
  const read = ({ facts, askedMs, answeredMs }: HostAnswer): { offset: number; doubt: number } => ({
    offset: facts.clockMs - (askedMs + answeredMs) / 2,
    doubt: (answeredMs - askedMs) / 2,
  });
  const [a, b] = [read(one), read(other)];
  return Math.max(0, Math.abs(a.offset - b.offset) - a.doubt - b.doubt);
}

function isLoopback(address: string): boolean {
  return /^(?:127\.|localhost$|::1$)/.test(address);
}

const MIB = 1024 * 1024;
const roundDown = (bytes: number): number => Math.floor(bytes / MIB) * MIB;
const roundUp = (bytes: number): number => Math.ceil(bytes / MIB) * MIB;
