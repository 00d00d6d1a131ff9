/**
 * Why a test cannot run on this machine however much is installed: its kernel or its processor lacks something. Such a skip
 * is no failure in CI (scripts/test.js knows it by these words); one for want of a program is.
 */
export function notOnThisMachine(reason: string | null): string | false {
  return reason === null ? false : `not on this machine: ${reason}`;
}
