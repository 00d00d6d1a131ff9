/**
 * One copy's serial port in xterm.js. It stays through a failover: the text that was there is kept, a line says which host
 * speaks from here on. Tab goes to the guest, so Ctrl+Shift+Down and Up leave it.
 */
import { FitAddon } from '@xterm/addon-fit';
import { Terminal as Xterm } from '@xterm/xterm';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Copy } from '../../src/dashboard/protocol.ts';
import { ConsoleLink } from '../net/console-link.ts';
import type { ConsoleStatus } from '../net/console-link.ts';
import { useMedia } from './store.ts';
import { terminalTheme } from './theme.ts';

/** Lines above the screen. */
const SCROLLBACK_LIMIT = 2000;

interface Props {
  readonly id: string;
  readonly vm: string;
  readonly copy: Copy;
  readonly host: string | null;
  readonly isOffered: boolean;
  readonly mayType: boolean;
}

export function Terminal({ id, vm, copy, host, isOffered, mayType }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const before = useRef<HTMLDivElement>(null);
  const after = useRef<HTMLButtonElement>(null);
  const xterm = useRef<Xterm | null>(null);
  const link = useRef<ConsoleLink | null>(null);
  /** The host whose text is on the screen. */
  const spoke = useRef<string | null>(null);
  const [status, setStatus] = useState<ConsoleStatus>('connecting');
  const isDark = useMedia('(prefers-color-scheme: dark)');

  useEffect(() => {
    if (place.current === null) return undefined;
    const term = new Xterm({
      convertEol: false,
      disableStdin: !mayType,
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue('--mono'),
      fontSize: 12.5,
      scrollback: SCROLLBACK_LIMIT,
      minimumContrastRatio: 4.5,
      screenReaderMode: false,
    });
    const fit = new FitAddon();
    term.loadAddon(fit);
    term.open(place.current);
    term.textarea?.setAttribute('aria-label', `Serial console of the ${copy}. Ctrl+Shift+Down leaves it.`);
    term.attachCustomKeyEventHandler((event) => {
      if (event.ctrlKey && event.shiftKey && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
        if (event.type === 'keydown') (event.key === 'ArrowDown' ? after : before).current?.focus();
        return false;
      }
      // Nothing is typed here, so that Tab may go on.
      return mayType || event.key !== 'Tab';
    });
    const typed = term.onData((text) => link.current?.send(text));
    const observer = new ResizeObserver(() => fit.fit());
    observer.observe(place.current);
    xterm.current = term;
    return () => {
      observer.disconnect();
      typed.dispose();
      term.dispose();
      xterm.current = null;
    };
  }, [copy, mayType]);

  useEffect(() => {
    if (xterm.current !== null) xterm.current.options.theme = terminalTheme();
  }, [isDark, mayType]);

  useEffect(() => {
    if (!isOffered) {
      setStatus('connecting');
      return undefined;
    }
    if (spoke.current !== null && spoke.current !== host && host !== null) {
      // A guest that draws on the whole screen has put it into another mode, which this ends.
      xterm.current?.write(`\x1b[?1049l\x1b[0;2m\r\n── from here on: ${host} ──\x1b[0m\r\n`);
    }
    spoke.current = host;
    const opened = new ConsoleLink(vm, copy, {
      onBytes: (bytes) => xterm.current?.write(bytes),
      onStatus: setStatus,
    });
    link.current = opened;
    return () => {
      opened.close();
      link.current = null;
    };
  }, [vm, copy, host, isOffered]);

  return (
    <div
      id={`${id}-panel`}
      ref={before}
      tabIndex={-1}
      class="terminal"
      data-console={copy}
      data-status={isOffered ? status : 'absent'}
    >
      <div class="terminal-place" ref={place} />
      <p class="terminal-foot">
        <span class="muted">{statusWords(isOffered, status, mayType)}</span>
        <button type="button" class="small" ref={after} onClick={() => xterm.current?.clear()}>
          Clear
        </button>
      </p>
    </div>
  );
}

function statusWords(isOffered: boolean, status: ConsoleStatus, mayType: boolean): string {
  if (!isOffered) return 'no console at the moment';
  if (status === 'connecting') return 'connecting…';
  if (status === 'lost') return 'not connected; trying again…';
  return mayType ? 'Ctrl+Shift+↓ or ↑ leaves the console' : 'what is typed here goes nowhere';
}
