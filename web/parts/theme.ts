/** The colours of style/tokens.css for what draws on a canvas of its own. */
const property = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = property;

export function terminalTheme() {
  const ink = property('--term-ink');
  const ground = property('--term-ground');
  return {
    foreground: ink,
    background: ground,
    cursor: property('--primary'),
    cursorAccent: ground,
    selectionBackground: property('--term-selection'),
    black: property('--term-black'),
    brightBlack: property('--muted'),
    white: ink,
    brightWhite: ink,
    green: property('--good'),
    brightGreen: property('--good'),
    yellow: property('--wait'),
    brightYellow: property('--wait'),
    red: property('--bad'),
    brightRed: property('--bad'),
    blue: property('--primary'),
    brightBlue: property('--primary'),
    cyan: property('--secondary'),
    brightCyan: property('--secondary'),
  };
}
