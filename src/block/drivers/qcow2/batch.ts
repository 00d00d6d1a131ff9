/**
 * Several promises at once. Whoever waits for them is told of a failure only when all have ended, so that no buffer is
 * touched any more by then.
 */

/** Requests to the file that one guest request has in flight at once. */
const MAX_PARALLEL = 32;

/** Promises in flight, at most MAX_PARALLEL; `end` waits for all, so no buffer is touched after a failure is told. */
export class Batch {
  readonly #jobs: Promise<void>[] = [];

  async add(job: Promise<void>): Promise<void> {
    job.catch(() => undefined); // told by `end`
    this.#jobs.push(job);
    if (this.#jobs.length >= MAX_PARALLEL) await this.end();
  }

  async end(): Promise<void> {
    const results = await Promise.allSettled(this.#jobs.splice(0));
    for (const result of results) if (result.status === 'rejected') throw result.reason as Error;
  }
}

/** Waits for both, then throws what either threw. */
export async function both(one: Promise<void>, other: Promise<void>): Promise<void> {
  const results = await Promise.allSettled([one, other]);
  for (const result of results) if (result.status === 'rejected') throw result.reason as Error;
}
