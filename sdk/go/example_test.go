package meshless_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	meshless "meshless.dev/sdk/go"
)

// A service that greets, until it is told to stop; then it finishes what it has begun.
func ExampleServer() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &meshless.Server{}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		fmt.Println(server.Shutdown(grace), "connections were cut")
	}()
	err := server.ListenAndServe("greet", func(_ context.Context, conn *meshless.ServerConn) {
		fmt.Fprintf(conn, "hello, you are connection %v\n", conn.ID())
	})
	fmt.Println(err)
}

func ExampleDial() {
	conn, err := meshless.Dial("greet.cart.shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	_, _ = io.Copy(os.Stdout, conn)
}

func ExampleDialer() {
	dialer := &meshless.Dialer{
		Timeout:   10 * time.Second,
		Retry:     meshless.Retry{Attempts: 5},
		StickyKey: []byte("user-17"),
	}
	conn, err := dialer.DialContext(context.Background(), "greet.cart.shop")
	if errors.Is(err, meshless.ErrAccessDenied) {
		fmt.Println("ask the owner of cart to let us in")
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println("version", conn.Version(), "on", conn.Endpoint())
}

func ExampleNewTransport() {
	client := &http.Client{Transport: meshless.NewTransport(nil), Timeout: 10 * time.Second}
	response, err := client.Get("http://http.cart.shop/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
}

func ExampleHTTPServer() {
	server := &meshless.HTTPServer{
		ProxyProtocol: true, // as in the service's Meshlet
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello, %s\n", meshless.PeerFrom(r.Context()).Meshlet)
		}),
	}
	fmt.Println(server.ListenAndServe("http"))
}

// What went wrong is in the error, with the reply code of the agent if there was one.
func ExampleError() {
	folder, err := os.MkdirTemp("", "pod")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	dialer := &meshless.Dialer{Path: filepath.Join(folder, "meshless"), WaitForAgent: -1}
	_, err = dialer.Dial("http.cart.shop")
	var failure *meshless.Error
	fmt.Println(errors.As(err, &failure), failure.Name, failure.Retryable, errors.Is(err, meshless.ErrAgentUnavailable))
	// Output: true AGENT_UNAVAILABLE true true
}

// A service id that cannot be one is found before anything is sent.
func ExampleCode() {
	_, err := meshless.Dial("http://cart")
	fmt.Println(errors.Is(err, meshless.ErrInvalidServiceID), meshless.ErrNoEndpoint.Retryable())
	// Output: true true
}
