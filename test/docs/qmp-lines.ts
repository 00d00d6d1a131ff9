/**
 * QMP requests in fences, as lines or as words of a shell, run or not: each is read as a monitor reads it and held against
 * the schema of its command. Shell variables are put in where the page says what is in them.
 */
import { messageOf } from '../../src/base/errors.ts';
import { commands } from '../../src/monitor/commands/index.ts';
import { parseArguments } from '../../src/monitor/registry.ts';
import { JsonStream, type JsonValue } from '../../src/qmp/json-stream.ts';
import { parseRequest } from '../../src/qmp/request.ts';

/** The requests of a text, with the variables of `assignments` (any shell text of the page) in their places. */
export function requestsIn(text: string, assignments = ''): string[] {
  const values = new Map(
    [...assignments.matchAll(/^ *(\w+)="((?:[^"\\]|\\.)*)"/gm)].map(([, name = '', value = '']) => [
      name,
      value,
    ]),
  );
  const known = text.replace(/\$(\w+)/g, (whole, name: string) => values.get(name) ?? whole);
  return [...known.matchAll(/\{ *['"]execute['"]/g)].map(({ index }) =>
    known.slice(index, endOf(known, index)),
  );
}

function endOf(text: string, start: number): number {
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    if (text[at] === '{') depth++;
    if (text[at] === '}' && --depth === 0) return at + 1;
  }
  return text.length;
}

/** What is wrong with a request; null: nothing. */
export function whyNoRequest(request: string): string | null {
  try {
    // A variable that is no string stands for a value of any type.
    const { command, args } = parseRequest(parse(request.replace(/([:[,] *)\$\w+/g, '$1true')), false);
    if (command === 'qmp_capabilities') return null;
    const schema = commands.argumentsOf(command);
    if (!schema) return `The command ${command} has not been found`;
    parseArguments(schema, args);
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

function parse(text: string): JsonValue {
  const messages: JsonValue[] = [];
  const errors: string[] = [];
  const stream = new JsonStream({
    onMessage: (value) => messages.push(value),
    onError: (why) => errors.push(why),
  });
  stream.push(Buffer.from(text));
  stream.end();
  const [message] = messages;
  if (errors[0] !== undefined || message === undefined)
    throw new Error(errors[0] ?? `no whole message: ${text}`);
  return message;
}
