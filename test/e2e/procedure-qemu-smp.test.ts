/**
 * QEMU's COLO-FT procedure with a stock QEMU that executes the guest, a generation, two CPUs, and people
 * at the VNC screens of both sides. Only -enable-kvm is `-accel tcg`
 * here, so that it runs everywhere.
 */
import { stockQemuProcedure, testProcedure } from './procedure-story.ts';

testProcedure(stockQemuProcedure({ vcpus: 2, generations: 1, isWatched: true }));
