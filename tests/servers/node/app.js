'use strict';
// The app under test on node: pages, streams, WebSockets that echo.
const http = require('http');
const { WebSocketServer } = require('ws');
const drain = require('./drain');

const { BROKEN, SHIP_RELEASE = '' } = process.env;
if (BROKEN === 'exit') throw new Error('this release cannot start');

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  response.setHeader('x-release', SHIP_RELEASE);
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
sockets.on('headers', (headers) => headers.push(`x-release: ${SHIP_RELEASE}`));
sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));

drain({ server, sockets, spread: 500 });
process.on('SIGTERM', () => server.close(() => process.exit(0)));
server.listen({ fd: 3 });
