// A server in Go of the service http: it says hello to whoever asks, and stops gracefully on SIGTERM.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	meshless "meshless.dev/sdk/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	server := &meshless.HTTPServer{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go on connection %v\n", meshless.ConnectionIDFrom(r.Context()))
	})}
	listener, err := meshless.Listen("http")
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan int)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- server.Shutdown(grace)
	}()
	fmt.Println("listening at", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, meshless.ErrServerClosed) {
		log.Fatal(err)
	}
	fmt.Println(<-done, "connections were cut")
}
