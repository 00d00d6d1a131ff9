/**
 * What is wrong with a page before anything of it is run: fences without a way to be run, command lines that our programs
 * would not take, QMP requests that our monitor does not know, files that our readers refuse, ties that are broken.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { messageOf } from '../../src/base/errors.ts';
import { parseNodeFile } from '../../src/ha/spec/node-file.ts';
import { parseVmFile } from '../../src/ha/spec/vm-file.ts';
import { whyWrong } from './colo-words.ts';
import { TOP, typedIn, type Fence, type Page } from './markdown.ts';
import { requestsIn, whyNoRequest } from './qmp-lines.ts';
import { simpleCommands } from './shell-words.ts';
import { WORLDS } from './worlds.ts';

const LANGUAGES = ['sh', 'console', 'text', 'mermaid', 'yaml', 'json', 'ini', 'xml', 'js'];
/** First words of lines that are typed. */
const PROGRAMS =
  /^ *(?:[$#] |(?:sudo )?(?:\.\/)?(?:colo|npm|npx|node|systemctl|curl|socat|ip|bridge|nft|qemu-\w+|virsh|apt-get|mkdir|cp|etcd|etcdctl|openssl) )/m;

export const isTyped = ({ language }: Fence): boolean => language === 'sh' || language === 'console';

/** Lines of `PAGE:LINE: what`. */
export function problemsOf(page: Page): string[] {
  const problems: string[] = [];
  const say = (line: number, what: string): number => problems.push(`${page.name}:${line}: ${what}`);
  for (const world of page.worlds) {
    if (!Object.hasOwn(WORLDS, world))
      say(1, `there is no '${world}' to run with; known are ${Object.keys(WORLDS).join(', ')}`);
  }
  const assignments = page.fences
    .filter(isTyped)
    .map(({ text }) => text)
    .join('');
  for (const fence of page.fences) {
    const tell = (what: string): number => say(fence.line, what);
    if (!LANGUAGES.includes(fence.language))
      tell(`no language of a fence: '${fence.language}'; known are ${LANGUAGES.join(', ')}`);
    if (!isTyped(fence) && fence.way.kind !== 'run') tell(`'${fence.language}' is not run anyway`);
    for (const request of requestsIn(fence.text, assignments)) {
      const why = whyNoRequest(request);
      if (why !== null) tell(`${why}: ${request}`);
    }
    const why = isTyped(fence) ? whyNotTyped(fence) : whyNoFile(fence);
    if (why !== null) tell(why);
  }
  for (const { line, text } of page.spans) {
    const [, rest] = /^(?:\.\/)?colo (.*)$/.exec(text) ?? [];
    // Messages begin with our name, too: of QEMU's comparer, and of errors (`colo img: …`).
    if (rest === undefined || /^(?:compare needs|send primary|\S+:(?: |$))/.test(rest)) continue;
    for (const words of simpleCommands(
      `colo ${rest.replace(/\[([^\]]*)\]/g, '$1').replace(/<[^>]*>/g, 'PLACE_HOLDER')}`,
    )) {
      const wrong = words[0] === 'colo' ? whyWrong(words.slice(1), false) : null;
      if (wrong !== null) say(line, `\`${text}\`: ${wrong}`);
    }
  }
  return problems;
}

function whyNotTyped(fence: Fence): string | null {
  try {
    for (const { command } of typedIn(fence)) {
      for (const words of simpleCommands(command)) {
        if (!/^(?:\.\/)?colo$/.test(words[0] ?? '')) continue;
        const wrong = whyWrong(words.slice(1));
        if (wrong !== null) return `${words.join(' ').slice(0, 80)}: ${wrong}`;
      }
    }
    return fence.way.kind === 'run-by' ? whyNotTied(fence, fence.way.file) : null;
  } catch (error) {
    return messageOf(error);
  }
}

const folded = (text: string): string => text.replace(/\\\n/g, ' ').replace(/\s+/g, ' ').trim();

/** Each line that is typed stands in the test that types it. */
function whyNotTied(fence: Fence, file: string): string | null {
  if (!existsSync(path.join(TOP, file))) return `there is no ${file}`;
  const there = folded(readFileSync(path.join(TOP, file), 'utf8'));
  for (const { command } of typedIn(fence)) {
    for (const line of command.replace(/\\\n/g, ' ').split('\n')) {
      const typed = folded(line.replace(/(^|\s)#\s.*$/, ''));
      if (typed !== '' && !there.includes(typed)) return `${file} has no line '${typed}'`;
    }
  }
  return null;
}

const AROUND = {
  ...{ hostname: 'a', isRoot: true, uid: 0, home: '/root', temporary: '/tmp', env: {} },
  memoryBytes: 64 * 2 ** 30,
};

function whyNoFile({ language, text }: Fence): string | null {
  if (language === 'text') return PROGRAMS.test(text) ? 'a line that is typed: use sh or console' : null;
  if (language === 'js') return examples().includes(text) ? null : 'no file of examples/';
  if (language === 'json') {
    try {
      JSON.parse(text);
      return null;
    } catch (error) {
      return messageOf(error);
    }
  }
  if (language !== 'yaml' || text.startsWith('# not ours:')) return null;
  const asVm = saidOf(() => parseVmFile(text, { file: 'vm.yaml', folder: '/here' }));
  const asNode = saidOf(() =>
    parseNodeFile(text, { file: 'node.yaml', folder: '/here', surroundings: AROUND }),
  );
  return asVm !== null && asNode !== null ? `neither a VM's file (${asVm}) nor a node's (${asNode})` : null;
}

function saidOf(read: () => unknown): string | null {
  try {
    read();
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

const examples = (): string[] =>
  readdirSync(path.join(TOP, 'examples')).map((name) =>
    readFileSync(path.join(TOP, 'examples', name), 'utf8'),
  );
