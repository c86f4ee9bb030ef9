package meshless

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const patience = 30 * time.Second

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", patience, what)
		}
	}
}

// leakless fails the test if it leaves goroutines or descriptors behind.
func leakless(t *testing.T) {
	t.Helper()
	openFiles := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("needs /proc")
		}
		return len(entries)
	}
	// the first socket of a process makes the runtime open descriptors of its own
	warmUp, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(shortDir(t), "w"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	_ = warmUp.Close()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > goroutines || openFiles() > files {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<16)
				t.Fatalf("leaked: %d goroutines were %d, %d descriptors were %d\n%s", runtime.NumGoroutine(), goroutines,
					openFiles(), files, stacks[:runtime.Stack(stacks, true)])
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// pod makes the folders of a pod and sets MESHLESS_DIR.
func pod(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	for _, name := range []string{"client", "server"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("MESHLESS_DIR", dir)
	return dir
}

// asked is a request as a stand-in for an agent reads it.
type asked struct {
	version   byte
	serviceID string
	fields    map[byte]string
}

func readRequest(t *testing.T, conn net.Conn) asked {
	t.Helper()
	read := func(size int) []byte {
		data := make([]byte, size)
		if _, err := io.ReadFull(conn, data); err != nil {
			t.Errorf("the request ended: %v", err)
		}
		return data
	}
	request := asked{version: read(1)[0], fields: map[byte]string{}}
	if request.version == version1 {
		request.serviceID = string(read(int(read(1)[0])))
		return request
	}
	body := read(int(binary.BigEndian.Uint16(read(2))))
	request.serviceID, body = string(body[1:1+body[0]]), body[1+body[0]:]
	for len(body) > 0 {
		size := binary.BigEndian.Uint16(body[1:])
		request.fields[body[0]] = string(body[3 : 3+size])
		body = body[3+size:]
	}
	return request
}

// agent stands in for an agent: serve is called for one connection after the other, with its number from 1.
func agent(t *testing.T, serve func(conn *net.UnixConn, request asked, number int)) {
	t.Helper()
	rawAgent(t, func(conn *net.UnixConn, number int) { serve(conn, readRequest(t, conn), number) })
}

func rawAgent(t *testing.T, serve func(conn *net.UnixConn, number int)) {
	t.Helper()
	listener, err := listenAt("agent", ClientSocketPath())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for number := 1; ; number++ {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			serve(conn, number)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the stand-in agent hangs")
		}
	})
}

func say(t *testing.T, conn net.Conn, data ...byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Errorf("the stand-in agent cannot write: %v", err)
	}
}

func fullReply(code Code, fields ...[]byte) []byte {
	data := []byte{version2, byte(code), 0, 0}
	for _, field := range fields {
		data = append(data, field...)
	}
	binary.BigEndian.PutUint16(data[2:], uint16(len(data)-4))
	return data
}

func field(kind byte, value string) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value))), value...)
}

// soon is a context that ends before the test's patience does.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func refusal(t *testing.T, err error, code Code) *Error {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) || !errors.Is(err, code) {
		t.Fatalf("got %v, want %v", err, code)
	}
	return failure
}
