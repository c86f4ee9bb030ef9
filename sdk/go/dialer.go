package meshless

import (
	"context"
	"fmt"
	"math/rand"
	"time"
)

const (
	defaultConnectTimeout   = 5 * time.Second
	defaultHandshakeTimeout = 15 * time.Second // longer than the agent's own deadline, to learn the agent's reason
	defaultWaitForAgent     = 5 * time.Second
)

// Dialer dials services. The zero value is ready to use. It must not be changed while it dials; a copy may be.
type Dialer struct {
	// Path of the agent's socket; ClientSocketPath() if empty.
	Path string

	// ConnectTimeout bounds the wait until the agent takes the connection while its backlog is full. 5 s if 0, no bound if
	// negative.
	ConnectTimeout time.Duration

	// HandshakeTimeout bounds the wait for the reply after that. 15 s if 0, no bound if negative.
	HandshakeTimeout time.Duration

	// WaitForAgent is how long to wait for an agent to listen, as a pod may start before its node's agent. 5 s if 0, not at
	// all if negative.
	WaitForAgent time.Duration

	// Timeout bounds a whole Dial, with all attempts. No bound if 0.
	Timeout time.Duration

	// Deadline is a moment by which a Dial is over, with all attempts. None if zero.
	Deadline time.Time

	// Retry says whether to try again. The zero value does not.
	Retry Retry

	// StickyKey is a wish: connections with the same key get the same version of the service, as long as its versions and
	// weights stay the same. 64 bytes at most.
	StickyKey []byte

	// VersionPin is a wish: the version of the service to connect to, if it has a ready pod. Conn.Version says what was chosen.
	VersionPin string

	// Traceparent returns the W3C trace context that a connection belongs to, from the context it is dialled with; "" for
	// none. What is not well-formed is not sent.
	Traceparent func(ctx context.Context) string

	// NoHandOff keeps the agent on the path. Without it the agent may hand over the service's own socket if it is on this
	// node: the bytes then do not pass through the agent any more. The agent's word still counts: if the policy withdraws the
	// connection, the Conn ends. Set it if the descriptor of a Conn is to be used by another process.
	NoHandOff bool

	// OnDrain is called once, in a goroutine of its own, when the agent asks to finish with a connection that was handed over:
	// finish what has begun, open no new work on it, close it.
	OnDrain func(conn *Conn, text string)
}

// Dial connects to a service, <service>.<meshlet>.<namespace>, with the defaults of a zero [Dialer].
func Dial(serviceID string) (*Conn, error) {
	return new(Dialer).DialContext(context.Background(), serviceID)
}

// DialContext is [Dial] with a context. The context bounds the dialling; it does not matter for the connection.
func DialContext(ctx context.Context, serviceID string) (*Conn, error) {
	return new(Dialer).DialContext(ctx, serviceID)
}

// Dial connects to a service, <service>.<meshlet>.<namespace>.
func (d *Dialer) Dial(serviceID string) (*Conn, error) {
	return d.DialContext(context.Background(), serviceID)
}

// DialContext connects to a service. The context bounds the dialling; it does not matter for the connection.
//
// The error is an [*Error], or, if the context was cancelled, wraps the context's error. If time ran out while waiting for
// the next attempt, it is the error of the last attempt and [context.DeadlineExceeded], both.
func (d *Dialer) DialContext(ctx context.Context, serviceID string) (*Conn, error) {
	if !isServiceID(serviceID) {
		return nil, newError(ErrInvalidServiceID, fmt.Sprintf("%.256q", serviceID), "", nil)
	}
	wished := wishes{stickyKey: d.StickyKey, versionPin: d.VersionPin, acceptsDescriptor: !d.NoHandOff}
	if d.Traceparent != nil {
		wished.traceparent = d.Traceparent(ctx)
	}
	if err := wished.check(serviceID); err != nil {
		return nil, err
	}
	if d.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, d.Timeout)
		defer cancel()
		ctx = limited
	}
	if !d.Deadline.IsZero() {
		limited, cancel := context.WithDeadline(ctx, d.Deadline)
		defer cancel()
		ctx = limited
	}
	for attempt := 1; ; attempt++ {
		conn, err := d.attempt(ctx, serviceID, wished)
		if err == nil {
			return conn, nil
		}
		delay, again := d.Retry.delay(attempt, err, rand.Float64)
		if !again || ctx.Err() != nil {
			return nil, err
		}
		if gaveUp := pause(ctx, delay); gaveUp != nil {
			return nil, fmt.Errorf("%w; gave up after %d attempts: %w", err, attempt, gaveUp)
		}
	}
}

// attempt dials once; twice if the agent turns out not to have version 2.
func (d *Dialer) attempt(ctx context.Context, serviceID string, wished wishes) (*Conn, error) {
	path := d.Path
	if path == "" {
		path = ClientSocketPath()
	}
	if !onlyVersion1.has(path, time.Now()) {
		conn, fallBack, err := d.try(ctx, path, serviceID, version2, wished)
		if !fallBack {
			return conn, err
		}
		onlyVersion1.add(path, time.Now())
	}
	conn, _, err := d.try(ctx, path, serviceID, version1, wishes{})
	return conn, err
}

func (d *Dialer) try(ctx context.Context, path, serviceID string, version byte, wished wishes) (_ *Conn, fallBack bool, _ error) {
	socket, err := d.connect(ctx, path, serviceID)
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := withLimit(ctx, d.HandshakeTimeout, defaultHandshakeTimeout)
	defer cancel()
	conn, fallBack, err := d.shakeHands(ctx, socket, serviceID, version, wished)
	if err != nil {
		_ = socket.Close()
		return nil, fallBack, err
	}
	return conn, false, nil
}

// withLimit bounds a context by a field of a Dialer.
func withLimit(ctx context.Context, limit, usual time.Duration) (context.Context, context.CancelFunc) {
	switch {
	case limit < 0:
		return context.WithCancel(ctx)
	case limit == 0:
		limit = usual
	}
	return context.WithTimeout(ctx, limit)
}
