'use strict';
// A node server that has not heard of any of this: it binds by itself, and drains nothing.
const http = require('http');

const { ADDR, BROKEN, SHIP_RELEASE: release } = process.env;
if (BROKEN === 'exit') throw new Error('this release cannot start');
const [host, port] = ADDR.split(':');

http.createServer((request, response) => {
  const url = new URL(request.url, 'http://app');
  response.setHeader('x-release', release);
  if (url.pathname === '/stream') {
    let pieces = Number(url.searchParams.get('seconds')) * 10;
    const next = () => {
      if (pieces-- <= 0) return response.end('the end\n');
      response.write('a piece\n');
      return setTimeout(next, 100);
    };
    return next();
  }
  response.statusCode = url.pathname === '/healthz' && BROKEN === 'sick' ? 500 : 200;
  return response.end(release);
}).listen(Number(port), host);
