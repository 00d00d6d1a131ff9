/** The head of the page: what serves it, whether it can be heard, and the choice of the VM when there are several. */
import type { PageState } from '../model/state.ts';
import { usePage } from './store.ts';

export function Header({ state }: { readonly state: PageState }) {
  const { store, live } = usePage();
  const { hello, link } = state;
  return (
    <header class="top">
      <p class="brand">
        <Logo /> <strong>COLO</strong>
        <span class="muted">
          {hello === null ? '' : hello.kind === 'demo' ? 'demo' : `node ${hello.host ?? ''}`}
        </span>
      </p>
      {state.vms.length > 1 && (
        <label class="choose">
          <span class="muted">VM</span>
          <select
            value={state.watched ?? ''}
            onChange={(event) => store.dispatch({ type: 'choose', vm: event.currentTarget.value })}
          >
            {state.vms.map(({ name }) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
      )}
      <div class="link" role="status" data-link={link}>
        <span
          class={`dot ${link === 'open' ? 'good' : link === 'connecting' ? 'idle' : 'bad'}`}
          aria-hidden="true"
        />
        <span>{linkWords(state)}</span>
        {link === 'lost' && (
          <button type="button" class="small" onClick={() => live.retryNow()}>
            Try now
          </button>
        )}
      </div>
      {state.trouble !== null && (
        <p class="trouble" role="alert">
          {state.trouble}
        </p>
      )}
    </header>
  );
}

function linkWords({ link, linkText }: PageState): string {
  switch (link) {
    case 'open':
      return 'live';
    case 'connecting':
      return 'connecting…';
    case 'lost':
      return `connection lost: what you see is old; trying again…${linkText === '' ? '' : ` (${linkText})`}`;
    case 'token':
      return 'a token is needed';
    case 'refused':
      return linkText;
  }
}

function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect class="logo-a" x="2" y="7" width="12" height="18" rx="4" />
      <rect class="logo-b" x="18" y="7" width="12" height="18" rx="4" />
      <path class="logo-c" d="M14 13h4m-4 6h4" />
    </svg>
  );
}
