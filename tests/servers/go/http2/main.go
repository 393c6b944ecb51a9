// HTTP/2 with the recipe: asks until it is led to another connection, which is what a GOAWAY does. Says `goaway` then.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"time"

	"ship.test/server/drain"
)

func main() {
	server := httptest.NewUnstartedServer(drain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	})))
	server.EnableHTTP2 = true
	server.StartTLS()
	connections := 0
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			connections++
		}
	}}
	ask := func() {
		request, _ := http.NewRequest("GET", server.URL, nil)
		answer, err := server.Client().Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || string(body) != "HTTP/2.0" {
			log.Fatal(string(body), err)
		}
	}
	for round := 0; round < 20; round++ {
		ask()
	}
	if connections != 1 {
		log.Fatal("led on before any drain")
	}
	if err := os.WriteFile(os.Getenv("SHIP_DRAIN_FILE"), nil, 0o600); err != nil {
		log.Fatal(err)
	}
	for give_up := time.Now().Add(30 * time.Second); connections == 1; ask() {
		if time.Now().After(give_up) {
			log.Fatal("not led on")
		}
	}
	fmt.Println("goaway")
}
