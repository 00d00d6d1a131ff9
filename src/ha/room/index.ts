/** The `colo vm` processes of one host, which outlive the daemon. */
export { LocalRoom } from './local-room.ts';
export type { CommandLines, LocalRoomOptions } from './local-room.ts';
