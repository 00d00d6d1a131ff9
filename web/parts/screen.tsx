/** One copy's VNC screen. noVNC is loaded when the first one is looked at; it costs nothing before. */
import type RFB from '@novnc/novnc';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Copy } from '../../src/dashboard/protocol.ts';
import { waitMs } from '../model/back-off.ts';
import { openSocket } from '../net/session.ts';

interface Props {
  readonly id: string;
  readonly vm: string;
  readonly copy: Copy;
  readonly mayType: boolean;
}

export function Screen({ id, vm, copy, mayType }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const after = useRef<HTMLButtonElement>(null);
  const rfb = useRef<RFB | null>(null);
  const [status, setStatus] = useState('connecting…');

  useEffect(() => {
    let isOver = false;
    let failures = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = (): void => {
      if (isOver) return;
      setStatus('not connected; trying again…');
      timer = setTimeout(() => void connect(), waitMs(failures++));
    };
    const connect = async (): Promise<void> => {
      const { default: Rfb } = await import('@novnc/novnc');
      if (isOver || place.current === null) return;
      place.current.replaceChildren();
      const shown = new Rfb(place.current, openSocket('v1/screen', { vm, copy }));
      rfb.current = shown;
      shown.viewOnly = !mayType;
      shown.scaleViewport = true;
      shown.background = 'transparent';
      shown.addEventListener('connect', () => {
        failures = 0;
        setStatus('');
        place.current?.querySelector('canvas')?.setAttribute('aria-label', `Screen of the ${copy}`);
      });
      shown.addEventListener('credentialsrequired', () => {
        setStatus('this VNC server wants a password, which this page has not');
        shown.disconnect();
      });
      shown.addEventListener('disconnect', again);
    };
    connect().catch(() => setStatus('the viewer could not be loaded'));
    return () => {
      isOver = true;
      clearTimeout(timer);
      rfb.current?.disconnect();
      rfb.current = null;
    };
  }, [vm, copy, mayType]);

  return (
    <div
      id={`${id}-panel`}
      class="terminal"
      role="tabpanel"
      aria-labelledby={`${id}-tab-vnc`}
      data-screen={copy}
      data-status={status === '' ? 'open' : 'lost'}
    >
      <div
        class="terminal-place screen-place"
        ref={place}
        onKeyDownCapture={(event) => {
          if (event.ctrlKey && event.shiftKey && event.key === 'ArrowDown') {
            event.preventDefault();
            event.stopPropagation();
            after.current?.focus();
          }
        }}
      />
      <p class="terminal-foot">
        <span class="muted">
          {status || (mayType ? 'Ctrl+Shift+↓ leaves the screen' : 'to look at only')}
        </span>
        <button type="button" class="small" ref={after} onClick={() => rfb.current?.focus()}>
          {mayType ? 'Type here' : 'Focus'}
        </button>
      </p>
    </div>
  );
}
