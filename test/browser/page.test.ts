/**
 * The dashboard's page in a real browser, before the real server and an imitated source. One process and one browser for
 * all: life.ts is about what it shows, access.ts about who can read it.
 */
import { after } from 'node:test';
import { noBrowser } from '../helpers/browser.ts';
import { accessTests } from './access.ts';
import { lifeTests } from './life.ts';
import { closeBrowser } from './rig.ts';

after(closeBrowser);
lifeTests(noBrowser);
accessTests(noBrowser);
