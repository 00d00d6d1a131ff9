/** Which side of a copy failed: what BLOCK_JOB_ERROR calls its operation. `cause` is the error itself. */
export class PieceError extends Error {
  readonly operation: 'read' | 'write';

  constructor(operation: 'read' | 'write', cause: unknown) {
    super(`${operation} failed`, { cause });
    this.operation = operation;
  }
}

/** `work`, whose failure says that it was of this side. */
export async function onSide<T>(operation: 'read' | 'write', work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw new PieceError(operation, error);
  }
}

/** The error and its side; whatever came from elsewhere counts as the source's. */
export function sideOf(error: unknown): { operation: 'read' | 'write'; error: unknown } {
  if (error instanceof PieceError) return { operation: error.operation, error: error.cause };
  return { operation: 'read', error };
}
