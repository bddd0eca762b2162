// Copies the npm files of the dashboard into its folder in the server.

import { copyFileSync, mkdirSync } from 'node:fs';

const from = new URL('node_modules/uplot/', import.meta.url);
const to = new URL('../../server/bert_serving/server/http/static/dashboard/vendor/', import.meta.url);

mkdirSync(to, { recursive: true });
copyFileSync(new URL('dist/uPlot.iife.min.js', from), new URL('uPlot.iife.min.js', to));
copyFileSync(new URL('dist/uPlot.min.css', from), new URL('uPlot.min.css', to));
copyFileSync(new URL('LICENSE', from), new URL('uPlot.LICENSE', to));
