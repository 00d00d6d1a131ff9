/**
 * QEMU's COLO-FT procedure with a stock QEMU that executes the guest, a generation, two CPUs. Only -enable-kvm is `-accel tcg`
 * here, so that it runs everywhere.
 */
import { stockQemuProcedure, testProcedure } from './procedure-story.ts';

testProcedure(stockQemuProcedure({ vcpus: 2, generations: 1 }));
