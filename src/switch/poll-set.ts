/**
 * The descriptors that a C library wants to be polled, watched from Node's event loop.
 *
 * Node cannot poll(2) a descriptor it did not open, and libslirp owns its sockets. They are put into one epoll
 * descriptor of ours, and that one is watched by libuv (an epoll descriptor is readable when one of its members is
 * ready; epoll(7)). This is as quick as a socket of Node's own, costs nothing while idle, and needs neither a thread
 * blocked in poll(2), nor a pipe to wake it, nor a second queue for frames between threads; and nothing is left
 * blocked at exit. What is ready is then read with poll(2) and no waiting, because the library asks for revents by
 * index. Linux only, as the package is.
 */
import koffi from 'koffi';
import { ColoError } from '../base/errors.ts';

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;

/** poll(2)'s events; epoll's have the same values. */
export const POLLIN = 1;
export const POLLPRI = 2;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** struct pollfd: i32 fd, i16 events, i16 revents; here as i16 words, events and revents being words 2 and 3. */
const WORDS_PER_POLLFD = 4;

interface Libc {
  epollCreate: (flags: number) => number;
  epollCtl: (epfd: number, op: number, fd: number, event: Uint32Array) => number;
  poll: (fds: Int16Array, count: number, timeoutMs: number) => number;
  close: (fd: number) => number;
}

let libc: Libc | null = null;

function openLibc(): Libc {
  const library = koffi.load(null);
  return {
    epollCreate: library.func('epoll_create1', 'int', ['int']),
    epollCtl: library.func('epoll_ctl', 'int', ['int', 'int', 'int', 'void *']),
    poll: library.func('poll', 'int', ['void *', 'unsigned long', 'int']),
    close: library.func('close', 'int', ['int']),
  };
}

export class PollSet {
  readonly #libc: Libc;
  readonly #epollFd: number;
  readonly #handle: { close(): void };
  /** What epoll has been told: descriptor to events. */
  readonly #watched = new Map<number, number>();
  /** struct epoll_event: u32 events, then 8 bytes we do not use; packed on x86-64 alone, room for either layout. */
  readonly #event = new Uint32Array(4);
  #words = new Int16Array(16 * WORDS_PER_POLLFD);
  #fds = new Int32Array(this.#words.buffer);
  #count = 0;
  #isClosed = false;

  /** `onReady` is called from the event loop, again and again while a descriptor of the set is ready. */
  constructor(onReady: () => void) {
    this.#libc = libc ??= openLibc();
    this.#epollFd = this.#libc.epollCreate(EPOLL_CLOEXEC);
    if (this.#epollFd < 0) throw new ColoError(`epoll_create1 failed (errno ${koffi.errno()})`);
    this.#handle = koffi.node.poll(this.#epollFd, { readable: true }, onReady);
  }

  /** Descriptors of the present set. */
  get size(): number {
    return this.#count;
  }

  /** The descriptor at `index` of the present set. */
  fdAt(index: number): number {
    return this.#fds[index * 2]!;
  }

  /** Begins a new set; what is not added again is no longer watched after `commit`. */
  begin(): void {
    this.#count = 0;
  }

  /** Adds a descriptor and returns its index. Events are poll(2)'s; errors and hang-ups are always reported. */
  add(fd: number, events: number): number {
    const index = this.#count++;
    if (index * WORDS_PER_POLLFD === this.#words.length) {
      const grown = new Int16Array(this.#words.length * 2);
      grown.set(this.#words);
      this.#words = grown;
      this.#fds = new Int32Array(grown.buffer);
    }
    this.#fds[index * 2] = fd;
    this.#words[index * WORDS_PER_POLLFD + 2] = events;
    this.#words[index * WORDS_PER_POLLFD + 3] = 0;
    return index;
  }

  /** The set is complete: tells epoll what has changed. */
  commit(): void {
    for (let i = 0; i < this.#count; i++) {
      const fd = this.fdAt(i);
      const events = this.#words[i * WORDS_PER_POLLFD + 2]!;
      const before = this.#watched.get(fd);
      if (before === events) continue;
      this.#event[0] = events;
      // The map may be wrong about a descriptor closed behind our back (epoll drops it then): try both verbs.
      const [first, second] =
        before === undefined ? [EPOLL_CTL_ADD, EPOLL_CTL_MOD] : [EPOLL_CTL_MOD, EPOLL_CTL_ADD];
      if (this.#libc.epollCtl(this.#epollFd, first, fd, this.#event) === 0) this.#watched.set(fd, events);
      else if (this.#libc.epollCtl(this.#epollFd, second, fd, this.#event) === 0)
        this.#watched.set(fd, events);
    }
    if (this.#watched.size > this.#count) this.#forgetUnlisted();
  }

  /** `fd` is about to be closed by its owner. Its number may come back as another socket. */
  forget(fd: number): void {
    if (this.#watched.delete(fd)) this.#libc.epollCtl(this.#epollFd, EPOLL_CTL_DEL, fd, this.#event);
  }

  /** Asks the kernel which descriptors of the present set are ready, without waiting. False: that failed. */
  probe(): boolean {
    return this.#count === 0 || this.#libc.poll(this.#words, this.#count, 0) >= 0;
  }

  /** poll(2)'s revents of the descriptor at `index`, as of the last `probe`. */
  readyAt(index: number): number {
    return index < this.#count ? this.#words[index * WORDS_PER_POLLFD + 3]! : 0;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#handle.close();
    this.#libc.close(this.#epollFd);
  }

  #forgetUnlisted(): void {
    const listed = new Set<number>();
    for (let i = 0; i < this.#count; i++) listed.add(this.fdAt(i));
    for (const fd of this.#watched.keys()) if (!listed.has(fd)) this.forget(fd);
  }
}
