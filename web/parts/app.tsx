/** The order of things: where one is, how the pair is, its consoles, what it cost, what happened, and the whole cluster. */
import { useEffect } from 'preact/hooks';
import { STATE_WORDS } from '../model/health.ts';
import { watchedVm } from '../model/state.ts';
import { Answers } from './answers.tsx';
import { Charts } from './charts.tsx';
import { Consoles } from './consoles.tsx';
import { Header } from './header.tsx';
import { Picture } from './picture.tsx';
import { usePageState } from './store.ts';
import { HostTable, VmTable } from './tables.tsx';
import { Timeline } from './timeline.tsx';
import { TokenForm } from './token-form.tsx';
import { VmHeading } from './vm-heading.tsx';

export function App() {
  const state = usePageState();
  const vm = watchedVm(state);
  const title = vm === null ? 'COLO' : `${vm.name}: ${STATE_WORDS[vm.state].word}, COLO`;
  useEffect(() => {
    document.title = title;
  }, [title]);
  if (state.link === 'token') return <TokenForm text={state.linkText} />;
  return (
    <>
      <a class="skip" href="#main">
        Skip to the picture
      </a>
      <Header state={state} />
      <main id="main" tabIndex={-1} class={state.link === 'open' ? '' : 'is-stale'}>
        {vm === null ? (
          <p class="empty">{emptyText(state.hasCluster, state.link === 'refused')}</p>
        ) : (
          <>
            <VmHeading key={vm.name} vm={vm} state={state} />
            <Picture vm={vm} state={state} />
            <Consoles key={`consoles ${vm.name}`} vm={vm} mayAct={state.hello?.mayAct ?? false} />
            <Charts />
          </>
        )}
        <div class="columns">
          <Timeline events={state.events} vms={state.vms} />
          <div class="stack">
            <VmTable state={state} />
            <HostTable hosts={state.hosts} />
          </div>
        </div>
      </main>
      <Answers answers={state.answers} />
    </>
  );
}

function emptyText(hasCluster: boolean, isRefused: boolean): string {
  if (isRefused) return 'Nothing can be shown.';
  return hasCluster ? 'No VM yet. Start one with colo up FILE.' : 'Asking the server…';
}
