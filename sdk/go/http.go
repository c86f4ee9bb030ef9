package meshless

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// NewTransport returns a transport with which http://<service-id>/ is a request to that service; a port in the URL is
// ignored. Connections are kept alive and used again, per service. With https the bytes inside the mesh are TLS of the
// application's own. The dialer says how to dial; nil is the zero value. When an agent asks to finish with connections that
// were handed over, those that are idle are closed, and the next requests reach its successor.
//
//	client := &http.Client{Transport: meshless.NewTransport(nil)}
//	response, err := client.Get("http://http.cart.shop/")
func NewTransport(dialer *Dialer) *http.Transport {
	if dialer == nil {
		dialer = new(Dialer)
	}
	own := *dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			serviceID, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, newError(ErrInvalidServiceID, address, "", err)
			}
			conn, err := own.DialContext(ctx, serviceID)
			if err != nil {
				return nil, err // not conn: a nil *Conn is not a nil net.Conn
			}
			return conn, nil
		},
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	own.OnDrain = func(conn *Conn, text string) {
		if dialer.OnDrain != nil {
			dialer.OnDrain(conn, text)
		}
		transport.CloseIdleConnections()
	}
	return transport
}

// HTTPServer serves HTTP on the socket of a service, and stops gracefully. Its fields must not be changed while it serves.
type HTTPServer struct {
	// Handler answers requests. [PeerFrom] and [ConnectionIDFrom] say who asks, from a request's context.
	Handler http.Handler

	// ProxyProtocol says that the service's Meshlet has proxyProtocol: v2, see [Server].
	ProxyProtocol bool

	// ProxyHeaderTimeout bounds the wait for that header. 5 s if 0.
	ProxyHeaderTimeout time.Duration

	// ReadHeaderTimeout bounds the wait for the head of a request. 10 s if 0.
	ReadHeaderTimeout time.Duration

	// ErrorLog gets what goes wrong with a connection; the standard logger if nil.
	ErrorLog *log.Logger

	mutex     sync.Mutex
	server    *http.Server
	listeners map[*httpListener]struct{}
	open      map[net.Conn]struct{}
}

// Serve answers requests until a Shutdown, then returns [ErrServerClosed]. A server that was shut down can serve again.
func (s *HTTPServer) Serve(listener *Listener) error {
	own := &httpListener{Listener: listener, server: s, over: make(chan struct{})}
	server := s.begin(own)
	err := server.Serve(own)
	s.mutex.Lock()
	delete(s.listeners, own)
	s.mutex.Unlock()
	close(own.over)
	if errors.Is(err, http.ErrServerClosed) || own.draining.Load() {
		return ErrServerClosed
	}
	return err
}

// ListenAndServe listens for connections to a service of this pod and answers their requests.
func (s *HTTPServer) ListenAndServe(service string) error {
	listener, err := Listen(service)
	if err != nil {
		return err
	}
	return s.Serve(listener)
}

// Shutdown takes the socket away from its path, serves who had connected already, closes idle connections, and waits until
// all requests are answered or the context ends. What is left then is cut. Shutdown returns how many connections were cut.
func (s *HTTPServer) Shutdown(ctx context.Context) (cut int) {
	s.mutex.Lock()
	server := s.server
	s.server = nil
	var draining []*httpListener
	for listener := range s.listeners {
		draining = append(draining, listener)
		listener.draining.Store(true)
		listener.drain()
	}
	s.mutex.Unlock()
	if server == nil {
		return 0
	}
	for _, listener := range draining {
		select {
		case <-listener.over:
		case <-ctx.Done():
		}
	}
	if server.Shutdown(ctx) == nil {
		return 0
	}
	s.mutex.Lock()
	cut = len(s.open)
	s.mutex.Unlock()
	_ = server.Close() // its errors are those of closing sockets that are closed
	return cut
}

// begin returns the server below for one more listener, a new one after a Shutdown.
func (s *HTTPServer) begin(listener *httpListener) *http.Server {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.server != nil {
		s.listeners[listener] = struct{}{}
		return s.server
	}
	s.listeners = map[*httpListener]struct{}{listener: {}}
	s.open = map[net.Conn]struct{}{}
	timeout := s.ReadHeaderTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	s.server = &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: timeout,
		ErrorLog:          s.ErrorLog,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, httpConnKey{}, conn)
		},
		ConnState: func(conn net.Conn, state http.ConnState) {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			switch state {
			case http.StateNew:
				s.open[conn] = struct{}{}
			case http.StateClosed, http.StateHijacked:
				delete(s.open, conn)
			}
		},
	}
	return s.server
}

type httpConnKey struct{}

// PeerFrom returns who sent a request, from the request's context; nil if its server does not expect a PROXY header, or
// the header says nothing about a client.
func PeerFrom(ctx context.Context) *Peer {
	if conn, ok := ctx.Value(httpConnKey{}).(*httpConn); ok {
		return conn.peer
	}
	return nil
}

// ConnectionIDFrom names the connection of a request, from the request's context: the id in the agents' logs if the agent
// said it, else one of this server's own.
func ConnectionIDFrom(ctx context.Context) ConnectionID {
	if conn, ok := ctx.Value(httpConnKey{}).(*httpConn); ok {
		return conn.id
	}
	return ConnectionID{}
}

type httpListener struct {
	*Listener
	server   *HTTPServer
	draining atomic.Bool
	over     chan struct{} // closed when nothing is accepted any more
}

func (l *httpListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptUnix()
	if err != nil && l.draining.Load() {
		return nil, net.ErrClosed // the HTTP server would take a deadline's error for one that passes
	}
	if err != nil {
		return nil, err
	}
	accepted := &httpConn{UnixConn: conn, server: l.server, pending: l.server.ProxyProtocol}
	if !accepted.pending {
		accepted.id = connectionIDOf(nil)
	}
	return accepted, nil
}

// httpConn reads the PROXY header with the first Read, in the connection's own goroutine: reading it in Accept would let one
// client hold up the others. The server reads the first request before any handler sees the fields.
type httpConn struct {
	*net.UnixConn
	server   *HTTPServer
	pending  bool
	bad      bool
	deadline time.Time // the HTTP server's own, to be in force again behind the header
	peer     *Peer
	id       ConnectionID
}

func (c *httpConn) Read(b []byte) (int, error) {
	if c.pending {
		c.pending = false
		peer, err := readProxyHeader(c.UnixConn, c.server.ProxyHeaderTimeout)
		if err == nil {
			err = c.UnixConn.SetReadDeadline(c.deadline)
		}
		if c.bad = err != nil; c.bad {
			logTo(c.server.ErrorLog, "%v", err)
		}
		c.peer, c.id = peer, connectionIDOf(peer)
	}
	if c.bad {
		return 0, io.EOF // to any other error the HTTP server would answer, and this is not its client
	}
	return c.UnixConn.Read(b)
}

func (c *httpConn) SetReadDeadline(t time.Time) error {
	if c.pending {
		c.deadline = t
	}
	return c.UnixConn.SetReadDeadline(t)
}

func (c *httpConn) SetDeadline(t time.Time) error {
	if c.pending {
		c.deadline = t
	}
	return c.UnixConn.SetDeadline(t)
}
