// Lint rules. The layer list is the project's one-way import rule (docs/architecture.md): a folder may import
// from folders to its left in LAYERS, never from its right.
import tseslint from 'typescript-eslint';

const LAYERS = [
  ['base'],
  ['chardev', 'nbd', 'qmp'],
  ['block', 'net'],
  ['engine'],
  ['checkpoint'],
  ['vm'],
  ['monitor'],
  ['switch', 'guest', 'ha'],
  ['api'],
  ['dashboard'],
  ['node'],
  ['demo'],
  ['cli'],
  ['lib'],
];

const layerRules = LAYERS.flatMap((tier, at) =>
  tier.map((folder) => {
    const forbidden = [...LAYERS.slice(at + 1).flat(), ...tier.filter((other) => other !== folder)];
    return {
      files: [`src/${folder}/**/*.ts`],
      rules: {
        'no-restricted-imports': [
          'error',
          {
            patterns: forbidden.map((other) => ({
              group: [
                `../${other}/*`,
                `../../${other}/*`,
                `../../../${other}/*`,
                `../${other}/**`,
                `../../${other}/**`,
              ],
              message: `${folder}/ may not import ${other}/ (imports point one way).`,
            })),
          },
        ],
      },
    };
  }),
);

export default tseslint.config(
  { ignores: ['dist/**', 'node_modules/**', '.cache/**', 'eslint.config.js'] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', package: 'node:test', name: ['test', 'it', 'describe', 'suite'] },
          ],
        },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
    },
  },
  ...layerRules,
  {
    // What other programs import needs no more than these, and nothing here imports it (LAYERS).
    files: ['src/lib/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '^\\.\\./(?!(?:base|nbd|qmp|block|net)/)',
              message: 'lib/ may import base/, nbd/, qmp/, block/ and net/ only.',
            },
          ],
        },
      ],
    },
  },
  {
    // Runs in a browser, so it takes types and plain constants of what it is told, and nothing else of the program.
    files: ['web/**/*.ts', 'web/**/*.tsx'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '/src/(?!dashboard/protocol\\.ts$|ha/views\\.ts$)',
              message: 'web/ may import src/dashboard/protocol.ts and src/ha/views.ts only.',
            },
          ],
        },
      ],
    },
  },
  {
    // No part of it knows the document: it is tested without one.
    files: ['web/model/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '^\\.\\./(?!\\.\\./src/(?:dashboard/protocol|ha/views)\\.ts$)',
              message: 'web/model/ may import itself, protocol.ts and views.ts only.',
            },
          ],
        },
      ],
      'no-restricted-globals': ['error', 'window', 'document', 'location', 'navigator', 'sessionStorage'],
    },
  },
  {
    // Shared by the engines, so it knows none of them.
    files: ['src/engine/ram/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              regex: '^\\.\\./(?!\\.\\./base/)',
              message: 'engine/ram/ may import base/ only.',
            },
          ],
        },
      ],
    },
  },
);
