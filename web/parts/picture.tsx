/**
 * COLO's own picture, alive: what passes between the world, the primary, colo-compare and the secondary. For those who do
 * not see it, a paragraph says how the pair is and a table has the numbers of every arrow.
 */
import { arrowsOf, channelNote, heldLines, inFlightNote } from '../model/arrows.ts';
import type { Arrow } from '../model/arrows.ts';
import { describePair, pairHealth } from '../model/health.ts';
import type { CopyHealth, PairHealth } from '../model/health.ts';
import { NARROW, WIDE } from '../model/layout.ts';
import type { Layout } from '../model/layout.ts';
import type { PageState } from '../model/state.ts';
import type { PairPicture, VmPicture } from '../../src/dashboard/protocol.ts';
import { ArrowLine } from './picture-arrow.tsx';
import { Box } from './picture-box.tsx';
import { useMedia } from './store.ts';

export function Picture({ vm, state }: { readonly vm: VmPicture; readonly state: PageState }) {
  const layout = useMedia('(max-width: 719px)') ? NARROW : WIDE;
  const health = pairHealth(vm, state.losses.get(vm.name) ?? null);
  const arrows = arrowsOf(health, state.pair);
  return (
    <section class="card picture" aria-labelledby="picture-title">
      <h2 id="picture-title" class="unseen">
        The pair
      </h2>
      <p id="picture-words" class="unseen">
        {describePair(vm, health)}
      </p>
      <Drawing layout={layout} health={health} arrows={arrows} pair={state.pair} vm={vm} />
      <details class="numbers">
        <summary>The numbers as a table</summary>
        <div class="scroll" tabIndex={0} role="region" aria-label="Numbers of the arrows">
          <ArrowTable arrows={arrows} pair={state.pair} />
        </div>
      </details>
    </section>
  );
}

interface DrawingProps {
  readonly layout: Layout;
  readonly health: PairHealth;
  readonly arrows: readonly Arrow[];
  readonly pair: PairPicture | null;
  readonly vm: VmPicture;
}

function Drawing({ layout, health, arrows, pair, vm }: DrawingProps) {
  const isWhole = health.between === 'all';
  const held = isWhole ? heldLines(pair, layout.isNarrow) : [];
  const notes = [channelNote(pair), inFlightNote(pair)];
  const fine = isWhole ? '' : 'is-off';
  const hasDisks = health.between === 'none' ? 'is-off' : '';
  return (
    <svg
      class={layout.isNarrow ? 'narrow' : 'wide'}
      viewBox={`0 0 ${layout.width} ${layout.height}`}
      role="img"
      aria-labelledby="picture-title picture-words"
    >
      <Group layout={layout} health={health.primary} title="Primary" />
      <Group layout={layout} health={health.secondary} title="Secondary" />
      {layout.chain.map(([x1, y1, x2, y2], at) => (
        <line key={at} class={`chain ${fine}`} x1={x1} y1={y1} x2={x2} y2={y2} />
      ))}
      {arrows.map((arrow) => (
        <ArrowLine
          key={arrow.id}
          arrow={arrow}
          shape={layout.arrows[arrow.id]}
          isNarrow={layout.isNarrow}
          note={
            arrow.isOpen
              ? arrow.id === 'channel'
                ? notes[0]
                : arrow.id === 'replication'
                  ? notes[1]
                  : ''
              : ''
          }
        />
      ))}
      <Box at={layout.boxes.world} kind="world" title="the world" />
      <Box at={layout.boxes.mirror} kind="filter" title={layout.isNarrow ? 'mirror' : 'filter-mirror'} />
      <Box at={layout.boxes.compare} kind="filter compare" title="colo-compare" lines={held} />
      <Box at={layout.boxes['redirector-in']} kind={`filter ${fine}`} title="redirector" />
      <Box at={layout.boxes['redirector-out']} kind={`filter ${fine}`} title="redirector" />
      <Box
        at={layout.boxes.rewriter}
        kind={`filter ${fine}`}
        title="rewriter"
        lines={layout.isNarrow ? ['TCP'] : ['TCP numbers']}
      />
      <Guest layout={layout} health={health.primary} vm={vm} />
      <Guest layout={layout} health={health.secondary} vm={vm} />
      <Box at={layout.boxes['primary-disk']} kind="disk" title="disk" />
      <Box
        at={layout.boxes['secondary-disk']}
        kind={`disk ${hasDisks}`}
        title={layout.isNarrow ? 'secondary disk' : 'secondary'}
        share={health.secondary.resync}
      />
      <Box
        at={layout.boxes['hidden-disk']}
        kind={`disk ${fine}`}
        title={layout.isNarrow ? 'hidden disk' : 'hidden'}
      />
      <Box
        at={layout.boxes['active-disk']}
        kind={`disk ${fine}`}
        title={layout.isNarrow ? 'active disk' : 'active'}
      />
    </svg>
  );
}

interface GroupProps {
  readonly layout: Layout;
  readonly health: CopyHealth;
  readonly title: string;
}

/** Names are as long as their owners like; here is room for so many letters. */
const clip = (text: string, letters: number): string =>
  text.length <= letters ? text : `${text.slice(0, letters - 1)}…`;

function Group({ layout, health, title }: GroupProps) {
  const { x, y, w, h } = layout.groups[health.copy];
  const inner = layout.isNarrow ? 8 : 20;
  return (
    <g
      class={`group ${health.copy} mood-${health.mood} tone-${health.tone}`}
      data-copy={health.copy}
      data-mood={health.mood}
    >
      <rect class="host" x={x} y={y} width={w} height={h} rx={layout.isNarrow ? 10 : 16} />
      {/* A new element for another host: it lights up once. */}
      <rect
        key={health.host}
        class="arrival"
        x={x}
        y={y}
        width={w}
        height={h}
        rx={layout.isNarrow ? 10 : 16}
      />
      <text class="group-title" x={x + inner} y={y + (layout.isNarrow ? 18 : 26)}>
        {title}
        {!layout.isNarrow && health.host !== null && (
          <tspan class="group-host"> {clip(health.host, 20)}</tspan>
        )}
      </text>
      {layout.isNarrow && (
        <text class="group-host" x={x + inner} y={y + 34}>
          {clip(health.host ?? '–', health.copy === 'primary' ? 13 : 18)}
        </text>
      )}
    </g>
  );
}

const SIGNS = { good: '●', wait: '◐', bad: '✕', idle: '○' } as const;

function Guest({
  layout,
  health,
  vm,
}: {
  readonly layout: Layout;
  readonly health: CopyHealth;
  readonly vm: VmPicture;
}) {
  const name = health.mood === 'absent' ? 'no guest' : clip(vm.name, layout.isNarrow ? 14 : 30);
  const parts = [`${SIGNS[health.tone]} ${health.word}`, health.note];
  if (!layout.isNarrow && health.pid !== null) parts.push(`pid ${health.pid}`);
  const text = parts.filter(Boolean);
  return (
    <Box
      at={layout.boxes[health.copy]}
      kind={`guest ${health.copy} tone-${health.tone} mood-${health.mood}`}
      title={name}
      lines={layout.isNarrow ? text : [text.join('  ·  ')]}
    />
  );
}

function ArrowTable({
  arrows,
  pair,
}: {
  readonly arrows: readonly Arrow[];
  readonly pair: PairPicture | null;
}) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">From, to</th>
          <th scope="col">Now</th>
        </tr>
      </thead>
      <tbody>
        {arrows.map((arrow) => (
          <tr key={arrow.id}>
            <th scope="row">{arrow.title}</th>
            <td>
              {arrow.isOpen
                ? arrow.lines.join(', ') || (arrow.pace === null ? 'open' : 'flows')
                : 'nothing passes'}
            </td>
          </tr>
        ))}
        <tr>
          <th scope="row">held by colo-compare</th>
          <td>{heldLines(pair, false).join(', ') || '–'}</td>
        </tr>
      </tbody>
    </table>
  );
}
