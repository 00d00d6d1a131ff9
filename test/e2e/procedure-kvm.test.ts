/**
 * QEMU's COLO-FT procedure with a stock QEMU and KVM, as the document has it. Where /dev/kvm boots no guest (within most
 * virtual machines) it is skipped and says why: what differs from TCG is the accelerator and the guest's clock.
 */
import { acceleratorFor } from '../../src/demo/accelerator.ts';
import { notOnThisMachine } from '../helpers/not-here.ts';
import { stockQemuProcedure, testProcedure } from './procedure-story.ts';

const story = stockQemuProcedure({ vcpus: 1, generations: 3 });

testProcedure({
  ...story,
  title: 'the COLO-FT procedure on QEMU with KVM',
  machine: story.machine.replace('-accel tcg', '-enable-kvm'),
  skip: story.skip === false && story.image !== undefined ? await whyNoKvm(story.image) : story.skip,
});

async function whyNoKvm(image: string): Promise<string | false> {
  const { name, reason } = await acceleratorFor({ binary: 'qemu-system-x86_64', image, format: 'raw' });
  return notOnThisMachine(name === 'kvm' ? null : reason);
}
