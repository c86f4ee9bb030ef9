package meshless

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Conn is a connection to a service. It is a [net.Conn] with half-close, safe for use by several goroutines.
type Conn struct {
	socket    *net.UnixConn // the connection to the service
	lease     *net.UnixConn // to the agent, if the connection was handed over, else nil
	serviceID string
	details   details
	revoked   atomic.Pointer[Error]
}

// ServiceID returns what was dialled.
func (c *Conn) ServiceID() string { return c.serviceID }

// ConnectionID returns what the agents' logs call this connection; zero if the agent did not say.
func (c *Conn) ConnectionID() ConnectionID { return c.details.connectionID }

// Version returns the version of the service that was chosen, "" if its pod has none or the agent did not say.
func (c *Conn) Version() string { return c.details.version }

// Endpoint returns the pod that was chosen, <namespace>/<pod>; "" if the agent did not say.
func (c *Conn) Endpoint() string { return c.details.endpoint }

// HandedOver reports whether the bytes go to the service without passing through the agent.
func (c *Conn) HandedOver() bool { return c.lease != nil }

// NetConn returns the socket below, for what a [net.UnixConn] can do and a Conn cannot. Close the Conn, not the socket: the
// agent counts a connection that was handed over until the Conn is closed.
func (c *Conn) NetConn() *net.UnixConn { return c.socket }

// Read implements [net.Conn]. After the policy withdrew a connection that was handed over, the error is [ErrRevoked].
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.socket.Read(b)
	return n, c.explain(err)
}

// Write implements [net.Conn]. After the policy withdrew a connection that was handed over, the error is [ErrRevoked].
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.socket.Write(b)
	return n, c.explain(err)
}

// WriteTo implements [io.WriterTo], so that [io.Copy] to a TCP connection moves the bytes within the kernel.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, c.socket)
	if revoked := c.revoked.Load(); revoked != nil { // to Copy it looks like the end of the stream
		return n, revoked
	}
	return n, err
}

// Close ends the connection, and with it the agent's lease.
func (c *Conn) Close() error {
	err := c.socket.Close()
	if c.lease != nil {
		_ = c.lease.Close() // the only error is that it was closed before, when the agent went away
	}
	return err
}

// CloseWrite ends what this side sends; the service reads end-of-file. What it sends can still be read.
func (c *Conn) CloseWrite() error { return c.explain(c.socket.CloseWrite()) }

// CloseRead says that nothing will be read any more.
func (c *Conn) CloseRead() error { return c.explain(c.socket.CloseRead()) }

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.socket.LocalAddr() }

// RemoteAddr returns an [Addr], the service that was dialled.
func (c *Conn) RemoteAddr() net.Addr { return Addr(c.serviceID) }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.socket.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }

// Addr is the address of a service: its id.
type Addr string

// Network returns "meshless".
func (a Addr) Network() string { return "meshless" }

// String returns the service id.
func (a Addr) String() string { return string(a) }

func (c *Conn) explain(err error) error {
	if revoked := c.revoked.Load(); err != nil && revoked != nil {
		return revoked
	}
	return err
}

// watch reads the lease until it ends: because the Conn was closed, the agent went away, or it withdrew the connection. The
// end of the agent is not the end of the connection.
func (c *Conn) watch(onDrain func(*Conn, string)) {
	defer c.lease.Close()
	var said notices
	buffer := make([]byte, noticeHeaderBytes+maxTextBytes)
	for {
		n, err := c.lease.Read(buffer)
		complete, broken := said.receive(buffer[:n])
		for _, one := range complete {
			switch {
			case one.kind == noticeRevoked:
				c.revoke(one.text)
				return
			case onDrain != nil:
				go onDrain(c, one.text)
				onDrain = nil // once is enough
			}
		}
		if broken != nil {
			c.revoke(broken.Error())
			return
		}
		if err != nil {
			return
		}
	}
}

func (c *Conn) revoke(text string) {
	failure := newError(ErrRevoked, c.serviceID, "", nil)
	if text != "" {
		failure.Text += ": " + text
	}
	failure.ConnectionID = c.details.connectionID
	c.revoked.Store(failure)
	// Shut down first: a duplicate of the descriptor, if the application made one, would survive the closing.
	_ = c.socket.CloseRead()
	_ = c.socket.CloseWrite()
	_ = c.socket.Close()
}
