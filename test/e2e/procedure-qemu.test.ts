/**
 * QEMU's COLO-FT procedure with a stock QEMU that executes the guest, three generations. Only -enable-kvm is `-accel tcg`
 * here, so that it runs everywhere.
 */
import { stockQemuProcedure, testProcedure } from './procedure-story.ts';

testProcedure(stockQemuProcedure({ vcpus: 1, generations: 3 }));
