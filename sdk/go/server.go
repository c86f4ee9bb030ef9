package meshless

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log"
	"net"
	"sync"
	"syscall"
	"time"
)

const defaultProxyHeaderTimeout = 5 * time.Second

// ErrServerClosed is returned by Serve after a Shutdown.
var ErrServerClosed = errors.New("meshless: the server was shut down")

// ServerConn is a connection from a client of the service.
type ServerConn struct {
	*net.UnixConn
	id       ConnectionID
	peer     *Peer
	draining <-chan struct{}
}

// ID names the connection: the id in the agents' logs if the agent said it, else one of this server's own.
func (c *ServerConn) ID() ConnectionID { return c.id }

// Peer returns who connects; nil if the server does not expect a PROXY header, or the header says nothing about a client.
func (c *ServerConn) Peer() *Peer { return c.peer }

// Draining returns a channel that is closed when the server is to shut down: finish what has begun, and return.
func (c *ServerConn) Draining() <-chan struct{} { return c.draining }

// Handler serves one connection. The connection is closed when it returns. The context ends when the connection is cut.
type Handler func(ctx context.Context, conn *ServerConn)

// Server serves connections and stops gracefully. The zero value is ready to use. Its fields must not be changed while it
// serves.
type Server struct {
	// ProxyProtocol says that the service's Meshlet has proxyProtocol: v2, so that every connection begins with a header
	// that says who connects. A connection without one is closed. Both settings have to agree.
	ProxyProtocol bool

	// ProxyHeaderTimeout bounds the wait for that header. 5 s if 0.
	ProxyHeaderTimeout time.Duration

	// ErrorLog gets what goes wrong with a connection before its handler is called; the standard logger if nil.
	ErrorLog *log.Logger

	mutex     sync.Mutex
	listeners map[*Listener]struct{}
	conns     map[*net.UnixConn]context.CancelFunc
	stopping  chan struct{} // closed when a shutdown begins; made anew by the first Serve after it
	idle      chan struct{} // closed when there is neither listener nor connection, if somebody waits for that
}

// Serve accepts connections and calls handler for each, in a goroutine of its own. It returns [ErrServerClosed] after a
// Shutdown, else why it cannot go on. A server that was shut down can serve again.
func (s *Server) Serve(listener *Listener, handler Handler) error {
	s.mutex.Lock()
	if s.listeners == nil {
		s.listeners, s.conns = map[*Listener]struct{}{}, map[*net.UnixConn]context.CancelFunc{}
	}
	if s.stopping == nil || isClosed(s.stopping) {
		s.stopping = make(chan struct{})
	}
	stopping := s.stopping
	s.listeners[listener] = struct{}{}
	s.mutex.Unlock()
	defer func() {
		_ = listener.Close() // fails only if the caller closed it
		s.mutex.Lock()
		defer s.mutex.Unlock()
		delete(s.listeners, listener)
		s.noteIdle()
	}()
	wait := 5 * time.Millisecond
	for {
		conn, err := listener.AcceptUnix()
		if err == nil {
			wait = 5 * time.Millisecond
			s.start(conn, stopping, handler)
			continue
		}
		if isClosed(stopping) {
			return ErrServerClosed
		}
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ECONNABORTED) &&
			!errors.Is(err, syscall.ENOMEM) && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
		logTo(s.ErrorLog, "meshless: cannot accept for %v: %v; trying again in %v", listener.Addr(), err, wait)
		select {
		case <-time.After(wait):
		case <-stopping:
			return ErrServerClosed
		}
		wait = min(2*wait, time.Second)
	}
}

// ListenAndServe listens for connections to a service of this pod and serves them.
func (s *Server) ListenAndServe(service string, handler Handler) error {
	listener, err := Listen(service)
	if err != nil {
		return err
	}
	return s.Serve(listener, handler)
}

// Shutdown takes the socket away from its path, serves who had connected already, and waits until all handlers have returned or the context ends. What is left then is cut: its
// context is cancelled and its socket closed. Shutdown returns how many connections were cut.
func (s *Server) Shutdown(ctx context.Context) (cut int) {
	s.mutex.Lock()
	if s.stopping != nil && !isClosed(s.stopping) {
		close(s.stopping)
	}
	for listener := range s.listeners {
		listener.drain()
	}
	if len(s.conns)+len(s.listeners) == 0 {
		s.mutex.Unlock()
		return 0
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mutex.Unlock()
	select {
	case <-idle:
		return 0
	case <-ctx.Done():
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for listener := range s.listeners {
		_ = listener.Close() // the context ended before its backlog was empty
	}
	for conn, cancel := range s.conns {
		cancel()
		_ = conn.Close() // closed before if its handler is about to return
		cut++
	}
	return cut
}

func (s *Server) start(conn *net.UnixConn, stopping <-chan struct{}, handler Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	s.mutex.Lock()
	s.conns[conn] = cancel
	s.mutex.Unlock()
	go func() {
		defer func() {
			cancel()
			_ = conn.Close() // closed before by the handler, maybe
			s.mutex.Lock()
			defer s.mutex.Unlock()
			delete(s.conns, conn)
			s.noteIdle()
		}()
		served := &ServerConn{UnixConn: conn, draining: stopping}
		if s.ProxyProtocol {
			peer, err := readProxyHeader(conn, s.ProxyHeaderTimeout)
			if err != nil {
				logTo(s.ErrorLog, "%v", err)
				return
			}
			served.peer = peer
		}
		served.id = connectionIDOf(served.peer)
		handler(ctx, served)
	}()
}

func (s *Server) noteIdle() {
	if len(s.conns)+len(s.listeners) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

func logTo(logger *log.Logger, format string, arguments ...any) {
	if logger == nil {
		logger = log.Default()
	}
	logger.Printf(format, arguments...)
}

func readProxyHeader(conn net.Conn, timeout time.Duration) (*Peer, error) {
	if timeout <= 0 {
		timeout = defaultProxyHeaderTimeout
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, newError(ErrProxyHeader, "", "", err)
	}
	peer, err := ReadProxyHeader(conn)
	if err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, newError(ErrProxyHeader, "", "", err)
	}
	return peer, nil
}

// connectionIDOf returns the id the agent gave, or a random one. Another program's id of another size is no ConnectionID.
func connectionIDOf(peer *Peer) (id ConnectionID) {
	if peer != nil {
		if given, err := hex.DecodeString(peer.ConnectionID); err == nil && len(given) == len(id) {
			return ConnectionID(given)
		}
	}
	if _, err := rand.Read(id[:]); err != nil {
		panic("meshless: the system has no randomness: " + err.Error()) // never on Linux after boot
	}
	return id
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
