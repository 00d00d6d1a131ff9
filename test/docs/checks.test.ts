/** The checks of the documents can fail: pages with one mistake each, and what must be read right out of a page. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { testFolder } from '../helpers/bare-process.ts';
import { whyWrong } from './colo-words.ts';
import { isAsShown, parsePage, typedIn } from './markdown.ts';
import { problemsOf } from './problems.ts';
import { requestsIn, whyNoRequest } from './qmp-lines.ts';
import { runPage, whyNoSessions } from './session.ts';
import { simpleCommands } from './shell-words.ts';

const fence = (language: string, ...lines: string[]): string =>
  ['```' + language, ...lines, '```', ''].join('\n');
const problems = (text: string): string[] => problemsOf(parsePage('p.md', text));

describe('a page with a mistake', () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    [fence('sh', 'colo statsu'), /p\.md:1: .*no command 'statsu'/],
    [fence('sh', 'colo status --wach'), /unknown option '--wach'/],
    [fence('sh', 'true && x=$(colo img info --outptu json a)'), /unknown option '--outptu'/],
    [fence('sh', 'until colo hosts --jsno; do sleep 1; done'), /unknown option '--jsno'/],
    [fence('sh', 'colo up'), /<file> is missing/],
    [fence('sh', 'colo down web more'), /too many arguments/],
    [fence('sh', 'colo completion tcsh'), /tcsh/],
    [fence('sh', 'colo vm -machine none -objekt iothread,id=a'), /invalid option/],
    [fence('sh', 'colo vm $WORDS -objekt iothread,id=a'), /colo vm has no -objekt/],
    [fence('sh', 'colo vm -machine none -m 1x'), /1x/],
    [fence('sh', 'colo test units'), /there is no units/],
    ['<!-- not run: two hosts -->\n\n' + fence('sh', 'colo status --wach'), /unknown option '--wach'/],
    ['<!-- run by: test/docs/none.ts -->\n' + fence('sh', 'true'), /there is no test\/docs\/none\.ts/],
    ['<!-- run by: test/docs/worlds.ts -->\n' + fence('sh', 'colo status'), /has no line 'colo status'/],
    ['<!-- run with: moon -->\n' + fence('sh', 'true'), /no 'moon' to run with/],
    [fence('', 'colo status'), /no language of a fence: ''/],
    [fence('bash', 'colo status'), /no language of a fence: 'bash'/],
    [fence('text', 'colo status'), /a line that is typed/],
    [fence('console', 'out', '$ in'), /a console begins with/],
    [fence('yaml', 'name: web', 'imag: x'), /neither a VM's file/],
    [fence('json', '{'), /JSON/],
    [fence('js', 'fly()'), /no file of examples/],
    [fence('text', "{'execute':'query-statsu'}"), /query-statsu has not been found/],
    [fence('sh', `qmp "{'execute':'migrate','arguments':{'ury':'tcp:a:1'}}"`), /ury|uri/],
    ['Type `colo status --wach`.', /`colo status --wach`: .*--wach/],
    ['| `colo fly web` |', /no command 'fly'/],
  ];
  for (const [text, expected] of wrong) {
    it(`is found: ${expected.source}`, () => {
      const [only = '', ...more] = problems(text);
      assert.match(only, expected);
      assert.deepEqual(more, []);
    });
  }
  it('cannot be read at all: no end, no fence below a comment, no reason', () => {
    assert.throws(() => parsePage('p.md', '```sh\ntrue\n'), /p\.md:1: this fence has no end/);
    assert.throws(() => parsePage('p.md', '<!-- not run: x -->\ntext\n'), /no fence below/);
    assert.throws(() => parsePage('p.md', `<!-- not run: -->\n${fence('sh', 'true')}`), /and then why/);
  });
});

describe('a page that is right', () => {
  it('has nothing against it', () => {
    const right = [
      'Names and places to fill in: `colo up FILE`, `colo img`, `colo vm …`, `colo migrate VM HOST`, `colo status [vm]`.',
      fence(
        'sh',
        'colo img create -q -f qcow2 a.qcow2 1G # a comment',
        'echo "$(colo img info a.qcow2)" >colo.log &',
      ),
      fence('sh', "cat >x <<'END'", 'colo fly', 'END', 'colo man --roff | head -n 1'),
      fence('yaml', 'name: a', 'address: 192.0.2.1', 'arbiter: { file: /shared/colo }'),
      fence('yaml', '# not ours: netplan', 'network: {}'),
    ].join('\n');
    assert.deepEqual(problems(right), []);
  });
  it('is taken apart: what is typed, what is shown, what goes in', () => {
    const page = parsePage(
      'p.md',
      `- in a list\n\n  ${fence('console', '  $ colo qmp x \\', '    --json', '  (QMP) help', '  out').trimEnd().replace(/```$/, '  ```')}\n`,
    );
    assert.deepEqual(typedIn(page.fences[0]!), [
      { line: 4, command: 'colo qmp x \\\n  --json\n', input: 'help\n', output: 'out\n' },
    ]);
  });
});

it('words of a shell: quotes, substitutions, redirections, variables before a command', () => {
  assert.deepEqual(simpleCommands(`A=1 b 'c d'"e" f\\ g >h 2>&1 | i; if j; then k "$(l m)"; fi`), [
    ['b', 'c de', 'f g'],
    ['i'],
    ['j'],
    ['l', 'm'],
    ['k', '$(l m)'],
  ]);
});

it('what stands for something else is held against nobody', () => {
  for (const words of [
    'up FILE',
    'migrate <vm> <host>',
    'nbd serve --listen tcp:HOST:PORT $IMAGE',
    'checkpoint …',
  ]) {
    assert.equal(whyWrong(words.split(' ')), null, words);
  }
});

it('requests are found in quotes of a shell, with variables of the page', () => {
  const text = `WHO="'id':'a'"\nqmp "{'execute':'object-del','arguments':{$WHO}}" '{"execute": "stop"}'`;
  const found = requestsIn(text, text);
  assert.deepEqual(found, [`{'execute':'object-del','arguments':{'id':'a'}}`, '{"execute": "stop"}']);
  assert.deepEqual(found.map(whyNoRequest), [null, null]);
});

it('output is as shown, or not', () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ['a … c', 'a b c', true],
    ['a … c', 'a b', false],
    ['…\nlast', 'first\nsecond\nlast\n', true],
    ['first\n…', 'first\n', true],
    ['first\n…\nlast', 'first\nlast', true],
    ['a', 'a\nb', false],
    ['a.c', 'abc', false],
    ['a', '', false],
  ];
  for (const [shown, output, expected] of cases)
    assert.equal(isAsShown(shown, output), expected, JSON.stringify([shown, output]));
});

describe('a page that is run', { skip: whyNoSessions() }, () => {
  const run = (text: string): Promise<number> => runPage(parsePage('p.md', text));
  it('fails where a command fails, or says something else', async () => {
    await assert.rejects(
      run(fence('sh', 'true', 'false', 'echo further')),
      /p\.md:2: failed: false: status 1/,
    );
    await assert.rejects(
      run(fence('console', '$ echo one', 'two')),
      /something else comes out than shown:\ntwo/,
    );
    await assert.rejects(run(fence('sh', 'exit 0')), /has ended the shell/);
    await assert.rejects(
      run(fence('sh', 'colo nbd serve --listen tcp:1:2 none.raw &')),
      /the program has ended/,
    );
  });
  it('keeps its variables, files and programs to itself', async (t) => {
    const elsewhere = await testFolder(t);
    const page = [
      fence('text /etc/colo/here', 'written'),
      fence('sh', 'X=5', 'sleep 1000 &', `test ! -e ${elsewhere}`, 'if false; then true; fi'),
      fence(
        'console',
        '$ echo $X; cat /etc/colo/here; ls -A | grep -v colo; ls /proc | grep -c "^[0-9]*$"',
        '5',
        'written',
        '…',
      ),
    ].join('\n');
    assert.equal(await run(page), 2);
  });
});
