package meshless

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// socketPair returns a connected pair: a descriptor to hand over, and the service's end.
func socketPair(t *testing.T, kind int) (client *os.File, service net.Conn) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(pair[1]), "service")
	defer file.Close()
	if service, err = net.FileConn(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Close() })
	return os.NewFile(uintptr(pair[0]), "client"), service
}

// handOver sends the byte behind a reply, and closes the files.
func handOver(t *testing.T, conn *net.UnixConn, data byte, files ...*os.File) {
	t.Helper()
	var rights []int
	for _, file := range files {
		rights = append(rights, int(file.Fd()))
	}
	var control []byte
	if len(rights) > 0 {
		control = syscall.UnixRights(rights...)
	}
	if _, _, err := conn.WriteMsgUnix([]byte{data}, control, nil); err != nil {
		t.Errorf("cannot hand over: %v", err)
	}
	for _, file := range files {
		_ = file.Close()
	}
}

var yesWithDescriptor = fullReply(0, field(0x11, "0123456789abcdef"), field(0x96, ""))

func noticeBytes(kind noticeKind, text string) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{byte(kind)}, uint16(len(text))), text...)
}

// handedOver dials a service through a stand-in agent that hands over, and runs lease with the agent's end of the lease.
func handedOver(t *testing.T, dialer Dialer, lease func(conn *net.UnixConn)) (*Conn, net.Conn) {
	t.Helper()
	client, service := socketPair(t, syscall.SOCK_STREAM)
	agent(t, func(conn *net.UnixConn, request asked, _ int) {
		if _, offered := request.fields[fieldAcceptsDescriptor]; !offered {
			t.Error("the client did not offer")
		}
		say(t, conn, yesWithDescriptor...)
		handOver(t, conn, 0, client)
		lease(conn)
	})
	conn, err := dialer.DialContext(soon(t), "http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, service
}

func TestAConnectionThatWasHandedOverGoesToTheServiceAndEndsWithItsLease(t *testing.T) {
	pod(t)
	leakless(t)
	freed := make(chan error, 1)
	conn, service := handedOver(t, Dialer{}, func(lease *net.UnixConn) {
		_, err := lease.Read(make([]byte, 1))
		freed <- err
	})
	if !conn.HandedOver() || conn.ConnectionID().String() == "" {
		t.Errorf("%+v", conn)
	}
	go func() { _, _ = io.Copy(service, service); _ = service.(*net.UnixConn).CloseWrite() }()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); string(answer) != "hello" || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	select {
	case err := <-freed:
		t.Fatalf("the lease ended before the connection was closed: %v", err)
	default:
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-freed; err != io.EOF {
		t.Errorf("the lease ended with %v", err)
	}
}

func TestADialerThatWantsTheAgentOnThePathDoesNotOffer(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, request asked, _ int) {
		if _, offered := request.fields[fieldAcceptsDescriptor]; offered {
			t.Error("the client offered")
		}
		say(t, conn, fullReply(0)...)
	})
	conn, err := (&Dialer{NoHandOff: true}).Dial("http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.HandedOver() {
		t.Error("it was handed over")
	}
}

func TestARevokedConnectionIsShutDownAndSaysSo(t *testing.T) {
	pod(t)
	leakless(t)
	revoke := make(chan struct{})
	conn, service := handedOver(t, Dialer{}, func(lease *net.UnixConn) {
		<-revoke
		say(t, lease, noticeBytes(noticeRevoked, "cart no longer allows web")...)
		if _, err := lease.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the lease ended with %v", err)
		}
	})
	duplicate, err := conn.NetConn().File() // survives a close, not a shutdown
	if err != nil {
		t.Fatal(err)
	}
	defer duplicate.Close()
	close(revoke)
	_, err = conn.Read(make([]byte, 1))
	if failure := refusal(t, err, ErrRevoked); !strings.Contains(failure.Text, "cart no longer allows web") || failure.Retryable {
		t.Errorf("%v", err)
	}
	if _, err := service.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the service reads %v", err)
	}
	_, err = conn.Write([]byte("x"))
	refusal(t, err, ErrRevoked)
	_, err = io.Copy(io.Discard, conn)
	refusal(t, err, ErrRevoked)
}

func TestANoticeThatIsNoneIsTakenForRevoked(t *testing.T) {
	pod(t)
	leakless(t)
	conn, _ := handedOver(t, Dialer{}, func(lease *net.UnixConn) { say(t, lease, 1, 0xff, 0xff) })
	_, err := conn.Read(make([]byte, 1))
	refusal(t, err, ErrRevoked)
}

func TestDrainIsToldOnceAndTheConnectionGoesOn(t *testing.T) {
	pod(t)
	leakless(t)
	told := make(chan string, 2)
	conn, service := handedOver(t, Dialer{OnDrain: func(conn *Conn, text string) { told <- conn.ServiceID() + ": " + text }},
		func(lease *net.UnixConn) {
			say(t, lease, append(noticeBytes(noticeDrain, "soon"), noticeBytes(noticeDrain, "again")...)...)
			_, _ = lease.Read(make([]byte, 1))
		})
	if text := <-told; text != "http.cart.shop: soon" {
		t.Errorf("%q", text)
	}
	exchangeBytes(t, conn, service)
	_ = conn.Close()
	if len(told) != 0 {
		t.Error("told twice")
	}
}

func TestAConnectionOutlivesTheAgentThatHandedItOver(t *testing.T) {
	pod(t)
	leakless(t)
	gone := make(chan struct{})
	conn, service := handedOver(t, Dialer{}, func(lease *net.UnixConn) { _ = lease.Close(); close(gone) })
	<-gone
	eventually(t, "the lease is given up", func() bool {
		_, err := conn.lease.Write(nil)
		return errors.Is(err, net.ErrClosed)
	})
	exchangeBytes(t, conn, service)
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func exchangeBytes(t *testing.T, conn *Conn, service net.Conn) {
	t.Helper()
	say(t, service, 'x')
	buffer := make([]byte, 1)
	if _, err := conn.Read(buffer); err != nil || buffer[0] != 'x' {
		t.Errorf("%q, %v", buffer, err)
	}
}

func TestAClientThatOffersGoesOnWithoutAHandOver(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, _ int) { say(t, conn, append(fullReply(0), "hello"...)...) })
	conn, err := Dial("http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if answer, err := io.ReadAll(conn); string(answer) != "hello" || err != nil || conn.HandedOver() {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestABadHandOverIsRefusedAndLeavesNothingOpen(t *testing.T) {
	file := func(t *testing.T) *os.File {
		t.Helper()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return null
	}
	for name, test := range map[string]struct {
		code Code
		hand func(t *testing.T, conn *net.UnixConn)
	}{
		"no descriptor": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) { handOver(t, conn, 0) }},
		"two": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) {
			one, _ := socketPair(t, syscall.SOCK_STREAM)
			two, _ := socketPair(t, syscall.SOCK_STREAM)
			handOver(t, conn, 0, one, two)
		}},
		"five": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) {
			handOver(t, conn, 0, file(t), file(t), file(t), file(t), file(t))
		}},
		"another byte": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) {
			one, _ := socketPair(t, syscall.SOCK_STREAM)
			handOver(t, conn, 1, one)
		}},
		"no socket": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) { handOver(t, conn, 0, file(t)) }},
		"datagrams": {ErrProtocol, func(t *testing.T, conn *net.UnixConn) {
			one, _ := socketPair(t, syscall.SOCK_DGRAM)
			handOver(t, conn, 0, one)
		}},
		"the agent dies": {ErrAgentUnavailable, func(*testing.T, *net.UnixConn) {}},
		"silence":        {ErrHandshakeTimeout, func(_ *testing.T, conn *net.UnixConn) { _, _ = conn.Read(make([]byte, 1)) }},
	} {
		t.Run(name, func(t *testing.T) {
			pod(t)
			leakless(t)
			agent(t, func(conn *net.UnixConn, _ asked, _ int) {
				say(t, conn, yesWithDescriptor...)
				test.hand(t, conn)
			})
			_, err := (&Dialer{HandshakeTimeout: time.Second}).Dial("http.cart.shop")
			if failure := refusal(t, err, test.code); failure.ServiceID != "http.cart.shop" {
				t.Errorf("%+v", failure)
			}
		})
	}
}

func TestDeadlinesOfAConnectionAreThoseOfASocket(t *testing.T) {
	pod(t)
	leakless(t)
	conn, _ := handedOver(t, Dialer{}, func(lease *net.UnixConn) { _, _ = lease.Read(make([]byte, 1)) })
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_ = conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
