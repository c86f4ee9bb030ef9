package meshless

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestDialGivesAConnectionThatIsTheServiceAndSaysWhatWasChosen(t *testing.T) {
	pod(t)
	leakless(t)
	var request asked
	agent(t, func(conn *net.UnixConn, asked asked, _ int) {
		request = asked
		say(t, conn, append(fullReply(0, field(0x11, "0123456789abcdef"), field(0x12, "v2"), field(0x13, "shop/cart-0")), "220 "...)...)
		data, _ := io.ReadAll(conn)
		say(t, conn, data...)
	})
	dialer := Dialer{
		StickyKey: []byte("user-17"), VersionPin: "v2", Timeout: 30 * time.Second,
		Traceparent: func(ctx context.Context) string { return ctx.Value("trace").(string) },
	}
	conn, err := dialer.DialContext(context.WithValue(context.Background(), "trace", traceparent), "http.cart.shop") //nolint:staticcheck // a test's own key
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if string(answer) != "220 hello" || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	if conn.Version() != "v2" || conn.Endpoint() != "shop/cart-0" || conn.ConnectionID() != ConnectionID([]byte("0123456789abcdef")) ||
		conn.HandedOver() || conn.RemoteAddr().String() != "http.cart.shop" {
		t.Errorf("%+v", conn)
	}
	deadline := time.Duration(binary.BigEndian.Uint32([]byte(request.fields[fieldDeadline]))) * time.Millisecond
	if request.version != 2 || request.serviceID != "http.cart.shop" || request.fields[fieldTraceparent] != traceparent ||
		request.fields[fieldStickyKey] != "user-17" || request.fields[fieldVersionPin] != "v2" ||
		deadline > 30*time.Second || deadline < 10*time.Second {
		t.Errorf("%+v, deadline %v", request, deadline)
	}
	if _, offered := request.fields[fieldAcceptsDescriptor]; !offered {
		t.Error("did not offer to receive a descriptor")
	}
}

func TestARefusalIsATypedError(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, _ int) {
		say(t, conn, fullReply(ErrConnectionLimit, field(0x11, "0123456789abcdef"), field(0x14, "\x00\x00\x03\xe8"), field(0x15, "max\nConn"))...)
	})
	_, err := Dial("http.cart.shop")
	failure := refusal(t, err, ErrConnectionLimit)
	if failure.Name != "CONNECTION_LIMIT" || !failure.Retryable || failure.RetryAfter != time.Second || failure.Text != `max\nConn` ||
		failure.ConnectionID.String() != "30313233343536373839616263646566" || failure.ServiceID != "http.cart.shop" {
		t.Errorf("%+v", failure)
	}
	if errors.Is(err, ErrAccessDenied) {
		t.Error("matches another code")
	}
	if want := `meshless: http.cart.shop: CONNECTION_LIMIT: max\nConn (connection 30313233343536373839616263646566)`; err.Error() != want {
		t.Errorf("%q", err)
	}
}

func TestAnAgentWithoutVersion2IsAskedInVersion1AndThatIsRemembered(t *testing.T) {
	pod(t)
	leakless(t)
	var versions []byte
	agent(t, func(conn *net.UnixConn, request asked, _ int) {
		versions = append(versions, request.version)
		say(t, conn, 1, map[byte]byte{1: 0, 2: 1}[request.version])
	})
	for i := 0; i < 2; i++ {
		conn, err := Dial("http.cart.shop")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil { // until the agent is done
			t.Error(err)
		}
		_ = conn.Close()
	}
	if string(versions) != "\x02\x01\x01" {
		t.Errorf("asked in versions %v", versions)
	}
}

func TestTheMemoryOfVersion1Ends(t *testing.T) {
	memory := memory{until: map[string]time.Time{}}
	now := time.Now()
	memory.add("/a", now)
	if !memory.has("/a", now.Add(59*time.Second)) || memory.has("/b", now) || memory.has("/a", now.Add(61*time.Second)) {
		t.Error("wrong")
	}
}

func TestARefusalInTheFormOfVersion1IsNoReasonToFallBack(t *testing.T) {
	pod(t)
	leakless(t)
	served := 0
	rawAgent(t, func(conn *net.UnixConn, _ int) { // replies without reading, so that the request meets a closed socket
		served++
		say(t, conn, 1, byte(ErrOverloaded))
	})
	_, err := Dial("http.cart.shop")
	refusal(t, err, ErrOverloaded)
	if served != 1 {
		t.Errorf("dialled %d times", served)
	}
}

func TestOnlyWhatIsRetryableIsDialledAgain(t *testing.T) {
	for _, test := range []struct {
		code     Code
		attempts int
		served   int
	}{{ErrNoEndpoint, 3, 3}, {ErrNoEndpoint, 0, 1}, {ErrAccessDenied, 3, 1}, {77, 3, 1}, {ErrDraining, 2, 2}} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			pod(t)
			leakless(t)
			served := 0
			agent(t, func(conn *net.UnixConn, _ asked, _ int) {
				served++
				say(t, conn, fullReply(test.code)...)
			})
			_, err := (&Dialer{Retry: Retry{Attempts: test.attempts, Base: time.Millisecond}}).Dial("http.cart.shop")
			refusal(t, err, test.code)
			if served != test.served {
				t.Errorf("dialled %d times", served)
			}
		})
	}
}

func TestARetrySucceedsAfterAnAgentThatDied(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, number int) {
		if number > 1 {
			say(t, conn, fullReply(0)...)
		}
	})
	conn, err := (&Dialer{Retry: Retry{Attempts: 2, Base: time.Millisecond}}).Dial("http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestAWaitThatWouldOutlastTheDeadlineIsNotBegun(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, _ int) {
		say(t, conn, fullReply(ErrOverloaded, field(0x14, "\x00\x00\xea\x60"))...)
	})
	begin := time.Now()
	_, err := (&Dialer{Timeout: 50 * time.Second, Retry: Retry{Attempts: 2}}).Dial("http.cart.shop")
	refusal(t, err, ErrOverloaded)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 40*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestASilentAgentIsATimeout(t *testing.T) {
	for name, dial := range map[string]func() (*Conn, error){
		"HandshakeTimeout": func() (*Conn, error) { return (&Dialer{HandshakeTimeout: 200 * time.Millisecond}).Dial("a.b.c") },
		"Timeout":          func() (*Conn, error) { return (&Dialer{Timeout: 200 * time.Millisecond}).Dial("a.b.c") },
		"Deadline": func() (*Conn, error) {
			return (&Dialer{Deadline: time.Now().Add(200 * time.Millisecond)}).Dial("a.b.c")
		},
		"context": func() (*Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			return DialContext(ctx, "a.b.c")
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod(t)
			leakless(t)
			agent(t, func(conn *net.UnixConn, _ asked, _ int) { _, _ = conn.Read(make([]byte, 1)) })
			_, err := dial()
			failure := refusal(t, err, ErrHandshakeTimeout)
			var network net.Error
			if !errors.As(err, &network) || !network.Timeout() || !failure.Retryable || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCancellingEndsADialAtOnce(t *testing.T) {
	pod(t)
	leakless(t)
	ctx, cancel := context.WithCancel(context.Background())
	agent(t, func(conn *net.UnixConn, _ asked, _ int) {
		cancel()
		_, _ = conn.Read(make([]byte, 1)) // until the client has gone
	})
	_, err := DialContext(ctx, "http.cart.shop")
	var failure *Error
	if !errors.Is(err, context.Canceled) || errors.As(err, &failure) {
		t.Errorf("%v", err)
	}
}

func TestADialWaitsForAnAgentThatComesLater(t *testing.T) {
	pod(t)
	leakless(t)
	dialling := make(chan struct{})
	go func() {
		<-dialling
		agent(t, func(conn *net.UnixConn, _ asked, _ int) { say(t, conn, fullReply(0)...) })
	}()
	dialer := Dialer{Traceparent: func(context.Context) string { close(dialling); return "" }}
	conn, err := dialer.DialContext(soon(t), "http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestADialThatMustNotWaitSaysThatThereIsNoAgent(t *testing.T) {
	dir := pod(t)
	leakless(t)
	_, err := (&Dialer{WaitForAgent: -1}).Dial("http.cart.shop")
	failure := refusal(t, err, ErrAgentUnavailable)
	if !errors.Is(err, os.ErrNotExist) || !failure.Retryable || !strings.Contains(failure.Text, dir) || !strings.Contains(failure.Text, "MESHLESS_DIR") {
		t.Errorf("%v", err)
	}
	_, err = (&Dialer{WaitForAgent: 10 * time.Millisecond}).Dial("http.cart.shop")
	refusal(t, err, ErrAgentUnavailable)
}

func TestAFullBacklogIsWaitedFor(t *testing.T) {
	pod(t)
	leakless(t)
	descriptor, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(descriptor)
	if err := errors.Join(syscall.Bind(descriptor, &syscall.SockaddrUnix{Name: ClientSocketPath()}), syscall.Listen(descriptor, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", ClientSocketPath())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = (&Dialer{ConnectTimeout: 20 * time.Millisecond}).Dial("http.cart.shop")
	if failure := refusal(t, err, ErrAgentUnavailable); !strings.Contains(failure.Text, "backlog") {
		t.Errorf("%v", err)
	}
	go func() { // make room: whoever is next gets its reply
		for i := 0; i < 2; i++ {
			accepted, _, err := syscall.Accept(descriptor)
			if err != nil {
				t.Error(err)
				return
			}
			if i == 1 {
				_, _ = syscall.Write(accepted, fullReply(0))
			}
			_ = syscall.Close(accepted)
		}
	}()
	conn, err := DialContext(soon(t), "http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestWhatIsNoAgentIsAProtocolError(t *testing.T) {
	pod(t)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, _ int) { say(t, conn, []byte("HTTP/1.1 400 Bad Request\r\n")...) })
	_, err := (&Dialer{Retry: Retry{Attempts: 3}}).Dial("http.cart.shop")
	if refusal(t, err, ErrProtocol).Retryable {
		t.Error("retryable")
	}
}

func TestWhatCannotBeSentIsRefusedBeforeAnythingIs(t *testing.T) {
	t.Setenv("MESHLESS_DIR", "/nonexistent")
	for _, id := range []string{"", "a", "a.b", "a.b.c.d", "A.b.c", "a.b.", "-a.b.c", "a-.b.c", "a.b.c\n", "a..c", "ä.b.c", strings.Repeat("a", 64) + ".b.c"} {
		_, err := Dial(id)
		refusal(t, err, ErrInvalidServiceID)
	}
	for _, dialer := range []Dialer{{StickyKey: make([]byte, 65)}, {VersionPin: "v2 "}, {VersionPin: strings.Repeat("v", 64)}, {VersionPin: ".v"}} {
		_, err := dialer.Dial("a.b.c")
		refusal(t, err, ErrInvalidOption)
	}
}

func TestATraceparentThatIsNoneIsNotSent(t *testing.T) {
	for _, text := range []string{"", "x", traceparent[1:], "ff" + traceparent[2:], strings.ToUpper(traceparent),
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		strings.Replace(traceparent, "-", "_", 1)} {
		if isTraceparent(text) {
			t.Errorf("%q", text)
		}
	}
	if !isTraceparent(traceparent) {
		t.Error("a good one is not accepted")
	}
}

func TestASocketWithALongPathIsReached(t *testing.T) {
	dir := pod(t)
	long := dir + "/" + strings.Repeat("x", 100)
	for _, name := range []string{long, long + "/client", long + "/server"} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("MESHLESS_DIR", long)
	leakless(t)
	agent(t, func(conn *net.UnixConn, _ asked, _ int) { say(t, conn, fullReply(0)...) })
	conn, err := Dial("http.cart.shop")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
