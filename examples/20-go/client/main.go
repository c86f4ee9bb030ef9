// A client in Go: it asks http.cart.shop over HTTP, then dials it by hand and says what the agent chose.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	meshless "meshless.dev/sdk/go"
)

const service = "http.cart.shop"

func main() {
	dialer := &meshless.Dialer{
		Timeout: 10 * time.Second,
		Retry:   meshless.Retry{Attempts: 5},
	}
	if err := run(dialer); errors.Is(err, meshless.ErrAccessDenied) {
		log.Fatal("ask the owner of cart to let us in: ", err)
	} else if err != nil {
		log.Fatal(err)
	}
}

func run(dialer *meshless.Dialer) error {
	client := &http.Client{Transport: meshless.NewTransport(dialer)}
	response, err := client.Get("http://" + service + "/")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}

	conn, err := dialer.DialContext(context.Background(), service)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Printf("version %q on %s, handed over: %v\n", conn.Version(), conn.Endpoint(), conn.HandedOver())
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", service)
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	fmt.Printf("%d bytes by hand\n", len(answer))
	return err
}
