/** What a stopped process, or one whose host was suspended, finds when it goes on: time has passed and nothing was done. */
export function standStill(): void {
  const until = performance.now() + 1_300;
  while (performance.now() < until);
}
