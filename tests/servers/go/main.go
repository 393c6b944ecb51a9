// The app under test on net/http: pages, streams, and WebSockets that echo, by hand since the standard library has none.
package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"ship.test/server/drain"
)

var broken, release = os.Getenv("BROKEN"), os.Getenv("SHIP_RELEASE")

func page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Release", release)
	if r.URL.Path == "/healthz" && broken == "sick" {
		w.WriteHeader(500)
	}
	fmt.Fprintln(w, "ok")
}

func stream(w http.ResponseWriter, r *http.Request) {
	seconds, _ := strconv.ParseFloat(r.URL.Query().Get("seconds"), 64)
	w.Header().Set("X-Release", release)
	for piece := 0; piece < int(seconds*10); piece++ {
		fmt.Fprintln(w, "a piece")
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Fprintln(w, "the end")
}

func socket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, pipe, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	var writing sync.Mutex
	send := func(kind byte, payload []byte) error {
		writing.Lock()
		defer writing.Unlock()
		_, err := conn.Write(append([]byte{0x80 | kind, byte(len(payload))}, payload...))
		return err
	}
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: %s\r\nX-Release: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]), release)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-drain.Begun():
			time.Sleep(drain.Spread(500 * time.Millisecond))
			send(8, []byte{0x03, 0xe9}) // 1001; the client's answer ends the loop below
		case <-over:
		}
	}()
	for {
		kind, payload, err := read(pipe.Reader)
		if err != nil || kind == 8 || send(kind, payload) != nil {
			return
		}
	}
}

// A masked frame with a payload below 126 bytes: all that the test sends.
func read(from *bufio.Reader) (byte, []byte, error) {
	head := make([]byte, 6)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, err
	}
	payload := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(from, payload)
	mask := binary.BigEndian.Uint32(head[2:])
	for at := range payload {
		payload[at] ^= byte(mask >> (24 - 8*(at%4)))
	}
	return head[0] & 0x0f, payload, err
}

func main() {
	if broken == "exit" {
		log.Fatal("this release cannot start")
	}
	listener, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", page)
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/ws", socket)
	server := &http.Server{Handler: drain.Handler(mux)}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() { log.Print(server.Serve(listener)) }()
	<-stop.Done()
	log.Print(server.Shutdown(context.Background()))
}
