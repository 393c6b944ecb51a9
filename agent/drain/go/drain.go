// Package drain is Ship's drain contract for net/http. Copy it into the application:
//
//	server := &http.Server{Handler: drain.Handler(mux)}
//
// While SHIP_DRAIN_FILE exists, every answer carries "Connection: close"; over HTTP/2 net/http makes a GOAWAY of it.
// Do not use SetKeepAlivesEnabled(false): it closes idle connections at once, and cuts requests that are on their way.
// WebSockets are the handler's own: wait for Begun, then close with 1001 after Spread. Outside of Ship it does nothing.
package drain

import (
	"math/rand"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var (
	draining atomic.Bool
	begun    = make(chan struct{})
)

func init() {
	if file := os.Getenv("SHIP_DRAIN_FILE"); file != "" {
		go watch(file)
	}
}

// One look every 100 ms, not one per request. The file may go away again: then answers keep their connections as before.
func watch(file string) {
	var once sync.Once
	for {
		_, err := os.Stat(file)
		draining.Store(err == nil)
		if err == nil {
			once.Do(func() { close(begun) })
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Handler asks clients to come back on a new connection while the drain is on.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// Begun is closed when a drain has begun.
func Begun() <-chan struct{} { return begun }

// Spread is how long a WebSocket waits before it leaves, so that not all of them come back at once.
func Spread(most time.Duration) time.Duration { return time.Duration(rand.Int63n(int64(most) + 1)) }
