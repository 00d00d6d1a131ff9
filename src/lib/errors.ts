/**
 * The error classes that every part of the library throws, exported again by each of its modules: `instanceof` works
 * across them.
 */
export {
  ClosedError,
  ColoError,
  IoError,
  ParameterError,
  ProtocolError,
  TimeoutError,
} from '../base/errors.ts';
export type { Errno } from '../base/errors.ts';
