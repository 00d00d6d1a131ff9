/** The shapes of QMP (QEMU docs/interop/qmp-spec; docs/qemu-behaviour.md 7.1) that client and server share. */
import type { QmpErrorClass } from '../base/errors.ts';
import type { JsonObject, JsonValue } from './json-stream.ts';

export interface QmpVersion {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  readonly package: string;
}

export interface QmpGreeting {
  readonly QMP: { readonly version: QmpVersion; readonly capabilities: readonly string[] };
}

/** A request that has the right shape; its arguments have not been looked at. */
export interface QmpRequest {
  readonly command: string;
  readonly args: JsonObject;
  /** Absent when the client gave none; any value otherwise, null included. */
  readonly id?: JsonValue;
  readonly oob: boolean;
}

export interface QmpErrorBody {
  readonly class: QmpErrorClass;
  readonly desc: string;
}

export interface QmpTimestamp {
  /** Since 1970, UTC. */
  readonly seconds: number;
  readonly microseconds: number;
}

export interface QmpEvent {
  readonly event: string;
  /** Empty when the event carries none. */
  readonly data: Readonly<Record<string, unknown>>;
  readonly timestamp: QmpTimestamp;
}

/** The wall clock as events carry it. `milliseconds`: since 1970. */
export function timestampOf(milliseconds = Date.now()): QmpTimestamp {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, microseconds: Math.floor((milliseconds - seconds * 1000) * 1000) };
}
