'use strict';
// HTTP/2 with the recipe: says `goaway` when the drain has begun, and what became of a request that ran then.
const fs = require('fs');
const http2 = require('http2');
const drain = require('./drain');

const server = http2.createServer((request, response) => {
  // The drain begins within this request; it is answered after the client has been told.
  fs.writeFileSync(process.env.SHIP_DRAIN_FILE, '');
  told.then(() => response.end('whole'));
});
drain({ server });
let tell;
const told = new Promise((resolve) => { tell = resolve; });

server.listen(0, '127.0.0.1', () => {
  const client = http2.connect(`http://127.0.0.1:${server.address().port}`);
  client.once('goaway', () => { console.log('goaway'); tell(); });
  client.on('close', () => { console.log('closed'); process.exit(0); });
  const request = client.request({ ':path': '/' });
  let body = '';
  request.on('data', (piece) => { body += piece; });
  request.on('end', () => console.log(body));
  request.end();
});
