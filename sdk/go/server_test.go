package meshless

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func serving(t *testing.T, server *Server, handler Handler) (path string, ended <-chan error) {
	t.Helper()
	listener, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- server.Serve(listener, handler) }()
	eventually(t, "the server serves", func() bool {
		server.mutex.Lock()
		defer server.mutex.Unlock()
		return len(server.listeners) > 0
	})
	return listener.path, result
}

func dialPath(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func expectEnd(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if data, err := io.ReadAll(conn); string(data) != want || err != nil {
		t.Errorf("%q, %v; want %q", data, err, want)
	}
}

func TestShutdownLetsConnectionsFinishAndTheServerServesAgain(t *testing.T) {
	pod(t)
	leakless(t)
	server := &Server{}
	for round := 0; round < 2; round++ {
		finishing := make(chan struct{})
		path, ended := serving(t, server, func(_ context.Context, conn *ServerConn) {
			say(t, conn, 'a')
			<-conn.Draining()
			close(finishing)
			say(t, conn, 'b')
			if conn.ID() == (ConnectionID{}) || conn.Peer() != nil {
				t.Errorf("%+v", conn)
			}
		})
		conn := dialPath(t, path)
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if cut := server.Shutdown(soon(t)); cut != 0 {
			t.Errorf("%d were cut", cut)
		}
		<-finishing
		expectEnd(t, conn, "b")
		if err := <-ended; !errors.Is(err, ErrServerClosed) {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is still at its path: %v", err)
		}
	}
}

func TestShutdownServesWhoWasInTheBacklog(t *testing.T) {
	pod(t)
	leakless(t)
	server := &Server{}
	listener, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	var waiting []*net.UnixConn
	for i := 0; i < 20; i++ {
		waiting = append(waiting, dialPath(t, listener.path))
	}
	started := make(chan struct{}, len(waiting))
	go server.Serve(listener, func(_ context.Context, conn *ServerConn) {
		started <- struct{}{}
		say(t, conn, 'a')
	})
	<-started
	if cut := server.Shutdown(soon(t)); cut != 0 {
		t.Errorf("%d were cut", cut)
	}
	for _, conn := range waiting {
		expectEnd(t, conn, "a")
	}
}

func TestShutdownCutsWhatIsLeftAndCountsIt(t *testing.T) {
	pod(t)
	leakless(t)
	server := &Server{}
	cancelled := make(chan struct{}, 3)
	path, _ := serving(t, server, func(ctx context.Context, conn *ServerConn) {
		say(t, conn, 'a')
		_, _ = conn.Read(make([]byte, 1)) // until it is cut
		<-ctx.Done()
		cancelled <- struct{}{}
	})
	for i := 0; i < 3; i++ {
		if _, err := io.ReadFull(dialPath(t, path), make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if cut := server.Shutdown(ctx); cut != 3 {
		t.Errorf("%d were cut", cut)
	}
	for i := 0; i < 3; i++ {
		<-cancelled
	}
}

func TestShutdownLeavesTheSocketOfTheNextServer(t *testing.T) {
	pod(t)
	leakless(t)
	server := &Server{}
	path, ended := serving(t, server, func(context.Context, *ServerConn) {})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	server.Shutdown(soon(t))
	<-ended
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestAServerThatNeverServedShutsDown(t *testing.T) {
	if cut := new(Server).Shutdown(soon(t)); cut != 0 {
		t.Error(cut)
	}
}

const peerHeader = "\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x63\x02\x00\x0ehttp.cart.shop\x05\x00\x100123456789abcdef\xe0\x00\x04shop" +
	"\xe1\x00\x03web\xe2\x00\x05web-0\xe3\x00\x27spiffe://mesh.local/ns/shop/meshlet/web"

func TestAServerThatExpectsAProxyHeaderKnowsWhoConnects(t *testing.T) {
	pod(t)
	leakless(t)
	server := &Server{ProxyProtocol: true}
	path, _ := serving(t, server, func(_ context.Context, conn *ServerConn) {
		want := Peer{"http.cart.shop", "30313233343536373839616263646566", "shop", "web", "web-0", "spiffe://mesh.local/ns/shop/meshlet/web"}
		if conn.Peer() == nil || *conn.Peer() != want || conn.ID().String() != want.ConnectionID {
			t.Errorf("%+v, %v", conn.Peer(), conn.ID())
		}
		_, _ = io.Copy(conn, conn)
	})
	conn := dialPath(t, path)
	say(t, conn, []byte(peerHeader+"hello")...)
	_ = conn.CloseWrite()
	expectEnd(t, conn, "hello")
	server.Shutdown(soon(t))
}

func TestAConnectionWithoutTheExpectedHeaderIsClosedAndLogged(t *testing.T) {
	for name, sent := range map[string]string{"another protocol": "GET / HTTP/1.1\r\n\r\n", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			pod(t)
			leakless(t)
			var lines bytes.Buffer
			server := &Server{ProxyProtocol: true, ProxyHeaderTimeout: 20 * time.Millisecond, ErrorLog: log.New(&lines, "", 0)}
			path, _ := serving(t, server, func(context.Context, *ServerConn) { t.Error("the handler was called") })
			conn := dialPath(t, path)
			say(t, conn, []byte(sent)...)
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d, %v", n, err)
			}
			server.Shutdown(soon(t))
			if !strings.Contains(lines.String(), "PROXY header") {
				t.Errorf("%q", lines.String())
			}
		})
	}
}
