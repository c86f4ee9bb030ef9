package meshless

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	slackPart = 10                    // of the time left, this part stays for the reply's way back,
	mostSlack = 50 * time.Millisecond // but not more
)

// shakeHands makes a Conn of a socket connected to the agent. The caller closes socket on an error.
func (d *Dialer) shakeHands(
	ctx context.Context, socket *net.UnixConn, serviceID string, version byte, wished wishes,
) (_ *Conn, fallBack bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	conn, fallBack, err := exchange(ctx, socket, serviceID, version, wished)
	inTime := stop() // if not, the function may set its deadline at any moment, and the socket is good for nothing
	switch {
	case err != nil:
		return nil, fallBack, err
	case !inTime:
		_ = conn.Close()
		return nil, false, ended(ctx.Err(), ErrHandshakeTimeout, serviceID, "")
	case conn.lease != nil:
		go conn.watch(d.OnDrain)
	}
	return conn, false, nil
}

// exchange sends the request and reads the reply, and the descriptor if one follows.
func exchange(
	ctx context.Context, socket *net.UnixConn, serviceID string, version byte, wished wishes,
) (_ *Conn, fallBack bool, _ error) {
	request := encodeRequest1(serviceID)
	if version == version2 {
		if deadline, ok := ctx.Deadline(); ok {
			// The agent is told a little less, so that it is the agent, who knows why, that ends it.
			left := time.Until(deadline)
			wished.deadline = max(left-min(left/slackPart, mostSlack), time.Millisecond)
		}
		request = encodeRequest2(serviceID, wished)
	}
	// The agent may refuse before it has read the request: what it said is still there to read.
	if _, err := socket.Write(request); err != nil && !isGone(err) {
		return nil, false, failed(ctx, serviceID, err)
	}
	answer := newReply(serviceID, version, wished.acceptsDescriptor)
	buffer := make([]byte, 512)
	for answer.wanted() > 0 {
		n, err := socket.Read(buffer[:min(answer.wanted(), len(buffer))])
		if n == 0 && err != nil && err != io.EOF && !isGone(err) {
			return nil, false, failed(ctx, serviceID, err)
		}
		if err := answer.receive(buffer[:n]); err != nil {
			return nil, answer.fallsBack(), err
		}
	}
	conn := &Conn{serviceID: serviceID, details: answer.details}
	if !answer.details.descriptorFollows {
		conn.socket = socket
		return conn, false, nil
	}
	service, err := receiveDescriptor(socket)
	var failure *Error
	if err != nil && !errors.As(err, &failure) {
		return nil, false, failed(ctx, serviceID, err)
	} else if err != nil {
		failure.ServiceID = serviceID
		return nil, false, failure
	}
	conn.socket, conn.lease = service, socket
	return conn, false, nil
}

func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// failed makes the error for a read or write on the agent's socket that failed.
func failed(ctx context.Context, serviceID string, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ended(ctx.Err(), ErrHandshakeTimeout, serviceID, "")
	}
	return newError(ErrAgentUnavailable, serviceID, "the connection to the agent broke: "+err.Error(), err)
}
