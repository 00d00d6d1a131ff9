/** The page: one store, one connection, and the parts that draw it. */
import { render } from 'preact';
import { Store } from './model/store.ts';
import { Live } from './net/live.ts';
import { takeToken } from './net/session.ts';
import { App } from './parts/app.tsx';
import { PageContext } from './parts/store.ts';
import './style/index.css';

takeToken();
const store = new Store(() => Date.now());
const live = new Live(store);
const root = document.querySelector('#page');
if (root === null) throw new Error('index.html has no #page');
root.replaceChildren();
render(
  <PageContext value={{ store, live }}>
    <App />
  </PageContext>,
  root,
);
live.connect();
