/** A thread of page-scanner.ts: sleeps until the generation moves, takes its part in the job, and the last one reports. */
import { parentPort, workerData } from 'node:worker_threads';
import { FINISHED, GENERATION, pairOf, takePart } from './scan-job.ts';
import type { WorkerStart } from './scan-job.ts';

const start = workerData as WorkerStart;
const { control } = start.shared;
const pair = pairOf(start);
let generation = 0;

parentPort!.postMessage('ready');
for (;;) {
  Atomics.wait(control, GENERATION, generation);
  generation = Atomics.load(control, GENERATION);
  takePart(start.shared, pair);
  if (Atomics.add(control, FINISHED, 1) === start.threads - 1) parentPort!.postMessage('done');
}
