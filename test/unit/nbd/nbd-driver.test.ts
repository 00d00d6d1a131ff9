import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import { TlsCredentialsSet } from '../../../src/base/tls/objects.ts';
import type { BlockDriver } from '../../../src/block/driver.ts';
import { nbdOptionsFromUri, NbdDriver, openNbd } from '../../../src/block/drivers/nbd.ts';
import { nestOptions, OptionReader } from '../../../src/block/options.ts';
import type { OpenContext } from '../../../src/block/registry.ts';
import { NbdServer } from '../../../src/nbd/index.ts';
import { MemorySource, startServer } from './support.ts';

const context: OpenContext = {
  nodeName: 'test',
  openChild: () => Promise.reject(new Error('no children')),
  find: () => null,
  findLater: () => () => null,
  tlsCredentials: new TlsCredentialsSet().find,
  emit: () => undefined,
};

async function open(t: TestContext, flat: Record<string, string>): Promise<BlockDriver> {
  const driver = await openNbd(new OptionReader(nestOptions(flat)), context);
  t.after(() => driver.close());
  return driver;
}

describe('block driver nbd', () => {
  it('opens by server.…, by host and port, and by URI', async (t) => {
    const { server, host, port } = await startServer(t);
    server.addExport({ name: 'parent0', source: new MemorySource(8192), writable: true });
    const forms = [
      { 'server.type': 'inet', 'server.host': host, 'server.port': String(port), export: 'parent0' },
      { host, port: String(port), export: 'parent0', 'read-only': 'on' },
    ];
    for (const form of forms) {
      const driver = await open(t, form);
      assert.equal(driver.lengthBytes, 8192);
      assert.equal(driver.readOnly, 'read-only' in form);
    }
    const options = new OptionReader(nbdOptionsFromUri(`nbd://${host}:${port}/parent0`));
    assert.equal(options.string('driver'), 'nbd');
    const byUri = await openNbd(options, context);
    await byUri.close();
    assert.throws(() => nbdOptionsFromUri('http://x/'), /Invalid NBD URI/);
  });

  it("refuses options in QEMU's words", async (t) => {
    const cases: [Record<string, string>, RegExp | string][] = [
      [{}, 'one of path and host must be specified'],
      [{ host: 'a', path: 'b' }, 'path and host may not be used at the same time'],
      [{ path: '/s', port: '1' }, 'port may not be used without host'],
      [{ path: '/s', 'server.type': 'unix' }, /may not be used at the same time/],
      [{ 'server.type': 'vsock' }, /does not accept value 'vsock'/],
      [{ 'server.type': 'unix' }, "Parameter 'path' is missing"],
      [{ path: '/s', 'tls-creds': 'x' }, "No TLS credentials with id 'x'"],
      [{ path: '/s', 'reconnect-delay': '-1' }, /'reconnect-delay' expects a number from 0 to 2147483/],
      [{ path: '/s', bogus: '5' }, "Block driver 'nbd' does not support the option 'bogus'"],
      [{ host: '127.0.0.1', port: 'x' }, /Invalid port 'x'/],
      [{ host: '127.0.0.1', port: '1' }, "Failed to connect to '127.0.0.1:1': Connection refused"],
    ];
    for (const [options, message] of cases) await assert.rejects(open(t, options), { message });
  });

  it('tries again while open-timeout lasts', async (t) => {
    const { server, host, port } = await startServer(t);
    await server.close();
    const opening = open(t, { host, port: String(port), 'open-timeout': '60' });
    const again = new NbdServer();
    t.after(() => again.close());
    again.addExport({ name: '', source: new MemorySource(512), writable: true });
    await again.listen({ host, port });
    assert.equal((await opening).lengthBytes, 512);
  });

  it('flushes what was written when it is closed, once', async (t) => {
    const { server, host, port } = await startServer(t);
    const source = new MemorySource(8192);
    server.addExport({ name: '', source, writable: true });
    const driver = await open(t, { host, port: String(port) });
    await driver.write(1, new Uint8Array(3));
    await driver.flush();
    await driver.writeZeroes?.(0, 4096);
    await driver.close();
    assert.deepEqual(source.calls, ['write 1 3', 'flush', 'zero 0 4096 unmap', 'flush']);
  });

  it('can be broken off while a request is stuck', async (t) => {
    const { server, host, port } = await startServer(t);
    const source = new MemorySource(8192);
    const started = new Deferred<void>();
    source.before = () => {
      started.resolve();
      return new Promise(() => undefined);
    };
    server.addExport({ name: '', source, writable: true });
    const driver = await open(t, { host, port: String(port), 'request-timeout': '0' });
    assert.ok(driver instanceof NbdDriver);
    const write = driver.write(0, new Uint8Array(1));
    await started.promise;
    driver.breakOff();
    await assert.rejects(write, { errno: 'ESHUTDOWN' });
    await driver.close();
  });
});
