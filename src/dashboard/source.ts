/**
 * What the dashboard's server asks for what it shows. colo demo and colo node each implement it; the server knows neither.
 * Nothing is asked while nobody watches.
 */
import type { Duplex } from 'node:stream';
import type { EventQuery } from '../api/service.ts';
import type { HaEvent, HostView } from '../ha/views.ts';
import type { Action, Copy, VmPicture } from './protocol.ts';

/** One QMP command to the primary of a VM. */
export type AskPrimary = (command: string, args?: Readonly<Record<string, unknown>>) => Promise<unknown>;

export interface DashboardSource {
  readonly kind: 'demo' | 'node';
  readonly software: string;
  readonly host: string | null;
  hosts(): Promise<readonly HostView[]>;
  vms(): Promise<readonly VmPicture[]>;
  /** Kept events, then those that come until `signal`. */
  events(query: EventQuery): AsyncIterable<HaEvent>;
  /**
   * The monitor of the VM's primary, for counters and checkpoints (pair-numbers.ts). Throws ColoError when there is none to
   * be asked.
   */
  primary(vm: string): Promise<AskPrimary>;
  /** Resolves with a sentence when it is done. Throws ColoError. */
  act(
    vm: string,
    action: Action,
    options: { readonly host?: string; readonly signal: AbortSignal },
  ): Promise<string>;
  /** The first serial port. What is written to a secondary's is discarded. Throws ColoError. */
  console(vm: string, copy: Copy): Promise<Duplex>;
  /** The VNC server's bytes (RFB). Throws ColoError. */
  screen(vm: string, copy: Copy): Promise<Duplex>;
}
