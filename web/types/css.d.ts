/** Bundled into app.css by esbuild; there is nothing to import from it. */
declare module '*.css';
