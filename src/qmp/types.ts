/** The shapes of QMP (QEMU docs/interop/qmp-spec; docs/qemu-behaviour.md 7.1) that client and server share. */
import type { QmpErrorClass } from '../base/errors.ts';
import type { JsonObject, JsonValue } from './json-stream.ts';

/** What a monitor says that it is. */
export interface QmpVersion {
  /** The version of QEMU, or the one whose ways a monitor follows. */
  readonly qemu: {
    /** 7 of 7.2.0. */
    readonly major: number;
    /** 2 of 7.2.0. */
    readonly minor: number;
    /** 0 of 7.2.0. */
    readonly micro: number;
  };
  /** Who packaged it; may be empty. */
  readonly package: string;
}

/** A monitor's first message. */
export interface QmpGreeting {
  /** Its only member. */
  readonly QMP: {
    /** Of the program at the other end. */
    readonly version: QmpVersion;
    /** What may be negotiated: `oob`. */
    readonly capabilities: readonly string[];
  };
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

/** By the clock of the server's host; -1 and -1 when it could not tell. */
export interface QmpTimestamp {
  /** Since 1970, UTC. */
  readonly seconds: number;
  /** Of the second that has begun, 0 to 999,999. */
  readonly microseconds: number;
}

/** Something that a monitor tells without having been asked. */
export interface QmpEvent {
  /** Its name, such as `STOP`. */
  readonly event: string;
  /** Empty when the event carries none. */
  readonly data: Readonly<Record<string, unknown>>;
  /** When it happened. */
  readonly timestamp: QmpTimestamp;
}

/** The wall clock as events carry it. `milliseconds`: since 1970. */
export function timestampOf(milliseconds = Date.now()): QmpTimestamp {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, microseconds: Math.floor((milliseconds - seconds * 1000) * 1000) };
}
