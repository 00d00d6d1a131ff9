/** The process of a controller's copy, and whoever listens to it: there is one at most, and its end is told once. */
import type { RunningVm, VmExit } from '../ha/index.ts';
import type { QmpEvent } from '../qmp/types.ts';

export interface VmLinkHooks {
  event(event: QmpEvent): void;
  /** It is no longer the link's. */
  exited(vm: RunningVm, exit: VmExit): void;
}

export class VmLink {
  readonly #hooks: VmLinkHooks;
  #vm: RunningVm | null = null;
  #stopListening: (() => void) | null = null;

  constructor(hooks: VmLinkHooks) {
    this.#hooks = hooks;
  }

  get vm(): RunningVm | null {
    return this.#vm;
  }

  attach(vm: RunningVm): void {
    this.detach();
    this.#vm = vm;
    this.#stopListening = vm.qmp.onEvent((event) => this.#hooks.event(event));
    void vm.exited.then((exit) => {
      if (this.#vm !== vm) return;
      this.detach();
      this.#hooks.exited(vm, exit);
    });
  }

  /** Neither its events nor its end are told any more. */
  detach(): void {
    this.#stopListening?.();
    this.#stopListening = null;
    this.#vm = null;
  }
}

export function isGuestShutdown({ event, data }: QmpEvent): boolean {
  return event === 'SHUTDOWN' && (data as { readonly guest?: boolean } | undefined)?.guest === true;
}
