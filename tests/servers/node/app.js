'use strict';
// The app under test on node: pages, streams, WebSockets that echo.
const fs = require('fs');
const http = require('http');
const { WebSocketServer } = require('ws');
const drain = require('./drain');

const { BROKEN, SHIP_RELEASE, PORT } = process.env;
// Without Ship, as in the benches, a release says itself which it is.
const release = SHIP_RELEASE || fs.readFileSync(`${__dirname}/release`, 'ascii');
if (BROKEN === 'exit') throw new Error('this release cannot start');

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  response.setHeader('x-release', release);
  if (url.pathname !== '/stream') {
    response.statusCode = url.pathname === '/healthz' && BROKEN === 'sick' ? 500 : 200;
    response.end('ok\n');
    return;
  }
  let pieces = Number(url.searchParams.get('seconds')) * 10;
  const next = () => {
    if (pieces-- <= 0) return response.end('the end\n');
    response.write('a piece\n');
    return setTimeout(next, 100);
  };
  next();
});
server.keepAliveTimeout = 75000;

const sockets = new WebSocketServer({ server, path: '/ws' });
sockets.on('headers', (headers) => headers.push(`x-release: ${release}`));
sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));

drain({ server, sockets, spread: 500 });
process.on('SIGTERM', () => server.close(() => process.exit(0)));
server.listen(PORT ? { host: '127.0.0.1', port: Number(PORT) } : { fd: 3 });
