/** The watched VM in a line: its name, its state and why, its epoch, its last failover; and what may be done to it. */
import { clock, duration, memory } from '../model/format.ts';
import { STATE_WORDS } from '../model/health.ts';
import type { PageState } from '../model/state.ts';
import type { VmPicture } from '../../src/dashboard/protocol.ts';
import { Actions } from './actions.tsx';
import { useNow } from './store.ts';

export function VmHeading({ vm, state }: { readonly vm: VmPicture; readonly state: PageState }) {
  const now = useNow(1000) + state.skewMs;
  const { word, tone } = STATE_WORDS[vm.state];
  const last = vm.lastFailover;
  return (
    <section
      class="card heading"
      aria-labelledby="vm-name"
      data-vm={vm.name}
      data-state={vm.state}
      data-epoch={vm.epoch}
      data-primary={vm.primary}
    >
      <div class="heading-words">
        <h1 id="vm-name">{vm.name}</h1>
        <p class="pill-line">
          <span class={`pill ${tone}`}>
            <span class={`dot ${tone}`} aria-hidden="true" />
            {word}
          </span>
          <span class="muted">for {duration(now - vm.sinceMs)}</span>
          {vm.isPaused && <span class="pill idle">automation suspended</span>}
        </p>
        <p class="reason">{vm.reason}</p>
      </div>
      <dl class="facts">
        <div>
          <dt>Epoch</dt>
          <dd key={vm.epoch} class="epoch">
            {vm.epoch}
          </dd>
        </div>
        <div>
          <dt>Checkpoints</dt>
          <dd>{vm.checkpoints?.count ?? '–'}</dd>
        </div>
        <div>
          <dt>RAM, engine</dt>
          <dd>
            {memory(vm.memoryMiB)}, {vm.engine}
          </dd>
        </div>
        <div>
          <dt>Last failover</dt>
          <dd title={last?.reason}>
            {last === undefined ? 'none' : `${last.from} → ${last.to}, ${clock(last.atMs)}`}
          </dd>
        </div>
      </dl>
      {state.hello?.mayAct === true && <Actions vm={vm} hosts={state.hosts} isOpen={state.link === 'open'} />}
    </section>
  );
}
