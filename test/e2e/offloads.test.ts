/**
 * A protected guest on stock QEMUs whose virtio NIC has offloads: its driver uses them, what leaves is whole frames, a
 * large transfer is right, and a failover keeps the connections.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { stockQemu } from '../../src/demo/platform.ts';
import { PacketView } from '../../src/net/packet.ts';
import { readTcpChecksum, tcpChecksum } from '../../src/net/checksum.ts';
import type { QmpClient } from '../../src/qmp/client.ts';
import { until } from '../helpers/colo.ts';
import { PairRig, STEP_MS, whyNoGuest } from './pair-rig.ts';

const PLATFORM = stockQemu({ accelerator: 'tcg', vcpus: 1 });
const skip = whyNoGuest(PLATFORM);
const TRANSFER_BYTES = 1_000_000;
const MAX_ETHERNET_BYTES = 1514;
/** ethtool's questions (linux/ethtool.h): transmit checksums, scatter/gather, TCP segmentation. */
const ASKED = { ETHTOOL_GTXCSUM: 0x16, ETHTOOL_GSG: 0x18, ETHTOOL_GTSO: 0x1e };

/** The serial console of the VM that connects first: what it has said, and a line to it. */
class FirstConsole {
  #text = '';
  #socket: net.Socket | null = null;
  readonly #server: net.Server;

  constructor(where: string) {
    this.#server = net.createServer((socket) => {
      socket.on('error', () => undefined).setEncoding('latin1');
      if (this.#socket === null) socket.on('data', (chunk: string) => (this.#text += chunk));
      this.#socket ??= socket.resume();
    });
    this.#server.listen(where);
  }

  /** A command, and what it says between two marks, which are in quotes where the line is echoed. */
  async ask(command: string): Promise<string> {
    const from = this.#text.length;
    const answer = (): RegExpExecArray | null => /\nbegin([^]*?)\nend/.exec(this.#text.slice(from));
    this.#socket?.write(`echo be''gin; ${command}; echo; echo e''nd\n`);
    await until('the guest answers', STEP_MS, () => answer() !== null);
    return answer()![1]!.trim();
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }
}

/** The lengths of the packets in a capture (pcap). */
function lengthsIn(capture: Buffer): number[] {
  const lengths: number[] = [];
  for (let at = 24; at + 16 <= capture.length; at += 16 + capture.readUInt32LE(at + 8)) {
    lengths.push(capture.readUInt32LE(at + 12));
  }
  return lengths;
}

/** The words of a netdev whose packets have headers, and of the filters on it. */
function withHeader(word: string): string {
  if (word.startsWith('stream,id=hn0')) return `${word},vnet_hdr=on`;
  return /^filter-re(director|writer),/.test(word) ? `${word},vnet_hdr_support=on` : word;
}

/** The same of what a monitor is told. */
function addHeaderSupport(qmp: QmpClient): void {
  const execute = qmp.execute.bind(qmp);
  qmp.execute = (command, args, options) =>
    execute(
      command,
      command === 'object-add' && /^(filter-re|filter-mirror|colo-compare)/.test(String(args?.['qom-type']))
        ? { ...(args ?? {}), vnet_hdr_support: true }
        : args,
      options,
    );
}

describe('a protected guest with offloads', { skip, timeout: 600_000 }, () => {
  let rig: PairRig;
  let close = (): Promise<void> => Promise.resolve();
  let folder: string;
  let console: FirstConsole;

  before(async () => {
    if (skip !== false) return;
    folder = await mkdtemp(path.join(os.tmpdir(), 'colo-offloads-'));
    const where = path.join(folder, 'console');
    console = new FirstConsole(where);
    const words = (name: string): string[] => [
      ...['-chardev', `socket,id=tty,path=${where},reconnect=1`, '-serial', 'chardev:tty'],
      ...['-object', `filter-dump,id=dump,netdev=hn0,queue=rx,maxlen=100,file=${path.join(folder, name)}`],
    ];
    rig = await PairRig.boot(PLATFORM, { words, edit: withHeader });
    close = () => rig.close();
    addHeaderSupport(rig.primary.vm.qmp);
  });

  after(async () => {
    if (skip !== false) return;
    await close();
    console.close();
    await rm(folder, { recursive: true });
  });

  it('gives the guest checksums and segmentation, which it uses', async () => {
    const features = await console.ask('cat /sys/bus/virtio/devices/*/features');
    const nic = features
      .split(/\s+/)
      .find((bits) => bits.length >= 33 && bits[5] === '1' && bits[15] === '1');
    assert.ok(nic, features);
    const has = (bit: number): boolean => nic[bit] === '1';
    assert.ok([0, 1, 7, 8, 11, 12, 15].every(has), nic);
    for (const [name, number] of Object.entries(ASKED)) {
      const value = await console.ask(
        `perl -e 'socket(S,2,2,0); $v=pack("LL",${number},0); $r=pack("a16p","eth0",$v); ioctl(S,0x8946,$r) or die; print unpack("x4L",$v)'`,
      );
      assert.equal(value, '1', name);
    }
  });

  it('lets nothing out that is not whole', async () => {
    await rig.protect();
    const response = await fetch(`http://127.0.0.1:${rig.httpPort}/bytes/${TRANSFER_BYTES}`);
    const body = Buffer.from(await response.arrayBuffer());
    assert.equal(body.length, TRANSFER_BYTES);
    // Between guest and filters there is what the guest has said: segments that nobody has cut yet.
    const said = lengthsIn(await readFile(path.join(folder, 'primary')));
    assert.ok(Math.max(...said) > 4 * MAX_ETHERNET_BYTES, String(said));
    const view = new PacketView();
    let segments = 0;
    for (const { frame } of rig.primary.frames) {
      assert.ok(frame.length <= MAX_ETHERNET_BYTES, `${frame.length} bytes`);
      view.parse(frame);
      if (!view.isTcp) continue;
      segments++;
      assert.equal(readTcpChecksum(frame, view), tcpChecksum(frame, view));
    }
    assert.ok(segments > TRANSFER_BYTES / MAX_ETHERNET_BYTES);
  });

  it('goes on at the other side, in the middle of a transfer', async () => {
    await rig.answered(3);
    const response = await fetch(`http://127.0.0.1:${rig.httpPort}/bytes/${TRANSFER_BYTES}`);
    const body = response.arrayBuffer();
    await rig.primary.vm.kill();
    await rig.takeOver();
    assert.equal((await body).byteLength, TRANSFER_BYTES);
    await rig.answered(3);
    await rig.assertNothingLost();
  });
});
