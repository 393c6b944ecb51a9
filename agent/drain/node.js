'use strict';
// Ship's drain contract for node (http, https, http2; WebSockets of `ws`): copy this file into the application, then
//
//     require('./drain')({ server, sockets: wss });     // an http server; `sockets` is a WebSocketServer, if there is one
//
// While SHIP_DRAIN_FILE exists, every answer carries `Connection: close`, HTTP/2 sessions get GOAWAY, and WebSockets are
// closed with 1001, each at a moment of its own within `spread` ms. Nothing is cut. On the stop signal, call
// `server.close()`: by then nobody is connected. Outside of Ship it does nothing. For `fetch`-style frameworks hand over
// the http server they run on.
const fs = require('fs');

module.exports = function drain({ server, sockets, spread = 5000, file = process.env.SHIP_DRAIN_FILE }) {
  if (!file) return;
  let draining = false;
  const sessions = new Set();
  const leave = (socket) => setTimeout(() => draining && socket.close(1001, 'please come back'), Math.random() * spread);

  server.prependListener('request', (request, response) => {
    if (draining && request.httpVersionMajor === 1) response.setHeader('Connection', 'close');
  });
  server.on('session', (session) => {
    sessions.add(session.on('close', () => sessions.delete(session)));
  });
  if (sockets) sockets.on('connection', (socket) => draining && leave(socket));

  const look = () => fs.access(file, (missing) => {
    if (draining !== !missing) {
      draining = !missing;
      if (draining && sockets) sockets.clients.forEach(leave);
    }
    if (draining) sessions.forEach((session) => session.close());
    setTimeout(look, 100).unref();
  });
  look();
};
