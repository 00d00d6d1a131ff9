/**
 * The creation options of formats (`-o`): their names, types and help as QEMU 7.2 prints them, parsing with its texts,
 * and the line that `create` says (`qemu-img create -f FORMAT -o help`; QEMU util/qemu-option.c).
 */
import { ParameterError } from '../../base/errors.ts';
import { hasProtocol } from '../../block/probe.ts';
import { splitItems, splitOptions } from './common.ts';
import { takeOptionSize } from './sizes.ts';

type Kind = 'str' | 'size' | 'num' | 'bool';

interface Option {
  readonly name: string;
  readonly kind: Kind;
  readonly help: string;
  /** What is printed, and meant, when nothing is said. */
  readonly fallback?: string;
}

const opt = (name: string, kind: Kind, help: string, fallback?: string): Option => ({
  name,
  kind,
  help,
  ...(fallback === undefined ? {} : { fallback }),
});

const SIZE = opt('size', 'size', 'Virtual disk size');
/** In the order in which `create` prints them. */
const FILE_OPTIONS: readonly Option[] = [
  opt('nocow', 'bool', 'Turn off copy-on-write (valid only on btrfs)'),
  opt('preallocation', 'str', 'Preallocation mode (allowed values: off, falloc, full)'),
  opt('extent_size_hint', 'size', 'Extent size hint for the image file, 0 to disable'),
];
const FORMATS: ReadonlyMap<string, readonly Option[]> = new Map([
  ['raw', [SIZE]],
  [
    'qcow2',
    [
      opt(
        'encryption',
        'bool',
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
      ),
      opt('encrypt.format', 'str', "Encrypt the image, format choices: 'aes', 'luks'"),
      opt('encrypt.key-secret', 'str', 'ID of secret providing qcow AES key or LUKS passphrase'),
      opt('encrypt.cipher-alg', 'str', 'Name of encryption cipher algorithm'),
      opt('encrypt.cipher-mode', 'str', 'Name of encryption cipher mode'),
      opt('encrypt.ivgen-alg', 'str', 'Name of IV generator algorithm'),
      opt('encrypt.ivgen-hash-alg', 'str', 'Name of IV generator hash algorithm'),
      opt('encrypt.hash-alg', 'str', 'Name of encryption hash algorithm'),
      opt('encrypt.iter-time', 'num', 'Time to spend in PBKDF in milliseconds'),
      opt('cluster_size', 'size', 'qcow2 cluster size', '65536'),
      opt('extended_l2', 'bool', 'Extended L2 tables', 'off'),
      opt('preallocation', 'str', 'Preallocation mode (allowed values: off, metadata, falloc, full)'),
      opt('compression_type', 'str', 'Compression method used for image cluster compression', 'zlib'),
      SIZE,
      opt('compat', 'str', 'Compatibility level (v2 [0.10] or v3 [1.1])'),
      opt('backing_file', 'str', 'File name of a base image'),
      opt('backing_fmt', 'str', 'Image format of the base image'),
      opt('data_file', 'str', 'File name of an external data file'),
      opt('data_file_raw', 'bool', 'The external data file must stay valid as a raw image'),
      opt('lazy_refcounts', 'bool', 'Postpone refcount updates', 'off'),
      opt('refcount_bits', 'num', 'Width of a reference count entry in bits', '16'),
    ],
  ],
]);

/** The options that were given, checked by name and type. */
export class CreateOptions {
  readonly format: string;
  readonly #known: readonly Option[];
  readonly #given = new Map<string, string>();

  /** Throws ParameterError (`Invalid option list`, `Invalid parameter`, `Parameter 'x' expects…`). */
  constructor(format: string, filename: string, lists: string | undefined) {
    this.format = format;
    this.#known = optionsFor(format, filename);
    for (const [name, value] of Object.entries(splitOptions(lists ?? '')))
      this.#set(name, value, lists ?? '');
  }

  #set(name: string, value: string, lists: string): void {
    const known = this.#known.find((option) => option.name === name);
    // QEMU still takes the older `noNAME` for `NAME=off`.
    const bare = name.slice(2);
    if (!known && name.startsWith('no') && this.#known.some((option) => option.name === bare)) {
      if (splitItems(lists).includes(name)) {
        this.#set(bare, 'off', lists);
        return;
      }
    }
    if (!known) throw new ParameterError(`Invalid parameter '${name}'`);
    if (known.kind === 'size') this.#given.set(name, String(takeOptionSize(name, value)));
    else if (known.kind === 'num') {
      if (!/^(?:0x[0-9a-f]+|[0-9]+)$/i.test(value))
        throw new ParameterError(`Parameter '${name}' expects a number`);
      this.#given.set(name, String(BigInt(value)));
    } else {
      if (known.kind === 'bool' && !/^(?:on|off|yes|no|true|false|y|n)$/.test(value))
        throw new ParameterError(`Parameter '${name}' expects 'on' or 'off'`);
      this.#given.set(name, value);
    }
  }

  /** False: the format has no such option. */
  set(name: string, value: string): boolean {
    if (!this.#known.some((option) => option.name === name)) return false;
    this.#given.set(name, value);
    return true;
  }

  isGiven(name: string): boolean {
    return this.#given.has(name);
  }

  get(name: string): string | undefined {
    return this.#given.get(name) ?? this.#known.find((option) => option.name === name)?.fallback;
  }

  isOn(name: string): boolean {
    return /^(?:on|yes|true|y)$/.test(this.get(name) ?? 'off');
  }

  /** `size=1048576 lazy_refcounts=off`, as `create` prints it. */
  toString(): string {
    const words: string[] = [];
    for (const { name } of this.#known) {
      const value = this.get(name);
      if (value !== undefined) words.push(`${name}=${value.replaceAll(',', ',,')}`);
    }
    return words.join(' ');
  }
}

/** Several `-o` make one list. Throws ParameterError for a list that begins or ends with a lone comma. */
export function joinLists(more: string, before: string | undefined): string {
  const commasAtEnd = /,*$/.exec(more)?.[0].length ?? 0;
  if (more.startsWith(',') || commasAtEnd % 2 === 1) throw new ParameterError(`Invalid option list: ${more}`);
  return before === undefined ? more : `${before},${more}`;
}

/** True: `help` or `?` is among the options. */
export function asksForHelp(lists: string | undefined): boolean {
  return splitItems(lists ?? '').some((item) => item === 'help' || item === '?');
}

/** The text of `-o help`. Throws ParameterError for an unknown format. */
export function optionsHelp(format: string, filename: string | undefined): string {
  const options = [...optionsFor(format, filename)].sort((a, b) => (a.name < b.name ? -1 : 1));
  const typeOf = (kind: Kind): string => (kind === 'bool' ? 'bool (on/off)' : kind);
  const lines = options.map(
    ({ name, kind, help }) => `${`  ${name}=<${typeOf(kind)}>`.padEnd(24)} - ${help}`,
  );
  const title = filename === undefined ? `Supported ${format} options:` : 'Supported options:';
  const more =
    '\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n';
  return `${[title, ...lines].join('\n')}\n${filename === undefined ? more : ''}`;
}

/** Throws ParameterError for an unknown format. */
function optionsFor(format: string, filename: string | undefined): readonly Option[] {
  const own = FORMATS.get(format);
  if (!own) throw new ParameterError(`Unknown file format '${format}'`);
  if (filename === undefined || (hasProtocol(filename) && !filename.startsWith('file:'))) return own;
  return [...own, ...FILE_OPTIONS.filter(({ name }) => !own.some((option) => option.name === name))];
}
