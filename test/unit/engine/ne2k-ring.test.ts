import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Ne2kRing, ne2kReceiveMode } from '../../../src/engine/v86/net-port.ts';
import type { V86Ne2k } from '../../../src/engine/v86/internals.ts';

/** An ne2k as Linux sets it up: reception from page 0x46 to 0x80, the boundary one page behind the current one. */
function nic(): { cr: number; boundary: number; curpg: number; pstart: number; pstop: number } {
  return { cr: 0x22, boundary: 0x46, curpg: 0x47, pstart: 0x46, pstop: 0x80 };
}

const MTU_FRAME = 1514;

describe('ne2k receive ring', () => {
  it('holds no more frames than the Linux driver takes at one interrupt', () => {
    const hardware = nic();
    const ring = new Ne2kRing(hardware as unknown as V86Ne2k);
    let given = 0;
    while (ring.hasRoom(60)) {
      ring.gave();
      hardware.curpg++;
      given++;
      assert.ok(given < 20, 'the ring is never full');
    }
    assert.equal(given, 8);
    // The driver has read them all: the boundary follows the current page.
    hardware.boundary = hardware.curpg - 1;
    assert.ok(ring.hasRoom(60));
  });

  it('leaves a page free below large frames', () => {
    const hardware = nic();
    const ring = new Ne2kRing(hardware as unknown as V86Ne2k);
    assert.ok(ring.hasRoom(MTU_FRAME));
    ring.gave();
    hardware.curpg = hardware.pstop - 6;
    assert.equal(ring.hasRoom(MTU_FRAME), false);
  });

  it('waits until a loaded ring is empty, as nobody knows how many frames are in it', () => {
    const hardware = nic();
    const ring = new Ne2kRing(hardware as unknown as V86Ne2k);
    assert.ok(ring.hasRoom(60));
    hardware.curpg += 3;
    ring.restored();
    assert.equal(ring.hasRoom(60), false);
    hardware.boundary = hardware.curpg - 1;
    assert.ok(ring.hasRoom(60));
  });
});

describe('ne2k receive mode', () => {
  const multicast = Uint8Array.from([0x33, 0x33, 0xff, 0, 0, 0x0f]);
  it('takes multicast frames where the driver asked for them, and nothing else that is not for it', () => {
    assert.equal(ne2kReceiveMode({ rxcr: 0x0c }, multicast), 0x1c);
    assert.equal(ne2kReceiveMode({ rxcr: 0x04 }, multicast), 0x04);
    assert.equal(ne2kReceiveMode({ rxcr: 0x0c }, Uint8Array.from([0x52, 0x54, 0, 0, 0, 1])), 0x0c);
  });
});
