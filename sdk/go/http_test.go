package meshless

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// meshOfOne stands in for an agent whose every service is the pod's own server of http; leases are given to each of lease.
func meshOfOne(t *testing.T, lease ...func(conn *net.UnixConn)) *atomic.Int32 {
	t.Helper()
	var dials atomic.Int32
	agent(t, func(conn *net.UnixConn, request asked, _ int) {
		dials.Add(1)
		if request.serviceID != "http.cart.shop" {
			say(t, conn, fullReply(ErrServiceNotFound)...)
			return
		}
		client, service := socketPair(t, 1)
		upstream, err := connectOnce(ServerSocketPath("http"))
		if err != nil {
			say(t, conn, fullReply(ErrServiceRefused)...)
			_ = client.Close()
			return
		}
		say(t, conn, fullReply(0, field(0x96, ""))...)
		handOver(t, conn, 0, client)
		go func() { _, _ = io.Copy(upstream, service); _ = upstream.CloseWrite() }()
		go func() {
			_, _ = io.Copy(service, upstream)
			_ = service.(*net.UnixConn).CloseWrite()
			_ = upstream.Close()
		}()
		for _, hold := range lease {
			hold(conn)
		}
	})
	return &dials
}

func servingHTTP(t *testing.T, server *HTTPServer) (path string, ended <-chan error) {
	t.Helper()
	listener, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- server.Serve(listener) }()
	eventually(t, "the server serves", func() bool {
		server.mutex.Lock()
		defer server.mutex.Unlock()
		return len(server.listeners) > 0
	})
	return listener.path, result
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestHTTPOverTheMeshKeepsConnectionsAlive(t *testing.T) {
	pod(t)
	leakless(t)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9") // is none of the mesh's business
	dials := meshOfOne(t)
	server := &HTTPServer{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ConnectionIDFrom(r.Context()) == (ConnectionID{}) || PeerFrom(r.Context()) != nil {
			t.Error("connection id or peer are wrong")
		}
		_, _ = io.WriteString(w, "hello "+r.Host+r.URL.Path)
	})}
	_, ended := servingHTTP(t, server)
	client := &http.Client{Transport: NewTransport(nil), Timeout: patience}
	for _, url := range []string{"http://http.cart.shop/a", "http://http.cart.shop/a", "http://http.cart.shop/a"} {
		if body := get(t, client, url); body != "hello http.cart.shop/a" {
			t.Errorf("%q", body)
		}
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections", dials.Load())
	}
	if body := get(t, client, "http://http.cart.shop:8080/b"); body != "hello http.cart.shop:8080/b" {
		t.Errorf("%q", body)
	}
	_, err := client.Get("http://other.cart.shop/")
	refusal(t, err, ErrServiceNotFound)
	_, err = client.Get("http://example.com/")
	refusal(t, err, ErrInvalidServiceID)
	client.CloseIdleConnections()
	if cut := server.Shutdown(soon(t)); cut != 0 {
		t.Errorf("%d were cut", cut)
	}
	if err := <-ended; !errors.Is(err, ErrServerClosed) {
		t.Errorf("%v", err)
	}
}

func TestIdleHTTPConnectionsAreClosedWhenTheAgentGoes(t *testing.T) {
	pod(t)
	leakless(t)
	drain, heard := make(chan struct{}), make(chan struct{}, 1)
	dials := meshOfOne(t, func(lease *net.UnixConn) {
		<-drain
		say(t, lease, noticeBytes(noticeDrain, "")...)
		_, _ = lease.Read(make([]byte, 1))
	}, func(*net.UnixConn) { heard <- struct{}{} })
	server := &HTTPServer{Handler: http.NotFoundHandler()}
	_, ended := servingHTTP(t, server)
	told := make(chan *Conn, 2)
	client := &http.Client{
		Transport: NewTransport(&Dialer{OnDrain: func(conn *Conn, _ string) { told <- conn }}),
		Timeout:   patience,
	}
	_ = get(t, client, "http://http.cart.shop/")
	close(drain)
	<-told
	<-heard // the lease has ended with its connection, which was idle
	_ = get(t, client, "http://http.cart.shop/")
	if dials.Load() != 2 {
		t.Errorf("%d connections", dials.Load())
	}
	client.CloseIdleConnections()
	_ = server.Shutdown(soon(t))
	<-ended
}

func TestAnHTTPServerFinishesRequestsCutsTheRestAndServesAgain(t *testing.T) {
	pod(t)
	leakless(t)
	entered, finish := make(chan struct{}), make(chan struct{})
	server := &HTTPServer{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		select {
		case <-finish:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "done")
	})}
	for _, patient := range []bool{true, false} {
		path, ended := servingHTTP(t, server)
		conn := dialPath(t, path)
		say(t, conn, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")...)
		<-entered
		ctx, cancel := context.WithCancel(context.Background())
		if patient {
			go func() { finish <- struct{}{} }()
		} else {
			cancel()
		}
		cut := server.Shutdown(ctx)
		cancel()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		answer, err := io.ReadAll(conn)
		if patient && (cut != 0 || !strings.HasSuffix(string(answer), "done")) || !patient && cut != 1 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("patient %v: %d were cut, answer %q, %v", patient, cut, answer, err)
		}
		if err := <-ended; !errors.Is(err, ErrServerClosed) {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}

func TestAnHTTPHandlerKnowsThePeerOfTheProxyHeader(t *testing.T) {
	pod(t)
	leakless(t)
	server := &HTTPServer{ProxyProtocol: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, PeerFrom(r.Context()).Meshlet+" "+ConnectionIDFrom(r.Context()).String())
	})}
	path, _ := servingHTTP(t, server)
	conn := dialPath(t, path)
	say(t, conn, []byte(peerHeader+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")...)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if answer, err := io.ReadAll(conn); !strings.HasSuffix(string(answer), "\r\n\r\nweb 30313233343536373839616263646566") || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	server.Shutdown(soon(t))
}

func TestAnHTTPServerClosesWithoutAnswerWhatHasNoProxyHeader(t *testing.T) {
	pod(t)
	leakless(t)
	server := &HTTPServer{ProxyProtocol: true, ErrorLog: log.New(io.Discard, "", 0), Handler: http.NotFoundHandler()}
	path, _ := servingHTTP(t, server)
	conn := dialPath(t, path)
	say(t, conn, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")...)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if answer, err := io.ReadAll(conn); len(answer) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", answer, err)
	}
	server.Shutdown(soon(t))
}

func TestAClientThatSendsOnlyAProxyHeaderIsStillBoundInTime(t *testing.T) {
	pod(t)
	leakless(t)
	server := &HTTPServer{ProxyProtocol: true, ReadHeaderTimeout: 50 * time.Millisecond, Handler: http.NotFoundHandler()}
	path, _ := servingHTTP(t, server)
	conn := dialPath(t, path)
	say(t, conn, []byte(peerHeader)...)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server waits for ever")
	}
	server.Shutdown(soon(t))
}
