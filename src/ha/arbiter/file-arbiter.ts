/**
 * The arbiter in a directory that both sides see (an NFS export, a cluster file system; what it must be able to do is in
 * docs/arbiter.md). The directory is touched in a process of its own only (file-process.ts), since a file system may hang.
 */
import type { ColoError } from '../../base/errors.ts';
import {
  ArbiterRecordError,
  ArbiterUnreachableError,
  type Arbiter,
  type ArbiterRecord,
  type Proposal,
  type RecordId,
  type SwapResult,
} from './arbiter.ts';
import type { FileAnswer, FileRequest } from './file-child.ts';
import { FileProcess, NoAnswerError, moduleBeside } from './file-process.ts';
import { checkProposal, checkVmName } from './record.ts';
import { ReadingWatch } from './reading-watch.ts';

/** One call, with what waits before it. */
const CALL_DEADLINE_MS = 3_000;
/** Between two looks for a watcher. */
const WATCH_MS = 1_000;

export interface FileArbiterOptions {
  readonly deadlineMs?: number;
  readonly watchMs?: number;
}

export class FileArbiter implements Arbiter {
  readonly #dir: string;
  readonly #process: FileProcess<FileRequest, FileAnswer>;
  readonly #watch: ReadingWatch;

  constructor(dir: string, options: FileArbiterOptions = {}) {
    this.#dir = dir;
    const module = moduleBeside(import.meta.url, 'file-child');
    this.#process = new FileProcess(module, `arbiter ${dir}`, options.deadlineMs ?? CALL_DEADLINE_MS);
    this.#watch = new ReadingWatch((vm) => this.read(vm), options.watchMs ?? WATCH_MS);
  }

  /** Makes the directory into an arbiter's, if it is none; returns its identity. Once, by a person. */
  prepare(): Promise<string> {
    return this.#call({ verb: 'prepare', dir: this.#dir }) as Promise<string>;
  }

  identity(): Promise<string> {
    return this.#call({ verb: 'identity', dir: this.#dir }) as Promise<string>;
  }

  async read(vm: string): Promise<ArbiterRecord | null> {
    checkVmName(vm);
    return (await this.#call({ verb: 'read', dir: this.#dir, vm })) as ArbiterRecord | null;
  }

  create(vm: string, first: Proposal): Promise<SwapResult> {
    return this.#swap(vm, null, first);
  }

  swap(vm: string, expected: RecordId, next: Proposal): Promise<SwapResult> {
    return this.#swap(vm, expected, next);
  }

  watch(vm: string, onChange: (record: ArbiterRecord | null) => void): () => void {
    checkVmName(vm);
    return this.#watch.add(vm, onChange);
  }

  async close(): Promise<void> {
    this.#watch.close();
    this.#process.close();
    await Promise.resolve();
  }

  /** The process that touches the directory, for tests. */
  get pid(): number | undefined {
    return this.#process.pid;
  }

  async #swap(vm: string, expected: RecordId | null, next: Proposal): Promise<SwapResult> {
    const checked = checkProposal(vm, next);
    return (await this.#call({ verb: 'swap', dir: this.#dir, vm, expected, next: checked })) as SwapResult;
  }

  async #call(request: FileRequest): Promise<unknown> {
    let answer: FileAnswer;
    try {
      answer = await this.#process.call(request);
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      const mayHaveHappened = error.isSent && request.verb === 'swap';
      throw new ArbiterUnreachableError(error.message, mayHaveHappened, { cause: error });
    }
    if (answer.ok) return answer.value;
    throw asError(answer);
  }
}

function asError(answer: Extract<FileAnswer, { ok: false }>): ColoError {
  if (answer.kind === 'record') return new ArbiterRecordError(answer.message);
  return new ArbiterUnreachableError(answer.message, answer.mayHaveHappened);
}
