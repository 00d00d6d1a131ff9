import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Deferred } from '../../../src/base/async.ts';
import type { V86Engine } from '../../../src/engine/v86/index.ts';
import { checkpoint, guestImage, guestMachine, skipReason } from './guest-machine.ts';

const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
const OTHER_MAC = Uint8Array.of(0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc);
const PEER_MAC = Uint8Array.of(0x02, 0, 0, 0, 0, 2);
const GUEST_IP = [10, 0, 2, 15];
const PEER_IP = [10, 0, 2, 2];
const CHECKPOINTS = 20;
const FILES = 40;
const FILE_BYTES = 100_000;
/** What the kernel writes when something is badly wrong. */
const TROUBLE = 'call trace:|i/o error|ext4-fs error|oops|soft lockup';

/** RFC 826: who has 10.0.2.15, tell 10.0.2.2. */
function arpRequest(): Uint8Array {
  const frame = new Uint8Array(60);
  frame.set([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...PEER_MAC, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
  frame.set([...PEER_MAC, ...PEER_IP, 0, 0, 0, 0, 0, 0, ...GUEST_IP], 22);
  return frame;
}

/** Resolves with the sender's address of the next ARP reply. */
async function arpReply(engine: V86Engine): Promise<number[]> {
  const found = new Deferred<number[]>();
  engine.nics[0]!.onFrame = (frame) => {
    if (frame[12] === 0x08 && frame[13] === 0x06 && frame[21] === 2)
      found.resolve([...frame.subarray(22, 28)]);
  };
  return await found.promise;
}

void describe('V86Engine with a Linux guest', { skip: skipReason, timeout: 600_000 }, () => {
  it('goes on from checkpoints under load, with its files, network and address right', async () => {
    const image = guestImage();
    await using a = await guestMachine(image, MAC);
    await using b = await guestMachine(image, OTHER_MAC);
    await a.engine.resume();
    await a.console.waitFor(/colo-guest: ready/);
    a.console.send('\n');
    await a.console.ask('echo he""llo\n', /hello/);

    // Frames to a paused guest wait for it.
    await a.engine.pause();
    a.engine.nics[0]!.send(arpRequest());
    const answer = arpReply(a.engine);
    await a.engine.resume();
    assert.deepEqual(await answer, [...MAC]);

    // A loop that writes files and reads them back, while checkpoints are taken.
    const loop =
      `i=0; mkdir -p /root/t; while [ $i -lt ${FILES} ]; do yes colo | head -c ${FILE_BYTES} > /root/t/f$i; ` +
      'sync; md5sum < /root/t/f$i; i=$((i+1)); done; echo lo""op-done\n';
    a.console.send(loop);
    await a.console.waitFor(/[0-9a-f]{32}/);
    for (let at = 0; at < CHECKPOINTS; at++) {
      await checkpoint(a, b, at === 0);
      await a.console.waitFor(/[0-9a-f]{32}/);
    }
    assert.ok(a.disk.flushes > 0, 'sync reached the disk as a flush');
    await checkpoint(a, b, false);
    await a.engine.stop();

    // From here on the second one is alone: it ends the loop, with the same sum for every file.
    await b.console.waitFor(/loop-done/);
    b.console.send(
      'echo 3 > /proc/sys/vm/drop_caches; cat /root/t/f* | wc -c; md5sum /root/t/* | cut -c1-32 | sort | uniq -c; echo su""ms\n',
    );
    const [sums] = await b.console.waitFor(
      new RegExp(`${FILES * FILE_BYTES}[^]*?\\n +${FILES} [0-9a-f]{32}[^]*sums`),
    );
    assert.ok(sums);
    b.console.send(`dmesg | grep -iE "${TROUBLE}" | sed 's/^/found: /'; echo ch""ecked\n`);
    const [log] = await b.console.waitFor(/[^]*checked/);
    assert.doesNotMatch(log, /^found:/m);

    assert.deepEqual([...b.engine.nics[0]!.mac], [...MAC], 'the address came with the state');
    const reply = arpReply(b.engine);
    b.engine.nics[0]!.send(arpRequest());
    assert.deepEqual(await reply, [...MAC]);
  });
});
