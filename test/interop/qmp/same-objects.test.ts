/** Filters, the comparer and properties: the same lines to our program and to QEMU 7.2. */
import { test } from 'node:test';
import { execute, unixServer } from '../../helpers/bare-process.ts';
import { compareScript } from '../../helpers/same-script.ts';
import type { ScriptLine } from '../../helpers/same-script.ts';

const compare = {
  'qom-type': 'colo-compare',
  id: 'comp0',
  primary_in: 'p',
  secondary_in: 's',
  outdev: 'o',
  iothread: 'io',
};
const mirror = { 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0', outdev: 'm' };
const redirector = { 'qom-type': 'filter-redirector', id: 'r0', netdev: 'hn0' };

const LINES: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  ...['p', 's', 'o', 'm', 'n'].map((id) => execute('chardev-add', { id, backend: unixServer(id) })),
  // Objects. A comparer that cannot be made kills QEMU 7.2 (an assertion), so that its refusals are not asked here.
  execute('object-add'),
  execute('object-add', { 'qom-type': 'iothread' }),
  execute('object-add', { 'qom-type': 'nosuch', id: 'x' }),
  execute('object-add', { 'qom-type': 5, id: 'x' }),
  execute('object-add', { 'qom-type': 'iothread', id: '1x' }),
  execute('object-add', { 'qom-type': 'iothread', id: 'x', foo: 1 }),
  execute('object-add', { 'qom-type': 'iothread', id: 'io' }),
  execute('object-add', { 'qom-type': 'iothread', id: 'io' }),
  execute('object-add', { ...mirror, netdev: 'nope' }),
  execute('object-add', { ...mirror, queue: 'zig' }),
  execute('object-add', { ...mirror, outdev: 'nope' }),
  execute('object-add', { ...mirror, status: 'zig' }),
  execute('object-add', { ...mirror, position: 'zig' }),
  execute('object-add', { ...mirror, position: 'id=zz' }),
  execute('object-add', { ...mirror, insert: 'after' }),
  execute('object-add', { 'qom-type': 'filter-mirror', id: 'm0', netdev: 'hn0' }),
  execute('object-add', { 'qom-type': 'filter-mirror', id: 'm0', outdev: 'm' }),
  execute('object-add', mirror),
  execute('object-add', mirror),
  execute('object-add', redirector),
  execute('object-add', { ...redirector, indev: 'o', outdev: 'o' }),
  execute('object-add', { ...redirector, indev: 'zz' }),
  execute('object-add', { 'qom-type': 'filter-rewriter', id: 'rew0', netdev: 'hn0' }),
  [
    execute('object-add', { 'qom-type': 'filter-mirror', id: 'm1', props: { netdev: 'hn0', outdev: 'n' } }),
    'the nested form of QEMU 5 and older, which the COLO guide has, is still understood',
  ],
  execute('object-add', { 'qom-type': 'colo-compare', id: 'comp0' }),
  execute('object-add', compare),
  execute('chardev-remove', { id: 'p' }),
  execute('qom-get', { path: '/objects/comp0', property: 'compare_timeout' }),
  execute('qom-get', { path: '/objects/comp0', property: 'iothread' }),
  execute('qom-get', { path: '/objects/comp0', property: 'nope' }),
  execute('qom-get', { path: '/objects/zz', property: 'x' }),
  execute('qom-get', { path: '/objects/comp0', property: 'type' }),
  execute('qom-set', { path: '/objects/comp0', property: 'compare_timeout', value: 0 }),
  execute('qom-set', { path: '/objects/comp0', property: 'compare_timeout', value: 500 }),
  execute('qom-get', { path: '/objects/comp0', property: 'compare_timeout' }),
  execute('qom-set', { path: '/objects/comp0', property: 'nope', value: 1 }),
  execute('qom-set', { path: '/objects/m0', property: 'status', value: 'zig' }),
  execute('qom-set', { path: '/objects/m0', property: 'status', value: 'off' }),
  execute('qom-list', { path: '/objects/comp0' }),
  execute('qom-list', { path: '/objects/zz' }),
  [execute('qom-list', { path: '/' }), 'there is no machine object'],
  execute('object-del', { id: 'zz' }),
  execute('object-del', { id: 'comp0' }),
  execute('object-del', { id: 'io' }),
  execute('object-del', { id: 'm0' }),
  execute('object-del', { id: 'rew0' }),
  execute('chardev-remove', { id: 'p' }),
  execute('set_link', { name: 'zz', up: true }),
  execute('announce-self'),
  execute('announce-self', { initial: 50, max: 550, rounds: 5, step: 50 }),
  execute('announce-self', { initial: 50, max: 550, rounds: 5, step: 50, interfaces: ['e0'], id: 'x' }),
  execute('announce-self', { initial: 50, max: 550, rounds: 5, step: 50, interfaces: 'e0' }),
  [
    execute('announce-self', { initial: 50, max: 550, rounds: -1, step: 50 }),
    "QEMU takes any number; here they are bounded as a migration's are",
  ],
  execute('quit'),
];

test('objects as in QEMU', (t) =>
  compareScript(t, {
    line: '-netdev hubport,id=hn0,hubid=0',
    lines: LINES,
    atLeast: { good: 20, bad: 25 },
  }));
