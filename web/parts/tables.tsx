/** Hosts and VMs. A VM's name is a button that chooses it. */
import { bytes, memory, millis, perSec, percent } from '../model/format.ts';
import { resyncShare, STATE_WORDS } from '../model/health.ts';
import type { PageState } from '../model/state.ts';
import type { VmPicture } from '../../src/dashboard/protocol.ts';
import type { HostView } from '../../src/ha/views.ts';
import type { ComponentChildren } from 'preact';
import { usePage } from './store.ts';

interface Column {
  readonly title: string;
  readonly isNumber?: true;
}

const VM_COLUMNS: readonly Column[] = [
  { title: 'Name' },
  { title: 'State' },
  { title: 'Primary' },
  { title: 'Secondary' },
  { title: 'Epoch', isNumber: true },
  { title: 'Checkpoints', isNumber: true },
  { title: 'Pause', isNumber: true },
];

const HOST_COLUMNS: readonly Column[] = [
  { title: 'Name' },
  { title: 'State' },
  { title: 'Primaries', isNumber: true },
  { title: 'Secondaries', isNumber: true },
  { title: 'Free RAM', isNumber: true },
  { title: 'Address' },
];

export function VmTable({ state }: { readonly state: PageState }) {
  const { store } = usePage();
  return (
    <Table id="vms" title="VMs" columns={VM_COLUMNS} isEmpty={state.vms.length === 0}>
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
          <td class="number">{vm.checkpoints === undefined ? '–' : perSec(vm.checkpoints.perSecond)}</td>
          <td class="number">
            {vm.checkpoints?.lastPauseMs == null ? '–' : millis(vm.checkpoints.lastPauseMs)}
          </td>
        </tr>
      ))}
    </Table>
  );
}

/** How far the disks of a copy that joins are. */
export function Resync({ vm }: { readonly vm: VmPicture }) {
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
    <Table id="hosts" title="Hosts" columns={HOST_COLUMNS} isEmpty={hosts.length === 0}>
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
    </Table>
  );
}

interface TableShape {
  readonly id: string;
  readonly title: string;
  readonly columns: readonly Column[];
  readonly isEmpty: boolean;
  /** Rows. */
  readonly children: ComponentChildren;
}

function Table({ id, title, columns, isEmpty, children }: TableShape) {
  const heading = `${id}-title`;
  return (
    <section class="card" aria-labelledby={heading}>
      <h2 id={heading}>{title}</h2>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby={heading}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column.title} scope="col" class={column.isNumber ? 'number' : undefined}>
                  {column.title}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>{children}</tbody>
        </table>
      </div>
      {isEmpty && <p class="muted">None.</p>}
    </section>
  );
}
