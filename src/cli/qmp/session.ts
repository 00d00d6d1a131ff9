/** One QMP shell, whoever types: a line in, its reply out, events as they come. Knows nothing of terminals' lines. */
import { messageOf, ParameterError } from '../../base/errors.ts';
import { QmpCommandError } from '../../qmp/client.ts';
import { stringifyJson } from '../../qmp/json-stream.ts';
import type { QmpEvent } from '../../qmp/types.ts';
import { exitCodeOf } from '../cluster/connection.ts';
import { printable } from '../cluster/text.ts';
import { parseLine, type QmpLine } from './line.ts';
import type { QmpPeer } from './peer.ts';
import { plain, prettyJson, printableLines, type Paint } from './print.ts';

export interface SessionOptions {
  /** Lines are those of the human monitor. */
  readonly isHmp: boolean;
  /** One line of JSON a message, as on the wire. */
  readonly isJson: boolean;
  /** What is sent is shown first. */
  readonly isVerbose: boolean;
  readonly paint: Paint;
  readonly print: (text: string) => void;
  /** An error for people; without it, printed like everything else. */
  readonly printError?: (text: string) => void;
}

export class QmpShellSession {
  readonly #peer: QmpPeer;
  readonly #options: SessionOptions;

  constructor(peer: QmpPeer, options: SessionOptions) {
    this.#peer = peer;
    this.#options = options;
  }

  /** False: it failed, and that has been told. Throws when the connection has ended, or `signal` the waiting. */
  async line(text: string, signal?: AbortSignal): Promise<boolean> {
    let request: QmpLine | null;
    try {
      request = this.#options.isHmp ? hmpRequest(text) : parseLine(text);
    } catch (error) {
      if (!(error instanceof ParameterError)) throw error;
      this.#fail('GenericError', messageOf(error));
      return false;
    }
    return request === null || this.run(request, signal);
  }

  async run({ command, args }: QmpLine, signal?: AbortSignal): Promise<boolean> {
    const { isHmp, isJson, isVerbose, paint, print } = this.#options;
    if (isVerbose) {
      const withArgs = Object.keys(args).length > 0 ? { arguments: args } : {};
      print(stringifyJson({ execute: command, ...withArgs }));
    }
    let reply: unknown;
    try {
      reply = await this.#peer.execute(command, args, signal && { signal });
    } catch (error) {
      // Through a daemon a command's failure comes as the daemon's; a VM that is not there is another matter.
      const isRefusal =
        error instanceof QmpCommandError || (!this.#peer.hasEvents && exitCodeOf(error) === 1);
      if (!isRefusal) throw error;
      if (error instanceof QmpCommandError) this.#fail(error.class, error.desc);
      else this.#fail('GenericError', messageOf(error));
      return false;
    }
    if (isJson) print(stringifyJson({ return: reply }));
    else if (isHmp && typeof reply === 'string') {
      if (reply !== '') print(printableLines(reply));
    } else print(prettyJson(reply, paint));
    return true;
  }

  event(event: QmpEvent): void {
    const { isJson, paint, print } = this.#options;
    const { event: name, data, timestamp } = event;
    if (isJson) print(stringifyJson({ timestamp, event: name, data }));
    else print(eventText(event, paint));
  }

  #fail(errorClass: string, desc: string): void {
    const { isJson, paint, print, printError = print } = this.#options;
    if (isJson) print(stringifyJson({ error: { class: errorClass, desc } }));
    else printError(paint('error', `${printable(errorClass)}: ${printable(desc)}`));
  }
}

function hmpRequest(text: string): QmpLine | null {
  const line = text.trim();
  return line === '' ? null : { command: 'human-monitor-command', args: { 'command-line': line } };
}

/** `12:34:56.789 STOP {"a": 1}`, by the clock of whoever reads. */
export function eventText({ event, data, timestamp }: QmpEvent, paint: Paint = plain): string {
  const at = new Date(timestamp.seconds * 1000 + timestamp.microseconds / 1000);
  const pad = (value: number, width = 2): string => String(value).padStart(width, '0');
  const time = Number.isNaN(at.getTime())
    ? '-'
    : `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
  const what = Object.keys(data).length > 0 ? ` ${stringifyJson(data)}` : '';
  return `${time} ${paint('event', printable(event))}${what}`;
}
