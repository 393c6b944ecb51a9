'use strict';
// node's own best way: a primary that lives on, and workers replaced two at a time on SIGHUP. `current` is looked up anew.
const cluster = require('cluster');
const path = require('path');

const app = path.join(process.argv[2], 'app.js');
cluster.setupPrimary({ exec: app });
const fork = () => new Promise((resolve) => { cluster.fork().once('listening', resolve); });
const start = () => Promise.all([fork(), fork()]);

process.on('SIGHUP', async () => {
  const old = Object.values(cluster.workers);
  await start();
  old.forEach((worker) => worker.disconnect());
});
process.on('SIGTERM', () => process.exit(0));
start();
