/**
 * The simple commands of a shell text, as words: enough of the grammar of bash to find every `colo …` that a reader would
 * type, in loops, functions, pipes and substitutions too. Words are as the shell would hand them over, but for what only
 * a running shell knows: variables and substitutions stay as they stand.
 */

/** Before the word that names a program. */
const BEFORE_COMMAND = new Set([
  'until',
  'while',
  'if',
  'then',
  'do',
  'else',
  'elif',
  '!',
  '{',
  '}',
  'time',
  'sudo',
  'exec',
  'fi',
  'done',
]);

/** Throws Error for a quote without an end. */
export function simpleCommands(text: string): string[][] {
  const found: string[][] = [];
  read(text.replace(/\\\n/g, ' '), found);
  return found;
}

function read(text: string, found: string[][]): void {
  let words: string[] = [];
  let word: string | null = null;
  const endWord = (): void => {
    if (word !== null) words.push(word);
    word = null;
  };
  const endCommand = (): void => {
    endWord();
    while (words[0] !== undefined && (BEFORE_COMMAND.has(words[0]) || /^\w+=/.test(words[0]))) words.shift();
    if (words.length > 0) found.push(words);
    words = [];
  };
  let heredoc: string | null = null;
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!;
    if (char === "'" || char === '"') {
      const end = closing(text, at);
      const inside = text.slice(at + 1, end);
      if (char === '"') inner(inside, found);
      word = (word ?? '') + (char === '"' ? inside.replace(/\\(["\\$`])/g, '$1') : inside);
      at = end;
    } else if (char === '\\') {
      word = (word ?? '') + (text[++at] ?? '');
    } else if (text.startsWith('$(', at)) {
      const end = closing(text, at + 1);
      read(text.slice(at + 2, end), found);
      word = (word ?? '') + text.slice(at, end + 1);
      at = end;
    } else if (char === '#' && word === null) {
      while (at + 1 < text.length && text[at + 1] !== '\n') at++;
    } else if (text.startsWith('<<', at) && text[at + 2] !== '<') {
      heredoc = /^<<-?\s*['"]?(\w+)/.exec(text.slice(at))?.[1] ?? null;
      endWord();
      at = text.slice(at).search(/[\n;|&]|$/) + at - 1;
    } else if (char === '>' || char === '<') {
      // A redirection: what goes where is no word of the command.
      if (word !== null && /^[\d&]*$/.test(word)) word = null;
      endWord();
      const rest = /^[<>]+&?\s*(?:"[^"]*"|'[^']*'|[^\s;|&()])*/.exec(text.slice(at))?.[0] ?? char;
      at += rest.length - 1;
    } else if (char === '&' && text[at + 1] === '>') {
      endWord();
    } else if (/[;|&\n()]/.test(char)) {
      endCommand();
      if (char !== '\n' || heredoc === null) continue;
      const end = new RegExp(`^\\s*${heredoc}$`, 'm').exec(text.slice(at + 1));
      at = end ? at + 1 + end.index + end[0].length : text.length;
      heredoc = null;
    } else if (/\s/.test(char)) endWord();
    else word = (word ?? '') + char;
  }
  endCommand();
}

/** Substitutions in double quotes are commands, too. */
function inner(text: string, found: string[][]): void {
  for (let at = text.indexOf('$('); at !== -1; at = text.indexOf('$(', at + 1)) {
    read(text.slice(at + 2, closing(text, at + 1)), found);
  }
}

/** Where what begins at `start` with a quote or a bracket ends. */
function closing(text: string, start: number): number {
  const open = text[start]!;
  let depth = 0;
  for (let at = start + 1; at < text.length; at++) {
    const char = text[at]!;
    if (char === '\\' && open !== "'") at++;
    else if (open !== '(' && char === open && depth === 0) return at;
    else if (open === '(' && (char === "'" || char === '"')) at = closing(text, at);
    else if (open !== "'" && char === '(' && (open === '(' || text[at - 1] === '$')) depth++;
    else if (char === ')' && open === '(' && depth === 0) return at;
    else if (char === ')' && depth > 0) depth--;
  }
  throw new Error(`no end of ${open} in: ${text.slice(start, start + 60)}`);
}
