/**
 * QMP commands whose effect belongs to the process and not to the guest's state: the next process is told them too.
 * Of each kind the last one counts. Passwords are among them; they are kept in memory and written nowhere.
 */
import { loggerFor } from '../../base/logger.ts';

const log = loggerFor('engine-qemu');

type Args = Readonly<Record<string, unknown>>;
type Execute = (command: string, args: Args) => Promise<unknown>;

/** A client that sets properties without end is forgotten from its oldest one on. */
const MAX_LASTING_COMMANDS = 256;

/** Command → the arguments that tell one setting from another. */
const LASTING: ReadonlyMap<string, readonly string[]> = new Map([
  ['change-vnc-password', []],
  ['set_password', ['protocol', 'display']],
  ['expire_password', ['protocol', 'display']],
  ['watchdog-set-action', []],
  ['set-action', []],
  ['set_link', ['name']],
  ['qom-set', ['path', 'property']],
]);

/** Lines of the human monitor that set the same; the first words that tell one from another. */
const LASTING_LINES = /^\s*(change\s+vnc\s+passw\w*|(?:set|expire)_password\s+\S+|watchdog_action)(?=\s)/;

export class LastingCommands {
  /** The oldest first. */
  readonly #kept = new Map<string, { readonly command: string; readonly args: Args }>();

  /** After a command has succeeded. */
  note(command: string, args: Args): void {
    const key = keyOf(command, args);
    if (key === null) return;
    const before = this.#kept.get(key);
    this.#kept.delete(key);
    // The last one is repeated last; a set-action names some of its four members and leaves the others.
    const kept = command === 'set-action' ? { ...before?.args, ...args } : args;
    this.#kept.set(key, { command, args: command === 'expire_password' ? absolute(kept) : kept });
    if (this.#kept.size > MAX_LASTING_COMMANDS) this.#kept.delete(this.#kept.keys().next().value ?? '');
  }

  /** Ends when all have been answered; what the process does not take is logged by name. */
  async repeat(execute: Execute): Promise<void> {
    const repeated = [...this.#kept.values()].map(async ({ command, args }) => {
      try {
        await execute(command, args);
      } catch {
        log.warn(`the QEMU that took over does not take a setting made by ${command}`);
      }
    });
    await Promise.all(repeated);
  }
}

function keyOf(command: string, args: Args): string | null {
  if (command === 'human-monitor-command') {
    const line = LASTING_LINES.exec(String(args['command-line']));
    return line === null ? null : `line ${line[1] ?? ''}`;
  }
  const members = LASTING.get(command);
  return members ? JSON.stringify([command, ...members.map((member) => args[member])]) : null;
}

/** A time from now on is one of the clock when it is repeated. */
function absolute(args: Args): Args {
  const seconds = /^\+(\d+)$/.exec(String(args['time']))?.[1];
  if (seconds === undefined) return args;
  return { ...args, time: String(Math.floor(Date.now() / 1000) + Number(seconds)) };
}
