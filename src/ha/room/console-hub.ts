/**
 * The console of one VM: its first serial port, whose socket takes one client, for any number of them. What the guest
 * says is kept, in memory for whoever connects and in a log for whoever comes when it is over. Everybody hears it;
 * everybody may type. While no daemon runs, what the guest says is lost.
 *
 * The guest is never held up: a client or a disk that does not keep pace loses output.
 */
import { createWriteStream } from 'node:fs';
import type { WriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import net from 'node:net';
import { Deferred } from '../../base/async.ts';
import { ClosedError, messageOf } from '../../base/errors.ts';
import { loggerFor } from '../../base/logger.ts';

const log = loggerFor('room');

/** What a new client is told first. */
const KEPT_BYTES = 64 * 1024;
/** It is kept as it comes, then put together. */
const MAX_KEPT_PIECES = 256;
/** Above it the log is moved to `console.log.1`. */
const MAX_CONSOLE_LOG_BYTES = 1024 * 1024;
/** Output that waits for a client, or for the disk. */
const MAX_UNSENT_BYTES = 1024 * 1024;
/** Input that waits for the guest; then the clients are not read. */
const MAX_UNREAD_BYTES = 64 * 1024;
const MAX_CLIENTS = 16;
const RETRY_MS = 50;

export interface ConsolePaths {
  /** Where the VM listens. */
  readonly serial: string;
  /** Where this listens. */
  readonly console: string;
  readonly consoleLog: string;
}

export class ConsoleHub {
  readonly #paths: ConsolePaths;
  readonly #server = net.createServer();
  readonly #clients = new Set<net.Socket>();
  readonly #opened = new Deferred<void>();
  readonly #ready = new Deferred<void>();
  #kept: Buffer[] = [];
  #log: WriteStream | null = null;
  #logBytes = 0;
  #vm: net.Socket | null = null;
  #retry: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(paths: ConsolePaths) {
    this.#paths = paths;
    void this.#open();
  }

  /** Resolves when clients can connect, or never will. */
  get opened(): Promise<void> {
    return this.#opened.promise;
  }

  /** Resolves when the guest is heard and clients are. Throws ClosedError. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#opened.resolve();
    this.#ready.reject(new ClosedError('the console was closed'));
    if (this.#retry) clearTimeout(this.#retry);
    this.#vm?.destroy();
    // What the guest said last reaches its readers.
    for (const client of this.#clients) client.end();
    this.#server.close();
    this.#log?.end();
  }

  async #open(): Promise<void> {
    try {
      await this.#openLog();
      // An earlier daemon's.
      await rm(this.#paths.console, { force: true });
    } catch (error) {
      log.warn(`console: ${messageOf(error)}`);
    }
    if (this.#isClosed) {
      this.#log?.end();
      return;
    }
    this.#server.on('connection', (client) => this.#accept(client));
    this.#server.on('error', (error) => {
      log.warn(`console: ${error.message}`);
      this.#opened.resolve();
    });
    this.#server.on('listening', () => this.#opened.resolve());
    this.#server.listen(this.#paths.console);
    this.#connect();
  }

  /** Also takes what an earlier daemon has written. */
  async #openLog(): Promise<void> {
    const file = await open(this.#paths.consoleLog, 'a+', 0o600);
    try {
      const { size } = await file.stat();
      const tail = Buffer.alloc(Math.min(size, KEPT_BYTES));
      const { bytesRead } = await file.read(tail, 0, tail.length, size - tail.length);
      this.#kept = [tail.subarray(0, bytesRead)];
      this.#logBytes = size;
    } finally {
      await file.close();
    }
    this.#startLog();
  }

  #startLog(): void {
    const stream = createWriteStream(this.#paths.consoleLog, { flags: 'a', mode: 0o600 });
    stream.on('error', (error) => {
      // Once: a full disk would be told with every line.
      log.warn(`console: ${error.message}; it is not logged any more`);
      if (this.#log === stream) this.#log = null;
    });
    this.#log = stream;
  }

  #connect(): void {
    if (this.#isClosed) return;
    const vm = net.connect(this.#paths.serial);
    this.#vm = vm;
    vm.on('connect', () => this.#ready.resolve());
    vm.on('data', (bytes: Buffer) => this.#said(bytes));
    vm.on('drain', () => {
      for (const client of this.#clients) client.resume();
    });
    vm.on('error', () => undefined); // 'close' follows
    vm.on('close', () => {
      if (this.#vm !== vm || this.#isClosed) return;
      this.#vm = null;
      for (const client of this.#clients) client.resume();
      this.#retry = setTimeout(() => this.#connect(), RETRY_MS);
    });
  }

  #said(bytes: Buffer): void {
    this.#kept.push(bytes);
    if (this.#kept.length > MAX_KEPT_PIECES) this.#kept = [this.#last()];
    for (const client of this.#clients) {
      if (client.writableLength > MAX_UNSENT_BYTES) client.destroy();
      else client.write(bytes);
    }
    this.#write(bytes);
  }

  #last(): Buffer {
    return Buffer.concat(this.#kept).subarray(-KEPT_BYTES);
  }

  #write(bytes: Buffer): void {
    if (!this.#log || this.#log.writableLength > MAX_UNSENT_BYTES) return;
    this.#log.write(bytes);
    this.#logBytes += bytes.length;
    if (this.#logBytes <= MAX_CONSOLE_LOG_BYTES) return;
    this.#logBytes = 0;
    const full = this.#log;
    this.#log = null;
    full.end(() => {
      const { consoleLog } = this.#paths;
      rename(consoleLog, `${consoleLog}.1`)
        .then(() => {
          if (!this.#isClosed) this.#startLog();
        })
        .catch((error: unknown) => log.warn(`console: ${messageOf(error)}`));
    });
  }

  #accept(client: net.Socket): void {
    client.on('error', () => undefined); // 'close' follows
    if (this.#clients.size >= MAX_CLIENTS) {
      client.end(`${MAX_CLIENTS} clients are on this console already\r\n`);
      return;
    }
    this.#clients.add(client);
    client.on('close', () => this.#clients.delete(client));
    client.write(this.#last());
    client.on('data', (bytes: Buffer) => {
      const vm = this.#vm;
      if (!vm || vm.connecting) return;
      vm.write(bytes);
      if (vm.writableLength > MAX_UNREAD_BYTES) client.pause();
    });
  }
}
