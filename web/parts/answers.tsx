/** What came of what was asked for. Read out as it comes; stays until it is dismissed, or a while when all is well. */
import { useEffect } from 'preact/hooks';
import type { Answer } from '../model/state.ts';
import { usePage } from './store.ts';

const READING_MS = 12_000;

export function Answers({ answers }: { readonly answers: readonly Answer[] }) {
  return (
    <section class="answers" aria-label="Answers" aria-live="polite" aria-atomic="false">
      {answers.map((answer) => (
        <AnswerCard key={answer.id} answer={answer} />
      ))}
    </section>
  );
}

function AnswerCard({ answer }: { readonly answer: Answer }) {
  const { store } = usePage();
  const { id, title, vm, text, isError } = answer;
  const isDone = text !== null && !isError;
  useEffect(() => {
    if (!isDone) return undefined;
    const timer = setTimeout(() => store.dispatch({ type: 'dismiss', id }), READING_MS);
    return () => clearTimeout(timer);
  }, [isDone, id, store]);
  const tone = isError ? 'bad' : text === null ? 'wait' : 'good';
  return (
    <div class={`answer ${tone}`} role={isError ? 'alert' : undefined}>
      <p>
        <strong>
          {title}, {vm}
        </strong>
        <br />
        {text ?? 'asked; no answer yet…'}
      </p>
      <button
        type="button"
        class="small"
        aria-label={`Dismiss: ${title}`}
        onClick={() => store.dispatch({ type: 'dismiss', id })}
      >
        ✕
      </button>
    </div>
  );
}
