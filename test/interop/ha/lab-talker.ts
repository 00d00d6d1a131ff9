/**
 * For the test of the lab: a process in a namespace that sends numbered datagrams and says which it hears. A program of
 * its own text, as one of these starts in a tenth of the time that a TypeScript one takes.
 *
 * Its standard input: `send ADDRESS COUNT BYTES [MARKER]`; it says `sent`. At the other end it says `heard COUNT in order`
 * (or `out of order`) once all COUNT are there, or what was sent to the address MARKER after them is.
 */
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { withDeadline } from '../../../src/base/async.ts';
import type { Lab } from '../../helpers/netns.ts';

const STEP_MS = 60_000;

const PROGRAM = `
  const socket = require('dgram').createSocket('udp4');
  let heard = [];
  const report = () => {
    const isInOrder = heard.every((value, index) => index === 0 || heard[index - 1] < value);
    console.log('heard ' + heard.length + (isInOrder ? ' in order' : ' out of order'));
    heard = [];
  };
  socket.on('message', (message) => {
    const [number, count] = message.toString().trim().split(' ');
    if (number !== 'marker') heard.push(Number(number));
    if (number === 'marker' || heard.length === Number(count)) report();
  });
  socket.bind(9000, () => console.log('ready'));
  const send = (text, address) => new Promise((done) => socket.send(text, 9000, address, done));
  require('readline').createInterface({ input: process.stdin }).on('line', async (line) => {
    const [, address, count, bytes, marker] = line.split(' ');
    // With a marker, a count that is never reached: it is the marker that ends them.
    for (let number = 1; number <= Number(count); number++)
      await send((number + ' ' + (marker === undefined ? count : -1)).padEnd(Number(bytes)), address);
    if (marker !== undefined) await send('marker', marker);
    console.log('sent');
  }).on('close', () => process.exit());`;

export class Talker {
  readonly #lines: Interface;
  readonly #say: (line: string) => void;

  private constructor(lines: Interface, say: (line: string) => void) {
    this.#lines = lines;
    this.#say = say;
  }

  static async start(lab: Lab, member: string): Promise<Talker> {
    const child = lab.spawn(member, process.execPath, ['-e', PROGRAM], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: child.stdout! });
    const talker = new Talker(lines, (line) => child.stdin!.write(`${line}\n`));
    await talker.line();
    return talker;
  }

  /** The next that it says. */
  async line(): Promise<string> {
    const [line] = (await withDeadline(once(this.#lines, 'line'), STEP_MS, 'a line')) as [string];
    return line;
  }

  async send(address: string, count: number, bytes: number, marker = ''): Promise<void> {
    const sent = this.line();
    this.#say(`send ${address} ${count} ${bytes} ${marker}`.trim());
    await sent;
  }
}
