/** Every property of every network filter, right and wrong: the same lines to our program and to QEMU 7.2. */
import { test } from 'node:test';
import { execute, unixServer } from '../../helpers/bare-process.ts';
import { compareScript } from '../../helpers/same-script.ts';
import type { ScriptLine } from '../../helpers/same-script.ts';

const add = (type: string, more: object): string =>
  execute('object-add', { 'qom-type': `filter-${type}`, id: 'f', netdev: 'hn0', ...more });
const get = (property: string): string => execute('qom-get', { path: '/objects/f', property });
const set = (property: string, value: unknown): string =>
  execute('qom-set', { path: '/objects/f', property, value });
const list = execute('qom-list', { path: '/objects/f' });
const del = execute('object-del', { id: 'f' });

const ofAll = ['type', 'netdev', 'queue', 'status', 'position', 'insert', 'nope'].map(get);
const IN_USE = 'the text of later QEMUs';
const NO_EFFECT = 'QEMU takes it and does nothing with it';

const LINES: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  ...['a', 'b', 'c'].map((id) => execute('chardev-add', { id, backend: unixServer(id) })),
  // What all have.
  add('mirror', { outdev: 'a', netdev: '' }),
  add('mirror', { outdev: 'a', netdev: 5 }),
  add('mirror', { outdev: 'a', netdev: 'zz' }),
  add('mirror', { outdev: 'a', queue: '' }),
  add('mirror', { outdev: 'a', queue: 5 }),
  add('mirror', { outdev: 'a', status: '' }),
  add('mirror', { outdev: 'a', status: true }),
  add('mirror', { outdev: 'a', position: '' }),
  add('mirror', { outdev: 'a', position: 'id=' }),
  add('mirror', { outdev: 'a', position: 'id=f' }),
  add('mirror', { outdev: 'a', insert: '' }),
  add('mirror', { outdev: 'a', nope: 1 }),
  execute('object-add', {
    'qom-type': 'filter-mirror',
    id: 'other',
    netdev: 'hn1',
    outdev: 'c',
    position: 'head',
    insert: 'before',
  }),
  execute('qom-get', { path: '/objects/other', property: 'position' }),
  execute('qom-get', { path: '/objects/other', property: 'insert' }),
  add('mirror', { outdev: 'a', position: 'id=other' }),
  add('mirror', { outdev: 'a', position: 'other' }),
  // A mirror.
  add('mirror', {}),
  add('mirror', { outdev: '' }),
  add('mirror', { outdev: 5 }),
  add('mirror', { outdev: 'zz' }),
  [add('mirror', { outdev: 'c' }), IN_USE],
  add('mirror', { outdev: 'a', vnet_hdr_support: 'on' }),
  add('mirror', { outdev: 'a', vnet_hdr_support: 1 }),
  add('mirror', { outdev: 'a', vnet_hdr_support: true, queue: 'tx', status: 'off' }),
  list,
  ...ofAll,
  get('outdev'),
  get('vnet_hdr_support'),
  set('status', 5),
  set('status', 'on'),
  get('status'),
  set('queue', 'zz'),
  set('queue', 5),
  set('queue', 'rx'),
  get('queue'),
  [set('insert', 'zz'), NO_EFFECT],
  [set('insert', 'before'), NO_EFFECT],
  [set('position', 'head'), NO_EFFECT],
  [set('netdev', 'hn1'), NO_EFFECT],
  [set('outdev', 'b'), NO_EFFECT],
  [set('vnet_hdr_support', false), 'QEMU changes the framing in the middle of a stream'],
  set('nope', 1),
  execute('chardev-remove', { id: 'a' }),
  del,
  // A redirector.
  add('redirector', {}),
  add('redirector', { indev: '', outdev: '' }),
  add('redirector', { indev: 'a', outdev: 'a' }),
  add('redirector', { indev: 'zz', outdev: 'a' }),
  add('redirector', { indev: 'a', outdev: 'zz' }),
  add('redirector', { indev: 5 }),
  [add('redirector', { indev: 'a', outdev: 'c' }), IN_USE],
  [add('redirector', { indev: 'c', outdev: 'a' }), IN_USE],
  add('redirector', { indev: 'a', outdev: 'b' }),
  list,
  ...ofAll,
  get('indev'),
  get('outdev'),
  get('vnet_hdr_support'),
  del,
  add('redirector', { outdev: 'a' }),
  get('indev'),
  del,
  add('redirector', { indev: 'a' }),
  get('outdev'),
  del,
  // A rewriter.
  add('rewriter', { vnet_hdr_support: 'off' }),
  add('rewriter', {}),
  list,
  ...ofAll,
  get('vnet_hdr_support'),
  del,
  // A buffer.
  add('buffer', {}),
  add('buffer', { interval: 0 }),
  add('buffer', { interval: -1 }),
  add('buffer', { interval: 'x' }),
  add('buffer', { interval: '5' }),
  add('buffer', { interval: 1.5 }),
  add('buffer', { interval: 0x1_0000_0000 }),
  add('buffer', { interval: 1000 }),
  list,
  ...ofAll,
  get('interval'),
  set('interval', 0),
  set('interval', -1),
  set('interval', 'x'),
  set('interval', 5),
  get('interval'),
  del,
  // A dump. A file that cannot be made makes QEMU 7.2 close its standard input, which is nothing here.
  add('dump', {}),
  add('dump', { file: '' }),
  add('dump', { file: 'DIR' }),
  add('dump', { file: 'DIR/none/x' }),
  add('dump', { file: 'DIR/x', maxlen: 0 }),
  add('dump', { file: 'DIR/x', maxlen: -1 }),
  add('dump', { file: 'DIR/x', maxlen: 'x' }),
  add('dump', { file: 'DIR/x', maxlen: 0x1_0000_0000 }),
  add('dump', { file: 'DIR/x' }),
  list,
  ...ofAll,
  get('file'),
  get('maxlen'),
  [set('maxlen', 0), NO_EFFECT],
  [set('maxlen', 5), NO_EFFECT],
  [set('file', 'y'), NO_EFFECT],
  del,
  execute('object-del', { id: 'other' }),
  ...['a', 'b', 'c'].map((id) => execute('chardev-remove', { id })),
  execute('quit'),
];

test('filters as in QEMU', (t) =>
  compareScript(t, {
    line: '-netdev hubport,id=hn0,hubid=0 -netdev hubport,id=hn1,hubid=0',
    lines: LINES,
    atLeast: { good: 50, bad: 50 },
  }));
