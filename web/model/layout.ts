/**
 * Where the parts of the picture stand: once side by side with room for words, once for a phone, where the same picture has
 * narrow columns. A test holds every arrow to the edges of the boxes that it joins.
 */
import type { ArrowId } from './arrows.ts';

export interface Rect {
  readonly x: number;
  readonly y: number;
  readonly w: number;
  readonly h: number;
}

export const BOXES = [
  'world',
  'mirror',
  'compare',
  'redirector-in',
  'redirector-out',
  'rewriter',
  'primary',
  'secondary',
  'primary-disk',
  'secondary-disk',
  'hidden-disk',
  'active-disk',
] as const;
export type BoxId = (typeof BOXES)[number];

export type Anchor = 'start' | 'middle' | 'end';

export interface ArrowShape {
  readonly from: BoxId;
  readonly to: BoxId;
  /** Straight, from edge to edge. */
  readonly line: readonly [number, number, number, number];
  /** First line's baseline. `above` is the name's, when it stands on the other side of the arrow. */
  readonly label?: {
    readonly x: number;
    readonly y: number;
    readonly anchor: Anchor;
    readonly above?: number;
  };
}

export interface Layout {
  readonly width: number;
  readonly height: number;
  readonly isNarrow: boolean;
  readonly groups: Readonly<Record<'primary' | 'secondary', Rect>>;
  readonly boxes: Readonly<Record<BoxId, Rect>>;
  readonly arrows: Readonly<Record<ArrowId, ArrowShape>>;
  /** Active on hidden, hidden on secondary disk: a chain of backing files, over which nothing is measured. */
  readonly chain: readonly (readonly [number, number, number, number])[];
}

const box = (x: number, y: number, w: number, h: number): Rect => ({ x, y, w, h });

type Between = readonly [BoxId, BoxId, number, number, number, number];
const arrow = ([from, to, ...line]: Between, label?: ArrowShape['label']): ArrowShape =>
  label === undefined ? { from, to, line } : { from, to, line, label };

export const WIDE: Layout = {
  width: 1000,
  height: 484,
  isNarrow: false,
  groups: { primary: box(12, 98, 398, 378), secondary: box(590, 98, 398, 378) },
  boxes: {
    world: box(12, 6, 976, 36),
    mirror: box(32, 140, 292, 38),
    compare: box(132, 206, 258, 66),
    'redirector-in': box(610, 140, 146, 38),
    'redirector-out': box(610, 220, 146, 38),
    rewriter: box(796, 140, 172, 118),
    primary: box(32, 322, 358, 58),
    secondary: box(610, 322, 358, 58),
    'primary-disk': box(32, 418, 358, 40),
    'secondary-disk': box(610, 418, 106, 40),
    'hidden-disk': box(736, 418, 106, 40),
    'active-disk': box(862, 418, 106, 40),
  },
  arrows: {
    in: arrow(['world', 'mirror', 296, 42, 296, 140], { x: 286, y: 68, anchor: 'end' }),
    'to-primary': arrow(['mirror', 'primary', 82, 178, 82, 322]),
    mirror: arrow(['mirror', 'redirector-in', 324, 159, 610, 159], {
      x: 500,
      y: 178,
      anchor: 'middle',
      above: 150,
    }),
    'to-secondary': arrow(['rewriter', 'secondary', 844, 258, 844, 322]),
    'primary-out': arrow(['primary', 'compare', 176, 322, 176, 272], { x: 188, y: 293, anchor: 'start' }),
    'secondary-said': arrow(['secondary', 'rewriter', 920, 322, 920, 258]),
    'secondary-out': arrow(['redirector-out', 'compare', 610, 239, 390, 239], {
      x: 500,
      y: 258,
      anchor: 'middle',
      above: 230,
    }),
    released: arrow(['compare', 'world', 358, 206, 358, 42], { x: 368, y: 68, anchor: 'start' }),
    channel: arrow(['primary', 'secondary', 390, 351, 610, 351], {
      x: 500,
      y: 370,
      anchor: 'middle',
      above: 342,
    }),
    'primary-writes': arrow(['primary', 'primary-disk', 211, 380, 211, 418]),
    replication: arrow(['primary-disk', 'secondary-disk', 390, 438, 610, 438], {
      x: 500,
      y: 457,
      anchor: 'middle',
      above: 429,
    }),
    'secondary-writes': arrow(['secondary', 'active-disk', 915, 380, 915, 418]),
  },
  chain: [
    [862, 438, 842, 438],
    [736, 438, 716, 438],
    [756, 159, 796, 159],
    [796, 239, 756, 239],
  ],
};

export const NARROW: Layout = {
  width: 340,
  height: 574,
  isNarrow: true,
  groups: { primary: box(1, 84, 139, 488), secondary: box(200, 84, 139, 488) },
  boxes: {
    world: box(1, 2, 338, 28),
    mirror: box(8, 132, 102, 30),
    compare: box(30, 204, 102, 80),
    'redirector-in': box(207, 132, 62, 30),
    'redirector-out': box(207, 229, 62, 30),
    rewriter: box(279, 132, 53, 127),
    primary: box(8, 346, 124, 60),
    secondary: box(207, 346, 125, 60),
    'primary-disk': box(8, 534, 124, 30),
    'secondary-disk': box(207, 534, 125, 30),
    'hidden-disk': box(207, 490, 125, 30),
    'active-disk': box(207, 446, 125, 30),
  },
  arrows: {
    in: arrow(['world', 'mirror', 94, 30, 94, 132], { x: 87, y: 48, anchor: 'end' }),
    'to-primary': arrow(['mirror', 'primary', 18, 162, 18, 346]),
    mirror: arrow(['mirror', 'redirector-in', 110, 147, 207, 147], {
      x: 170,
      y: 163,
      anchor: 'middle',
      above: 140,
    }),
    'to-secondary': arrow(['rewriter', 'secondary', 292, 259, 292, 346]),
    'primary-out': arrow(['primary', 'compare', 62, 346, 62, 284], { x: 70, y: 304, anchor: 'start' }),
    'secondary-said': arrow(['secondary', 'rewriter', 320, 346, 320, 259]),
    'secondary-out': arrow(['redirector-out', 'compare', 207, 244, 132, 244], {
      x: 170,
      y: 260,
      anchor: 'middle',
      above: 237,
    }),
    released: arrow(['compare', 'world', 124, 204, 124, 30], { x: 131, y: 48, anchor: 'start' }),
    channel: arrow(['primary', 'secondary', 132, 376, 207, 376], {
      x: 170,
      y: 392,
      anchor: 'middle',
      above: 369,
    }),
    'primary-writes': arrow(['primary', 'primary-disk', 70, 406, 70, 534]),
    replication: arrow(['primary-disk', 'secondary-disk', 132, 549, 207, 549], {
      x: 170,
      y: 512,
      anchor: 'middle',
      above: 498,
    }),
    'secondary-writes': arrow(['secondary', 'active-disk', 270, 406, 270, 446]),
  },
  chain: [
    [270, 476, 270, 490],
    [270, 520, 270, 534],
    [269, 147, 279, 147],
    [279, 244, 269, 244],
  ],
};
