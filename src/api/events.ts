/**
 * The events of one host's daemon, kept in STATE/events.jsonl: one JSON object a line, bounded by keeping one older file
 * beside it, numbered on over restarts. `colo events` reads them from memory, where the newest are; a reader that follows
 * is a place in that list and no queue, so one that is too slow misses what fell out meanwhile, and is told how much.
 *
 * A line is written when the event happens and reaches the disk with the kernel's next write-back: a killed daemon loses
 * nothing, a power cut may take the last seconds. What it leaves half-written is skipped. When the disk is full or gone,
 * events go on in memory and in the log.
 */
import { closeSync, fstatSync, openSync, readSync, renameSync, writeSync } from 'node:fs';
import path from 'node:path';
import { messageOf, ParameterError } from '../base/errors.ts';
import { loggerFor } from '../base/logger.ts';
import { VIEW_VERSION, type HaEvent } from '../ha/views.ts';
import { haEvent } from './schemas.ts';
import type { EventQuery } from './service.ts';

/** Of each of the two files. */
export const MAX_FILE_BYTES = 4 * 1024 * 1024;
/** In memory, for readers. */
export const MAX_KEPT_EVENTS = 4096;
/** One event as JSON; a longer one loses its data. */
export const MAX_EVENT_BYTES = 16_384;

/** Events fall out of memory in groups, not one by one. */
const TRIM = 256;

/** What is told of an event by whoever it happens to. */
export type NewEvent = Omit<HaEvent, 'version' | 'sequence' | 'time' | 'host'>;

export class EventLog {
  readonly #host: string;
  readonly #file: string;
  readonly #maxFileBytes: number;
  readonly #log = loggerFor('events');
  #fd: number | null;
  #fileBytes = 0;
  #kept: HaEvent[] = [];
  /** How many have fallen out of `#kept`: a reader's place is counted from the first event ever kept. */
  #dropped = 0;
  #sequence = 0;
  #isClosed = false;
  #hasTrouble = false;
  /** Readers that wait for the next event. */
  readonly #waiting = new Set<() => void>();

  private constructor(host: string, file: string, maxFileBytes: number, fd: number) {
    this.#host = host;
    this.#file = file;
    this.#maxFileBytes = maxFileBytes;
    this.#fd = fd;
  }

  /** The folder is there. Throws ParameterError when the file cannot be opened. */
  static open(folder: string, host: string, options: { readonly maxFileBytes?: number } = {}): EventLog {
    const file = path.join(folder, 'events.jsonl');
    const maxFileBytes = options.maxFileBytes ?? MAX_FILE_BYTES;
    const old = readTail(olderName(file), maxFileBytes);
    let fd: number;
    try {
      fd = openSync(file, 'a+', 0o600);
    } catch (cause) {
      throw new ParameterError(`${file}: ${messageOf(cause)}`, { cause });
    }
    const log = new EventLog(host, file, maxFileBytes, fd);
    const text = readTail(file, maxFileBytes) ?? '';
    log.#take([...(old ?? '').split('\n'), ...text.split('\n')]);
    log.#fileBytes = fstatSync(fd).size;
    // What was torn becomes a line of its own.
    if (text !== '' && !text.endsWith('\n')) log.#write('\n');
    return log;
  }

  /** The newest event's number; 0: there is none. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Never throws: an event is not worth a failure. */
  add(event: NewEvent): HaEvent {
    let full: HaEvent = {
      version: VIEW_VERSION,
      sequence: ++this.#sequence,
      time: new Date().toISOString(),
      host: this.#host,
      ...event,
    };
    let line = textOf(full);
    if (line === null || line.length > MAX_EVENT_BYTES) {
      full = { ...full, reason: full.reason.slice(0, MAX_EVENT_BYTES / 4), data: { isCut: true } };
      line = JSON.stringify(full);
    }
    this.#write(`${line}\n`);
    this.#keep(full);
    const { vm, type, from, to, data } = full;
    this.#log.info({ sequence: full.sequence, vm, type, from, to, data }, full.reason);
    for (const wake of [...this.#waiting]) wake();
    return full;
  }

  /** NodeService.events. `after` beyond the newest event is from an older log: all of this one is new to the reader. */
  async *read({ after, vm, follow, signal }: EventQuery): AsyncGenerator<HaEvent> {
    let at = this.#dropped + this.#placeAfter(after);
    if (at === this.#dropped && after !== undefined && after <= this.#sequence) {
      const first = this.#kept[0];
      if (first && first.sequence > after + 1) yield this.#gap(first.sequence - after - 1, first);
    }
    while (!signal?.aborted) {
      if (at < this.#dropped) {
        yield this.#gap(this.#dropped - at, this.#kept[0]!);
        at = this.#dropped;
      }
      const event = this.#kept[at - this.#dropped];
      if (event) {
        at++;
        if (vm === undefined || event.vm === vm) yield event;
      } else if (!follow || this.#isClosed) return;
      else await this.#next(signal);
    }
  }

  /** Readers that follow come to their end. */
  close(): void {
    this.#isClosed = true;
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
    for (const wake of [...this.#waiting]) wake();
  }

  #placeAfter(after: number | undefined): number {
    if (after === undefined || after > this.#sequence) return 0;
    const place = this.#kept.findIndex((event) => event.sequence > after);
    return place < 0 ? this.#kept.length : place;
  }

  #gap(count: number, next: HaEvent): HaEvent {
    const reason = `${count} events were dropped before they could be read`;
    const { time, host } = next;
    return { version: VIEW_VERSION, sequence: next.sequence - 1, time, host, type: 'gap', reason };
  }

  #next(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal?.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal?.addEventListener('abort', wake, { once: true });
    });
  }

  #keep(event: HaEvent): void {
    this.#kept.push(event);
    if (this.#kept.length < MAX_KEPT_EVENTS + TRIM) return;
    this.#kept.splice(0, TRIM);
    this.#dropped += TRIM;
  }

  /** What an earlier daemon wrote. */
  #take(lines: readonly string[]): void {
    let skipped = 0;
    for (const line of lines) {
      if (line === '') continue;
      const event = eventOf(line);
      // Numbers only ever rise: what does not is damage, or a copy.
      if (!event || event.sequence <= this.#sequence) skipped++;
      else {
        this.#sequence = event.sequence;
        this.#keep(event);
      }
    }
    if (skipped > 0) this.#log.warn({ file: this.#file, skipped }, 'lines that are no events were skipped');
  }

  #write(line: string): void {
    try {
      if (this.#fileBytes > 0 && this.#fileBytes + line.length > this.#maxFileBytes) this.#rotate();
      if (this.#fd === null) return;
      this.#fileBytes += writeSync(this.#fd, line);
      this.#hasTrouble = false;
    } catch (error) {
      if (!this.#hasTrouble) {
        this.#log.error({ file: this.#file, reason: messageOf(error) }, 'events are not written to disk');
      }
      this.#hasTrouble = true;
    }
  }

  #rotate(): void {
    renameSync(this.#file, olderName(this.#file));
    const fd = openSync(this.#file, 'a+', 0o600);
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = fd;
    this.#fileBytes = 0;
  }
}

function olderName(file: string): string {
  return file.replace(/\.jsonl$/, '.1.jsonl');
}

/** Null: there is no such file. Its last `maxBytes` at most, from the beginning of a line. */
function readTail(file: string, maxBytes: number): string | null {
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch {
    return null; // the first start, or not yet rotated
  }
  try {
    const { size } = fstatSync(fd);
    const from = Math.max(0, size - maxBytes);
    const bytes = Buffer.alloc(size - from);
    const length = readSync(fd, bytes, 0, bytes.length, from);
    const text = bytes.toString('utf8', 0, length);
    return from === 0 ? text : text.slice(text.indexOf('\n') + 1);
  } finally {
    closeSync(fd);
  }
}

function eventOf(line: string): HaEvent | null {
  try {
    const result = haEvent.safeParse(JSON.parse(line));
    return result.success ? (result.data as HaEvent) : null;
  } catch {
    return null; // torn
  }
}

/** Null: its data is not JSON (a circle, a bigint). */
function textOf(event: HaEvent): string | null {
  try {
    return JSON.stringify(event);
  } catch {
    return null;
  }
}
