/** The buttons of what may be asked for now. Nothing is done before the dialog's second button has been pressed. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Action, VmPicture } from '../../src/dashboard/protocol.ts';
import type { HostView } from '../../src/ha/views.ts';
import { ACTION_WORDS } from '../model/actions.ts';
import { usePage } from './store.ts';

interface Props {
  readonly vm: VmPicture;
  readonly hosts: readonly HostView[];
  readonly isOpen: boolean;
}

export function Actions({ vm, hosts, isOpen }: Props) {
  const { live } = usePage();
  const [asked, setAsked] = useState<Action | null>(null);
  const group = useRef<HTMLDivElement>(null);
  const close = (): void => {
    setAsked(null);
    // The button may be gone by now; the keyboard goes on from here all the same.
    requestAnimationFrame(() => {
      if (document.activeElement === document.body) group.current?.focus();
    });
  };
  const known = vm.actions.filter((action) => action in ACTION_WORDS);
  return (
    <div class="actions" role="group" aria-label={`Actions on ${vm.name}`} tabIndex={-1} ref={group}>
      {known.map((action) => (
        <button
          key={action}
          type="button"
          class={ACTION_WORDS[action].kind === 'harm' ? 'harm' : ''}
          data-action={action}
          disabled={!isOpen}
          onClick={() => setAsked(action)}
        >
          {ACTION_WORDS[action].label}
        </button>
      ))}
      {asked !== null && (
        <Confirm
          vm={vm}
          action={asked}
          hosts={hosts}
          onClose={close}
          onYes={(host) => live.act(vm, asked, host)}
        />
      )}
    </div>
  );
}

interface ConfirmProps {
  readonly vm: VmPicture;
  readonly action: Action;
  readonly hosts: readonly HostView[];
  readonly onClose: () => void;
  readonly onYes: (host?: string) => void;
}

function Confirm({ vm, action, hosts, onClose, onYes }: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const words = ACTION_WORDS[action];
  const targets = hosts.filter(
    (host) => host.isAlive && host.name !== vm.primary && host.name !== vm.secondary,
  );
  const [host, setHost] = useState(targets[0]?.name);
  const isMove = action === 'migrate';
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="confirm" aria-labelledby="confirm-title" onClose={onClose}>
      <h2 id="confirm-title">{words.label}</h2>
      <p>{words.says(vm)}</p>
      {isMove && targets.length > 0 && (
        <label class="choose">
          To{' '}
          <select value={host} onChange={(event) => setHost(event.currentTarget.value)}>
            {targets.map(({ name }) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      )}
      {isMove && targets.length === 0 && <p class="muted">No other host is alive.</p>}
      <div class="confirm-buttons">
        <button type="button" onClick={() => dialog.current?.close()}>
          Cancel
        </button>
        <button
          type="button"
          class={words.kind === 'harm' ? 'harm strong' : 'strong'}
          data-confirm={action}
          disabled={isMove && host === undefined}
          onClick={() => {
            dialog.current?.close();
            onYes(isMove ? host : undefined);
          }}
        >
          {words.confirm}
        </button>
      </div>
    </dialog>
  );
}
