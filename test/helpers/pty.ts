/** A program on a pseudo-terminal of 100 columns and 24 rows, which Python makes: typing, and waiting for what appears. */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { COLO } from './colo.ts';

/** Copies both ways; the child's end is this one's, with its exit status or 128 and the signal's number. */
const SCRIPT = `
import os, pty, select, struct, sys, fcntl, termios
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 100, 0, 0))
os.write(1, b'PID %d\\n' % pid)
sources = [0, fd]
while True:
    ready, _, _ = select.select(sources, [], [])
    if fd in ready:
        try:
            data = os.read(fd, 65536)
        except OSError:
            break
        if not data:
            break
        os.write(1, data)
    if 0 in ready:
        data = os.read(0, 65536)
        if data:
            os.write(fd, data)
        else:
            sources = [fd]
status = os.waitpid(pid, 0)[1]
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
`;

export class Pty {
  readonly child: ChildProcessWithoutNullStreams;
  /** Everything that has appeared. */
  text = '';
  #seen = 0;

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.child = spawn('python3', ['-c', SCRIPT, process.execPath, COLO, ...args], {
      env: { ...process.env, TERM: 'xterm-256color', NO_COLOR: '', ...env },
    });
    this.child.stdout.setEncoding('utf8');
    this.child.stdout.on('data', (chunk: string) => (this.text += chunk));
    this.child.stdin.on('error', () => undefined);
  }

  type(keys: string): void {
    this.child.stdin.write(keys);
  }

  /** What appears from the last match on, once it matches. Rejects when the program has ended without. */
  async see(pattern: RegExp): Promise<string> {
    for (;;) {
      const match = pattern.exec(this.text.slice(this.#seen));
      if (match) {
        this.#seen += match.index + match[0].length;
        return match[0];
      }
      if (this.child.stdout.readableEnded) {
        throw new Error(`ended without ${pattern.source}: ${JSON.stringify(this.text)}`);
      }
      await Promise.race([once(this.child.stdout, 'data'), once(this.child.stdout, 'end')]);
    }
  }

  /** The program's own, not Python's. */
  async pid(): Promise<number> {
    return Number(/\d+/.exec(await this.see(/PID \d+\n/))?.[0]);
  }

  async ended(): Promise<number> {
    if (this.child.exitCode === null) await once(this.child, 'exit');
    return this.child.exitCode ?? -1;
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }
}
