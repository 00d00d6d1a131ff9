/** Hosts and VMs. A VM's name is a button that chooses it. */
import { bytes, memory, millis, perSec, percent } from '../model/format.ts';
import { resyncShare, STATE_WORDS } from '../model/health.ts';
import type { PageState } from '../model/state.ts';
import type { VmPicture } from '../../src/dashboard/protocol.ts';
import type { HostView } from '../../src/ha/views.ts';
import { usePage } from './store.ts';

export function VmTable({ state }: { readonly state: PageState }) {
  const { store } = usePage();
  return (
    <section class="card" aria-labelledby="vms-title">
      <h2 id="vms-title">VMs</h2>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="vms-title">
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col">Primary</th>
              <th scope="col">Secondary</th>
              <th scope="col" class="number">
                Epoch
              </th>
              <th scope="col" class="number">
                Checkpoints
              </th>
              <th scope="col" class="number">
                Pause
              </th>
            </tr>
          </thead>
          <tbody>
            {state.vms.map((vm) => (
              <tr
                key={vm.name}
                class={vm.name === state.watched ? 'is-watched' : ''}
                onClick={() => store.dispatch({ type: 'choose', vm: vm.name })}
              >
                <th scope="row">
                  <button type="button" class="name" aria-pressed={vm.name === state.watched}>
                    {vm.name}
                  </button>
                </th>
                <td>
                  <span class="nowrap">
                    <span class={`dot ${STATE_WORDS[vm.state].tone}`} aria-hidden="true" />{' '}
                    {STATE_WORDS[vm.state].word}
                  </span>
                  <Resync vm={vm} />
                </td>
                <td>{vm.primary ?? '–'}</td>
                <td>{vm.secondary ?? '–'}</td>
                <td class="number">{vm.epoch}</td>
                <td class="number">
                  {vm.checkpoints === undefined ? '–' : perSec(vm.checkpoints.perSecond)}
                </td>
                <td class="number">
                  {vm.checkpoints?.lastPauseMs == null ? '–' : millis(vm.checkpoints.lastPauseMs)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {state.vms.length === 0 && <p class="muted">None.</p>}
    </section>
  );
}

function Resync({ vm }: { readonly vm: VmPicture }) {
  const copy = vm.copies.find(({ resync }) => resync !== undefined);
  const share = resyncShare(copy);
  if (copy?.resync === undefined || share === null) return null;
  const { doneBytes, totalBytes } = copy.resync;
  return (
    <span class="resync">
      <progress max={1} value={share} aria-label={`Disks of ${vm.name} on ${copy.host}`} />
      <small>
        {percent(share)}, {bytes(doneBytes)} of {bytes(totalBytes)}
      </small>
    </span>
  );
}

export function HostTable({ hosts }: { readonly hosts: readonly HostView[] }) {
  return (
    <section class="card" aria-labelledby="hosts-title">
      <h2 id="hosts-title">Hosts</h2>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="hosts-title">
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col" class="number">
                Primaries
              </th>
              <th scope="col" class="number">
                Secondaries
              </th>
              <th scope="col" class="number">
                Free RAM
              </th>
              <th scope="col">Address</th>
            </tr>
          </thead>
          <tbody>
            {hosts.map((host) => (
              <tr key={host.name}>
                <th scope="row">{host.name}</th>
                <td class="nowrap">
                  <span
                    class={`dot ${host.isAlive ? (host.isInMaintenance ? 'wait' : 'good') : 'bad'}`}
                    aria-hidden="true"
                  />{' '}
                  {host.isAlive ? (host.isInMaintenance ? 'maintenance' : 'alive') : 'silent'}
                </td>
                <td class="number">{host.vms.primary}</td>
                <td class="number">{host.vms.secondary}</td>
                <td class="number">
                  {memory(host.freeMemoryMiB)} of {memory(host.memoryMiB)}
                </td>
                <td>{host.api}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {hosts.length === 0 && <p class="muted">None.</p>}
    </section>
  );
}
