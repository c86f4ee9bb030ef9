// Package meshless dials and serves the services of a Meshless mesh by name.
//
// Import it under its own name, as the path ends in "go":
//
//	import meshless "meshless.dev/sdk/go"
//
// A client dials; what comes back is an ordinary [net.Conn]:
//
//	conn, err := meshless.Dial("http.cart.shop")
//
// A server listens in its pod, and stops gracefully:
//
//	listener, err := meshless.Listen("http")
//	server := &meshless.Server{}
//	go server.Serve(listener, handler)
//	cut := server.Shutdown(ctx)
//
// HTTP needs one line on either side: [NewTransport] and [HTTPServer].
//
// Every refusal is an [*Error] with the agent's reply code:
//
//	if errors.Is(err, meshless.ErrAccessDenied) { ... }
//
//	var refusal *meshless.Error
//	if errors.As(err, &refusal) && refusal.Retryable { ... }
//
// The sockets of a pod are in /meshlet; the environment variable MESHLESS_DIR names another folder. The package uses the
// standard library only. The wire formats are specified, with test vectors, in the folder protocol of the Meshless repository.
package meshless
