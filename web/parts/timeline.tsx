/** What has happened, the newest first, of all VMs or of one. */
import { useState } from 'preact/hooks';
import { clock } from '../model/format.ts';
import { STATE_WORDS } from '../model/health.ts';
import { eventKey } from '../model/reduce.ts';
import type { VmPicture } from '../../src/dashboard/protocol.ts';
import type { HaEvent } from '../../src/ha/views.ts';

/** More than that nobody reads on a page; colo events has the rest. */
const SHOWN_LIMIT = 100;

interface Props {
  readonly events: readonly HaEvent[];
  readonly vms: readonly VmPicture[];
}

export function Timeline({ events, vms }: Props) {
  const [filter, setFilter] = useState('');
  const names = [...new Set([...vms.map(({ name }) => name), ...events.map(({ vm }) => vm ?? '')])].filter(
    Boolean,
  );
  const matching = filter === '' ? events : events.filter(({ vm }) => vm === filter);
  const shown = matching.slice(-SHOWN_LIMIT).reverse();
  return (
    <section class="card" aria-labelledby="events-title">
      <div class="card-head">
        <h2 id="events-title">Events</h2>
        <label class="choose">
          <span class="muted">of</span>
          <select value={filter} onChange={(event) => setFilter(event.currentTarget.value)}>
            <option value="">everything</option>
            {names.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
      </div>
      <ol class="events" tabIndex={0} aria-labelledby="events-title">
        {shown.map((event) => (
          <EventLine key={eventKey(event)} event={event} />
        ))}
      </ol>
      {shown.length === 0 && <p class="muted">Nothing yet.</p>}
    </section>
  );
}

function EventLine({ event }: { readonly event: HaEvent }) {
  const tone = event.to === undefined ? toneOf(event.type) : STATE_WORDS[event.to].tone;
  const at = Date.parse(event.time);
  return (
    <li>
      <time dateTime={event.time} title={event.time}>
        {Number.isNaN(at) ? event.time : clock(at)}
      </time>
      <span class={`dot ${tone}`} aria-hidden="true" />
      <span>
        <strong>{event.to === undefined ? event.type : STATE_WORDS[event.to].word}</strong>{' '}
        <span class="muted">{event.vm === undefined ? event.host : `${event.vm} on ${event.host}`}</span>
        <br />
        {event.reason}
      </span>
    </li>
  );
}

/** docs/events.md names the types. */
function toneOf(type: string): 'good' | 'bad' | 'wait' | 'idle' {
  if (/lost|died|unreachable|trouble|silent/.test(type)) return 'bad';
  if (/back|heard/.test(type)) return 'good';
  return type === 'failover' ? 'wait' : 'idle';
}
