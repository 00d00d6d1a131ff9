/**
 * A virtio NIC whose rings are served here, on a real QEMU whose guest is iPXE: frames out and in, and a guest that goes
 * on in another process, and in another, with rings that are where they were.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { skipQemu72 } from '../../helpers/qemu-vm.ts';
import { DISCOVER, Listener, REQUEST, ipxe, replyTo } from './ipxe-guest.ts';
import { skipReason } from './qemu-machines.ts';

/** The RAM part without the ids of its state and of its parent. */
function withoutIds(ram: Uint8Array): Uint8Array {
  return ram.slice().fill(0, 16, 32);
}

void describe('a virtio NIC over vhost-user', { skip: skipReason }, () => {
  it('goes on in another process from where its rings were', async () => {
    await using a = await ipxe();
    await using b = await ipxe({ incoming: true });
    const [ofA, ofB] = [new Listener(a), new Listener(b)];
    const both = (kind: string): Promise<Uint8Array[]> => Promise.all([ofA.next(kind), ofB.next(kind)]);

    const discovers = ofA.next(`dhcp ${DISCOVER}`);
    await a.engine.resume();
    const discover = await discovers;
    await a.engine.pause();
    await b.engine.load([await a.engine.capture({ full: true })]);

    // Each answers to an offer that came through a ring which another process had set up.
    const requests = both(`dhcp ${REQUEST}`);
    await a.engine.resume();
    await b.engine.resume();
    for (const { engine } of [a, b]) engine.nics[0]!.send(replyTo(discover));
    const [request, alike] = await requests;
    assert.deepEqual(alike, request);
    await a.engine.pause();
    await b.engine.pause();

    const before = b.engine.pid;
    await b.engine.load([await a.engine.capture({ full: false })]);
    assert.notEqual(b.engine.pid, before);
    const [ramOfA, ramOfB] = [await a.engine.capture({ full: true }), await b.engine.capture({ full: true })];
    assert.deepEqual(withoutIds(ramOfB.ram), withoutIds(ramOfA.ram));
    const arps = both('arp');
    await a.engine.resume();
    await b.engine.resume();
    for (const { engine } of [a, b]) engine.nics[0]!.send(replyTo(request!));
    await arps;
    for (const { engine } of [a, b]) assert.equal(engine.nics[0]!.droppedFrames, 0);
  });

  it('is offered with offloads, but for those that -device switches off', { skip: skipQemu72 }, async () => {
    const names = ['CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'HOST_TSO6', 'GUEST_TSO4', 'GUEST_TSO6', 'MRG_RXBUF'];
    const offered = async (more: string): Promise<string[]> => {
      const device = `virtio-net-pci,netdev=hn0,id=nic0,romfile=${more}`;
      await using machine = await ipxe({ args: ['-vga', 'none', '-device', device] });
      const status = (await machine.engine.monitor.execute('x-query-virtio-status', {
        path: '/machine/peripheral/nic0/virtio-backend',
      })) as { 'host-features': { 'dev-features': string[] } };
      const all = status['host-features']['dev-features'].join('\n');
      return names.filter((name) => new RegExp(`^VIRTIO_NET_F_${name}:`, 'm').test(all));
    };
    assert.deepEqual(await offered(''), names);
    const without = await offered(',csum=off,host_tso4=off,guest_tso6=off,mrg_rxbuf=off');
    assert.deepEqual(without, ['GUEST_CSUM', 'HOST_TSO6', 'GUEST_TSO4']);
  });
});
