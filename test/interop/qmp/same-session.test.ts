/** The session, run states, chardevs, migration settings: the same lines to our program and to QEMU 7.2. */
import { test } from 'node:test';
import { execute, unixServer } from '../../helpers/bare-process.ts';
import { compareScript } from '../../helpers/same-script.ts';
import type { ScriptLine } from '../../helpers/same-script.ts';

const HOST = '127.0.0.1';
const socketBackend = (data: object): object => ({ type: 'socket', data });
const capability = (name: string, state: unknown): object => ({
  capabilities: [{ capability: name, state }],
});

const SESSION: readonly ScriptLine[] = [
  execute('qmp_capabilities'),
  execute('nope'),
  execute('query-status', { x: 1 }),
  '{"execute":"query-status","foo":1}',
  '{"execute":"stop","arguments":[]}',
  '{"arguments":{}}',
  '{"execute":5}',
  '[]',
  '{bad}',
  '{"exec-oob":"query-status"}',
  "{'execute':'query-status','id':{'a':[1,null]}}",
  execute('query-status'),
  execute('query-name'),
  execute('query-uuid'),
  [execute('query-version'), 'another program'],
  [execute('query-kvm'), 'this engine never uses KVM, whatever the host has'],
  // Running and standing.
  execute('stop'),
  execute('query-status'),
  execute('stop'),
  execute('cont'),
  execute('cont'),
  execute('query-status'),
  execute('system_reset'),
  [execute('system_powerdown'), 'the embedded engine has no power button and says so'],
  // Chardevs.
  execute('chardev-add', { id: 'p' }),
  execute('chardev-add', { id: 'p', backend: {} }),
  execute('chardev-add', { id: 'p', backend: { type: 'nosuch', data: {} } }),
  execute('chardev-add', { id: 'p', backend: socketBackend({}) }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'inet', data: { host: HOST } } }),
  }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'inet', data: { host: HOST, port: 9 } } }),
  }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'unix', data: { path: 'DIR/none' } }, server: false }),
  }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'inet', data: { host: HOST, port: '1' } }, server: false }),
  }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'unix', data: { path: 'DIR/x' } }, server: true, reconnect: 1 }),
  }),
  execute('chardev-add', {
    id: 'p',
    backend: socketBackend({ addr: { type: 'unix', data: { path: 'DIR/x' } }, server: false, wait: true }),
  }),
  ...['p', 's', 'o', 'm', 'n'].map((id) => execute('chardev-add', { id, backend: unixServer(id) })),
  execute('chardev-add', { id: 'p', backend: unixServer('p2') }),
  execute('chardev-add', { id: 'nul', backend: { type: 'null', data: {} } }),
  execute('chardev-remove', { id: 'zz' }),
  [execute('query-chardev'), 'the monitors are no chardevs here and are not listed'],
  execute('chardev-remove', { id: 'nul' }),
];

const MIGRATION: readonly ScriptLine[] = [
  // Migration and COLO.
  execute('query-migrate'),
  execute('query-colo-status'),
  [execute('x-colo-lost-heartbeat'), 'the text of QEMU 8 and later'],
  execute('migrate', {}),
  execute('migrate', { uri: 'bogus:1' }),
  execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' }),
  execute('migrate_cancel'),
  execute('migrate-set-capabilities', capability('nope', true)),
  execute('migrate-set-capabilities', capability('x-colo', 'on')),
  execute('migrate-set-capabilities', { capabilities: [{ capability: 'x-colo' }] }),
  execute('migrate-set-capabilities', capability('x-colo', true)),
  [execute('query-migrate-capabilities'), 'only what there is'],
  execute('migrate-set-parameters', { 'x-checkpoint-delay': -1 }),
  execute('migrate-set-parameters', { 'x-checkpoint-delay': 'x' }),
  execute('migrate-set-parameters', { nope: 1 }),
  execute('migrate-set-parameters', { 'x-checkpoint-delay': 2000 }),
  [
    execute('migrate-set-parameters', { 'max-bandwidth': 5 }),
    'what cannot be honoured is an error that names it',
  ],
  execute('migrate-set-parameters', { 'announce-initial': 'x' }),
  execute('migrate-set-parameters', { 'announce-initial': -1 }),
  execute('migrate-set-parameters', { 'announce-initial': 100_001 }),
  execute('migrate-set-parameters', { 'announce-max': 100_001 }),
  execute('migrate-set-parameters', { 'announce-rounds': 1001 }),
  execute('migrate-set-parameters', { 'announce-step': 0 }),
  execute('migrate-set-parameters', { 'announce-step': 10_001 }),
  execute('migrate-set-parameters', { 'announce-step': 1, 'announce-rounds': 0, 'announce-max': 0 }),
  [execute('query-migrate-parameters'), 'only what there is'],
  execute('xen-set-replication', { enable: true, primary: true, failover: true }),
  execute('xen-set-replication', { enable: true, primary: true }),
  execute('query-xen-replication-status'),
  execute('xen-colo-do-checkpoint'),
  execute('qmp_capabilities'),
  execute('quit'),
];

test('session, chardevs and migration settings as in QEMU', (t) =>
  compareScript(t, {
    lines: [...SESSION, ...MIGRATION],
    // Nobody pressed a button here.
    without: ['POWERDOWN'],
    atLeast: { good: 20, bad: 30 },
  }));
