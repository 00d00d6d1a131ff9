/** docs/cli.md, docs/api.md and docs/metrics.md, the completions and the manual page are those of the program. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { WIRE_ERROR_CLASSES } from '../../../src/api/errors.ts';
import { METRICS_ROUTES } from '../../../src/api/metrics-server.ts';
import { NodeMetrics } from '../../../src/api/metrics.ts';
import { NODE_ROUTES, PEER_ROUTES, UPGRADE_ROUTES } from '../../../src/api/routes.ts';
import { EXIT_CODES, OWN_EXIT_CODES } from '../../../src/cli/exit-codes.ts';
import { completionFor, SHELLS } from '../../../src/cli/completion.ts';
import { plainPage, roffPage } from '../../../src/cli/man.ts';
import { createProgram } from '../../../src/cli/program.ts';
import { everyCommand, treeOf, type CommandNode } from '../../../src/cli/tree.ts';

const page = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../docs/${name}`, import.meta.url)), 'utf8');

let tree: CommandNode;
before(async () => {
  tree = treeOf(await createProgram());
});

/** Of the commands that ask a node. */
const COMMON = ['--node', '--tls-certificates', '--json', '--no-color'];
/** `colo qmp` has it in its row: there it means more. */
const isGlobal = (command: string, long: string): boolean => long === '--verbose' && command !== 'qmp';

test('docs/cli.md has every command of a cluster with its options, and no other', () => {
  const told = [...page('cli.md').matchAll(/^\| `colo ([^`]+)` +\| .* \| ([^|]*?) +\|$/gm)].map(
    ([, name = '', options = '']) => [name, [...options.matchAll(/`(--[\w-]+)`/g)].map((match) => match[1]!)],
  );
  const there = tree.commands
    .filter(({ path: name, options }) => {
      return options.some(({ long }) => long === '--node') || name === 'completion' || name === 'man';
    })
    .map(({ path: name, arguments: args, options }) => {
      const words = args.map((argument) =>
        argument.isRequired ? `<${argument.name}>` : `[${argument.name}${argument.isVariadic ? '...' : ''}]`,
      );
      const own = options
        .map(({ long }) => long ?? '')
        .filter((long) => ![...COMMON, '--help'].includes(long) && !isGlobal(name, long));
      return [[name, ...words].join(' '), own];
    });
  const sorted = (rows: unknown[][]): unknown[][] =>
    rows.map(([name, options]) => [name, [...(options as string[])].sort()]).sort();
  assert.deepEqual(sorted(told), sorted(there));
  for (const long of COMMON) assert.match(page('cli.md'), new RegExp(`^\\| \`${long}[ \`]`, 'm'));
});

test('docs/cli.md has the exit codes as the program has them', () => {
  const section = page('cli.md').split('## Exit codes')[1] ?? '';
  const told = [...section.matchAll(/^\| (\d+) +\| (.*?) +\|$/gm)].map(([, code, text]) => [
    Number(code),
    text,
  ]);
  assert.deepEqual(
    told,
    EXIT_CODES.map((row) => [...row]),
  );
});

test('docs/errors.md has the exit codes of the commands that have their own', () => {
  const section = page('errors.md').split('## Exit codes')[1] ?? '';
  const told: Record<string, number[]> = {};
  let last = '';
  for (const [, name = '', codes = ''] of section.matchAll(/^\| (?:`(colo[^`]*)`)? +\| ([\d, ]+?) +\|/gm)) {
    last = name || last;
    told[last] = [...(told[last] ?? []), ...codes.split(', ').map(Number)];
  }
  assert.deepEqual(told, OWN_EXIT_CODES);
});

test('docs/api.md has every route and every class of error, and no other', () => {
  const text = page('api.md');
  const told = [...text.matchAll(/^\| `(GET|POST|PUT) (\S+)` /gm)].map(
    ([, method, route]) => `${method} ${route}`,
  );
  const there = [...NODE_ROUTES, ...UPGRADE_ROUTES, ...PEER_ROUTES].map(
    ({ method, path: at }) => `${method} ${at}`,
  );
  assert.deepEqual(told.toSorted(), there.toSorted());
  for (const name of WIRE_ERROR_CLASSES) assert.ok(text.includes(`\`${name}\``), name);
});

test('docs/metrics.md has every metric with its type and labels, and no other', async () => {
  const text = page('metrics.md');
  const told = [...text.matchAll(/^\| `(colo_\w+)` +\| (\w+) +\| (.*?) +\|/gm)].map(
    ([, name, type, labels = '']) => [
      name,
      type,
      [...labels.matchAll(/`(\w+)`/g)].map((match) => match[1]!).join(),
    ],
  );
  const { registry } = new NodeMetrics({ vms: () => [], host: () => null }, { isProcessTold: false });
  const there = (await registry.getMetricsAsJSON()).map(({ name, type }) => {
    const { labelNames } = registry.getSingleMetric(name) as unknown as { labelNames: string[] };
    return [name, String(type), labelNames.join()];
  });
  assert.deepEqual(told.toSorted(), there.toSorted());
  for (const route of METRICS_ROUTES) assert.ok(text.includes(`| \`${route}\``), route);
});

test('every example of the manual page is a command line that the program has', () => {
  let examples = 0;
  for (const command of everyCommand(tree)) {
    for (const example of command.examples) {
      examples++;
      const words = example.split(' ');
      assert.deepEqual(words.slice(0, 2), ['colo', command.path], example);
      for (const word of words.filter((candidate) => candidate.startsWith('--'))) {
        assert.ok(
          command.options.some(({ long }) => long === word),
          example,
        );
      }
    }
  }
  assert.ok(examples > 15, `${examples} examples`);
});

test('the manual page has every command and option, plain and for man', async () => {
  const plain = plainPage(tree);
  for (const { path: name, options } of everyCommand(tree).filter(({ path: name }) => name !== '')) {
    assert.ok(plain.includes(`\n       colo ${name}`), name);
    for (const { long } of options) {
      if (long !== '--help') assert.ok(plain.includes(long ?? ''), `${name} ${long ?? ''}`);
    }
  }
  assert.ok(plain.split('\n').every((line) => line.length <= 100));
  const folder = await mkdtemp(path.join(tmpdir(), 'man-'));
  await writeFile(path.join(folder, 'colo.1'), roffPage(tree, '1.2.3'));
  const shown = execFileSync('man', ['-l', '--warnings', path.join(folder, 'colo.1')], {
    env: { ...process.env, MANWIDTH: '80', LC_ALL: 'C.UTF-8' },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  await rm(folder, { recursive: true });
  const flat = shown.replace(/.\x08/g, '').replaceAll('‐', '-').replace(/\s+/g, ' ');
  for (const words of [
    'colo 1.2.3',
    'colo down [OPTIONS] VM',
    '--tls-certificates DIR',
    '6 The connection broke',
  ]) {
    assert.ok(flat.includes(words), `${words} is not in ${flat.slice(0, 300)}`);
  }
});

/** What bash offers for a line that is being typed; `colo` is a function that answers for the node. */
function bashOffers(line: string): string[] {
  const words = line.split(' ');
  const script = `${completionFor('bash', tree)}
colo() { [[ "$*" == 'status --names' ]] && echo web1 web2; [[ "$*" == 'hosts --names' ]] && echo alpha; }
COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')})
COMP_CWORD=${words.length - 1}
_colo
printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['--norc', '-c', script], { encoding: 'utf8' })
    .split('\n')
    .filter(Boolean)
    .sort();
}

test('bash completes commands, options, their values, VMs and hosts', () => {
  assert.deepEqual(bashOffers('colo st'), ['status']);
  assert.deepEqual(bashOffers('colo re'), ['resume']);
  assert.deepEqual(bashOffers('colo failover '), ['web1', 'web2']);
  assert.deepEqual(bashOffers('colo migrate web1 '), ['alpha']);
  assert.deepEqual(bashOffers('colo drain a'), ['alpha']);
  assert.deepEqual(bashOffers('colo events --vm web'), ['web1', 'web2']);
  assert.deepEqual(bashOffers('colo down --p'), ['--purge']);
  assert.deepEqual(bashOffers('colo img cr'), ['create']);
  assert.deepEqual(bashOffers('colo demo --engine '), ['qemu', 'v86']);
  assert.deepEqual(bashOffers('colo completion f'), ['fish']);
  assert.deepEqual(bashOffers('colo logs --lines '), []);
  const all = tree.commands.map(({ path: name }) => name).sort();
  assert.deepEqual(bashOffers('colo '), all);
});

test('fish completes them too', () => {
  const offers = (line: string): string[] => {
    const script = `${completionFor('fish', tree)}
function colo
    test "$argv" = 'status --names'; and printf 'web1\\nweb2\\n'
    test "$argv" = 'hosts --names'; and echo alpha
end
complete -C '${line}'`;
    return execFileSync('fish', ['--no-config', '-c', script], { encoding: 'utf8' })
      .split('\n')
      .filter(Boolean)
      .map((offer) => offer.split('\t')[0]!)
      .sort();
  };
  assert.deepEqual(offers('colo st'), ['status']);
  assert.deepEqual(offers('colo failover '), ['web1', 'web2']);
  assert.deepEqual(offers('colo events --vm '), ['web1', 'web2']);
  assert.deepEqual(offers('colo down --p'), ['--purge']);
  assert.deepEqual(offers('colo img cre'), ['create']);
  assert.deepEqual(offers('colo demo --engine '), ['qemu', 'v86']);
});

test('zsh takes its script, and every script names every option', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'zsh-'));
  await writeFile(path.join(folder, '_colo'), completionFor('zsh', tree));
  // Loaded as a completion, by compinit; then its functions are there.
  const script = `fpath=(${folder} $fpath); autoload -Uz compinit; compinit -u -D; autoload +X _colo && _colo 2>/dev/null; print $+functions[_colo_img_create]$+functions[_colo_vms]$_comps[colo]`;
  const said = execFileSync('zsh', ['-f', '-c', script], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  await rm(folder, { recursive: true });
  assert.equal(said.trim(), '11_colo');
  for (const shell of SHELLS) {
    const text = completionFor(shell, tree);
    for (const { long } of everyCommand(tree).flatMap(({ options }) => options)) {
      assert.ok(
        text.includes(shell === 'fish' ? (long ?? '').slice(2) : (long ?? '')),
        `${shell}: ${long ?? ''}`,
      );
    }
  }
});
