/**
 * The guest's consoles side by side: the primary's to type on, the secondary's to watch. A copy with a VNC server has its
 * screen behind a second tab.
 */
import { useState } from 'preact/hooks';
import { COPIES } from '../../src/dashboard/protocol.ts';
import type { Copy, VmPicture } from '../../src/dashboard/protocol.ts';
import { Screen } from './screen.tsx';
import { Tabs } from './tabs.tsx';
import { Terminal } from './terminal.tsx';

export function Consoles({ vm, mayAct }: { readonly vm: VmPicture; readonly mayAct: boolean }) {
  return (
    <section class="consoles" aria-label="Consoles">
      {COPIES.map((copy) => (
        <ConsoleCard key={copy} vm={vm} copy={copy} mayAct={mayAct} />
      ))}
    </section>
  );
}

const TITLES: Readonly<Record<Copy, string>> = { primary: 'Primary', secondary: 'Secondary' };

interface CardProps {
  readonly vm: VmPicture;
  readonly copy: Copy;
  readonly mayAct: boolean;
}

function ConsoleCard({ vm, copy, mayAct }: CardProps) {
  const mayType = mayAct && copy === 'primary';
  const [wanted, setWanted] = useState<'serial' | 'vnc'>('serial');
  const { serial } = vm.screens[copy];
  // A screen takes keys: who may only watch is not given one.
  const vnc = vm.screens[copy].vnc && mayAct;
  const shown = wanted === 'vnc' && vnc ? 'vnc' : serial || !vnc ? 'serial' : 'vnc';
  const host = vm[copy];
  const id = `console-${copy}`;
  return (
    <section class={`card console ${copy}`} aria-labelledby={`${id}-title`}>
      <div class="card-head">
        <h2 id={`${id}-title`}>
          {TITLES[copy]} console{' '}
          <span class="muted">
            {host ?? ''}
            {mayType ? '' : host === null ? '' : ', read-only'}
          </span>
        </h2>
        {serial && vnc && (
          <Tabs
            id={id}
            label={`${TITLES[copy]} console`}
            tabs={[
              { key: 'serial', title: 'Serial' },
              { key: 'vnc', title: 'Screen' },
            ]}
            chosen={shown}
            onChoose={(key) => setWanted(key === 'vnc' ? 'vnc' : 'serial')}
          />
        )}
      </div>
      {/* Not kept while hidden: a screen that nobody looks at costs nothing. */}
      {shown === 'vnc' ? (
        <Screen key={`vnc ${host ?? ''}`} id={id} vm={vm.name} copy={copy} mayType={mayType} />
      ) : (
        <Terminal id={id} vm={vm.name} copy={copy} host={host} isOffered={serial} mayType={mayType} />
      )}
    </section>
  );
}
