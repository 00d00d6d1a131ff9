/** The charts, and how often they are drawn: once a second while the page can be seen, and when a checkpoint has come. */
import { useEffect, useState } from 'preact/hooks';
import { CHARTS } from '../model/charts.ts';
import { Chart } from './chart.tsx';
import { useMedia, usePage } from './store.ts';

const EVERY_MS = 1000;

export function Charts() {
  const { store } = usePage();
  const isDark = useMedia('(prefers-color-scheme: dark)');
  const [frame, setFrame] = useState({ state: store.state, nowMs: store.serverNow() });
  useEffect(() => {
    const draw = (): void => {
      if (!document.hidden) setFrame({ state: store.state, nowMs: store.serverNow() });
    };
    const timer = setInterval(draw, EVERY_MS);
    const stop = store.subscribe((state, before) => {
      if (state.samples !== before.samples || state.watched !== before.watched) draw();
    });
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [store]);
  return (
    <section class="charts" aria-label="Charts">
      {CHARTS.map((chart) => (
        <Chart
          key={`${chart.id} ${isDark ? 'dark' : 'light'}`}
          chart={chart}
          state={frame.state}
          nowMs={frame.nowMs}
        />
      ))}
    </section>
  );
}
