/** Our NBD server with fio's nbd engine (verified random writes) and with libnbd's shell, which can ask for anything. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { NbdServer } from '../../../src/nbd/index.ts';
import { MemorySource, temporaryDirectory } from '../../unit/nbd/support.ts';
import { missing, mustRun, run } from './peers.ts';

const MIB = 2 ** 20;

async function serve(t: TestContext): Promise<{ uri: string; source: MemorySource; directory: string }> {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'socket');
  const source = new MemorySource(33 * MIB);
  const server = new NbdServer();
  t.after(() => server.close());
  server.addExport({ name: '', source, writable: true });
  await server.listen({ path });
  return { source, directory, uri: `nbd+unix:///?socket=${path}` };
}

const hasFioNbd = async (): Promise<boolean> => (await run('fio', '--enghelp')).stdout.includes('nbd');

describe('our NBD server with fio', { skip: missing('fio') }, () => {
  it('keeps what 16 random writers at a time wrote, by their checksums', async (t) => {
    if (!(await hasFioNbd())) {
      t.skip('fio was built without its nbd engine');
      return;
    }
    const { uri, directory, source } = await serve(t);
    const out = await mustRun(
      'fio',
      ...['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bssplit=4k/50:64k/50'],
      ...['--size=16M', '--iodepth=16', '--verify=crc32c', '--verify_fatal=1', '--randseed=7'],
      ...[`--aux-path=${directory}`, '--output-format=json'],
    );
    const [job] = (
      JSON.parse(out.slice(out.indexOf('{'))) as { jobs: { error: number; write: { total_ios: number } }[] }
    ).jobs;
    assert.equal(job?.error, 0);
    assert.ok(job.write.total_ios > 100);
    assert.ok(source.calls.filter((call) => call.startsWith('read')).length > 100);
  });
});

/** It runs whatever python3 comes first, which need not be the one that has the module. */
const NBDSH = ['env', 'PATH=/usr/bin:/bin', 'nbdsh'] as const;
const noNbdsh =
  spawnSync(NBDSH[0], [...NBDSH.slice(1), '-c', 'pass']).status === 0 ? false : 'not installed: nbdsh';

describe('our NBD server with nbdsh', { skip: noNbdsh }, () => {
  const shell = (uri: string, script: string): Promise<string> =>
    mustRun(...NBDSH, '-c', `uri = '${uri}'`, '-c', script);

  it('answers structured reads, DF and block status', async (t) => {
    const { uri, source } = await serve(t);
    await source.write(MIB, Buffer.alloc(65536, 0x41));
    const out = await shell(
      uri,
      [
        'h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)',
        'h.connect_uri(uri)',
        'print(h.get_structured_replies_negotiated(), h.can_df(), h.can_multi_conn(), h.get_protocol())',
        'chunks = []',
        'f = lambda buf, offset, status, err: chunks.append((bytes(buf[:1]), len(buf), offset, status))',
        'h.pread_structured(65536, 1048576, f, nbd.CMD_FLAG_DF)',
        'print(chunks)',
        'extents = []',
        'g = lambda context, offset, entries, err: extents.append((context, offset, entries))',
        'h.block_status(2097152, 0, g)',
        'print(extents)',
        'h.block_status(2097152, 0, g, nbd.CMD_FLAG_REQ_ONE)',
        'print(extents[1])',
      ].join('\n'),
    );
    assert.deepEqual(out.trim().split('\n'), [
      'True True True newstyle-fixed',
      `[(b'A', 65536, ${MIB}, 1)]`,
      `[('base:allocation', 0, [${MIB}, 3, 65536, 0, 983040, 3])]`,
      `('base:allocation', 0, [${MIB}, 3])`,
    ]);
  });

  it('covers with a flush on one connection what was written on another', async (t) => {
    const { uri, source } = await serve(t);
    const out = await shell(
      uri,
      [
        'other = nbd.NBD()',
        'h.connect_uri(uri)',
        'other.connect_uri(uri)',
        'print(h.can_multi_conn() and other.can_multi_conn())',
        "h.pwrite(b'x' * 512, 512)",
        'other.flush()',
        'print(bytes(other.pread(512, 512)[:3]))',
        'other.shutdown()',
      ].join('\n'),
    );
    assert.deepEqual(out.trim().split('\n'), ['True', "b'xxx'"]);
    assert.ok(source.calls.indexOf('flush') > source.calls.indexOf('write 512 512'));
  });

  it('takes and gives 32 MiB at once, and says no to more', async (t) => {
    const { uri } = await serve(t);
    const out = await shell(
      uri,
      [
        'h.set_strict_mode(0)',
        'h.connect_uri(uri)',
        "h.pwrite(b'y' * 33554432, 0)",
        'print(len(h.pread(33554432, 0)))',
        'try:',
        '  h.pread(33554433, 0)',
        'except nbd.Error as error:',
        '  print(error.errno)',
        'print(len(h.pread(1, 33554431)))',
      ].join('\n'),
    );
    assert.deepEqual(out.trim().split('\n'), ['33554432', 'EINVAL', '1']);
  });
});
