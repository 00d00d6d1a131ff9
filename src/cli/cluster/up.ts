/** `colo up FILE` and `colo check FILE`: a VM from its description, or every reason why it could not be. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { NodeClient } from '../../api/http-client.ts';
import { readVmFile } from '../../ha/spec/vm-file.ts';
import type { VmSpec } from '../../ha/spec/vm-spec.ts';
import type { Finding, VmState, VmView } from '../../ha/views.ts';
import { tellFailure } from '../failure.ts';
import { oneLine } from './act.ts';
import { askNode, nodeCommand, printJson, printLine, type NodeOptions } from './connection.ts';
import { printable } from './text.ts';
import { LOOK_MS, ResyncBar } from './waiting.ts';

interface UpOptions extends NodeOptions {
  readonly wait?: boolean;
}

export function registerUp(program: Command): void {
  nodeCommand(program, 'up <file>', 'start a VM by its description and keep it protected; or change one')
    .option('--wait', 'until it is protected, or cannot be')
    .action(async (file: string, options: UpOptions) => {
      await withFile('up', file, options, async (node, spec) => {
        let vm = await node.up(spec);
        const bar = new ResyncBar();
        const tell = (): void => {
          bar.clear();
          if (!options.json) printLine(oneLine(vm));
        };
        tell();
        try {
          while (options.wait && !isSettled(vm)) {
            await delay(LOOK_MS);
            const next = await node.vm(spec.name);
            const isNews = next.state !== vm.state || next.reason !== vm.reason;
            vm = next;
            if (isNews) tell();
            bar.show(vm);
          }
        } finally {
          bar.clear();
        }
        if (options.json) printJson(vm);
        return options.wait && vm.state !== 'protected' ? 1 : 0;
      });
    });
  nodeCommand(
    program,
    'check <file>',
    'every reason why a VM could not be started or protected; touches nothing',
  ).action(async (file: string, options: NodeOptions) => {
    await withFile('check', file, options, async (node, spec) => {
      const findings = await node.check(spec);
      if (options.json) printJson(findings);
      else for (const finding of findings) printLine(findingLine(file, finding));
      const errors = findings.filter(({ severity }) => severity === 'error').length;
      if (!options.json && errors === 0) printLine(`${spec.name}: can be protected`);
      return errors > 0 ? 1 : 0;
    });
  });
}

/** Reads the file before anybody is asked. */
async function withFile(
  name: string,
  file: string,
  options: NodeOptions,
  ask: (node: NodeClient, spec: VmSpec) => Promise<0 | 1>,
): Promise<void> {
  let spec: VmSpec;
  try {
    spec = await readVmFile(file);
  } catch (error) {
    tellFailure(name, error);
    return;
  }
  await askNode(name, options, (node) => ask(node, spec));
}

const SETTLED: ReadonlySet<VmState> = new Set(['protected', 'blocked']);

/** Down and wanted: its home has not looked yet. */
function isSettled({ state, isWanted }: VmView): boolean {
  return SETTLED.has(state) || (state === 'down' && !isWanted);
}

/** `vm.yaml: error on beta: disks[0].image: there is no such file`. */
export function findingLine(file: string, { severity, host, path, message }: Finding): string {
  const where = host === null ? '' : ` on ${host}`;
  return printable(`${file}: ${severity}${where}: ${path === '' ? '' : `${path}: `}${message}`);
}
