/** Asked for when the server wants a token and has not got the right one. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { isToken } from '../model/token.ts';
import { usePage } from './store.ts';

export function TokenForm({ text }: { readonly text: string }) {
  const { live } = usePage();
  const [error, setError] = useState(text);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  useEffect(() => setError(text), [text]);
  return (
    <main class="token">
      <form
        class="card"
        onSubmit={(event) => {
          event.preventDefault();
          const token = input.current?.value.trim() ?? '';
          if (isToken(token)) live.useToken(token);
          else setError('A token has letters, digits and a few signs, and no spaces.');
        }}
      >
        <h1>COLO</h1>
        <p>
          This page wants a token. It is in the address that the command printed, and in the node's
          configuration.
        </p>
        <label for="token">Token</label>
        <input
          id="token"
          ref={input}
          type="password"
          autocomplete="current-password"
          required
          aria-describedby="token-error"
          aria-invalid={error !== ''}
        />
        <p id="token-error" class="form-error" role="alert">
          {error}
        </p>
        <button type="submit" class="strong">
          Open
        </button>
      </form>
    </main>
  );
}
