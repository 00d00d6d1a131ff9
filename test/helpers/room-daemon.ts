/** A daemon that has nothing but a machine room: FOLDER start|adopt SPEC. Tells what happens as lines of JSON. */
import { messageOf } from '../../src/base/errors.ts';
import type { VmSpec } from '../../src/ha/spec/vm-spec.ts';
import { roomAt } from './room-rig.ts';

const [folder = '', verb, json = ''] = process.argv.slice(2);
const spec = JSON.parse(json) as VmSpec;
const room = roomAt(folder);
const tell = (what: object): unknown => process.stdout.write(`${JSON.stringify(what)}\n`);
// Nothing else would keep it.
setInterval(() => undefined, 1000);

try {
  const vm = verb === 'start' ? await room.startPrimary(spec, []) : await room.adopt(spec.name);
  vm?.qmp.onEvent(({ event }) => tell({ event }));
  tell({ pid: vm?.pid ?? null, startedAs: vm?.startedAs });
  if (verb === 'start') {
    const backend = { type: 'null', data: {} };
    await vm?.qmp.execute('chardev-add', { id: 'of-the-first-daemon', backend });
  }
  const chardevs = (await vm?.qmp.execute('query-chardev')) as { label: string }[] | undefined;
  tell({ chardevs: chardevs?.map(({ label }) => label) });
  tell({ status: await vm?.qmp.execute('query-status') });
  tell({ exit: await vm?.exited });
} catch (error) {
  tell({ error: messageOf(error) });
}
