package meshless

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestListenMakesASocketThatTheAgentMayConnectTo(t *testing.T) {
	dir := pod(t)
	leakless(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	listener, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	path := filepath.Join(dir, "server", "http")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o666 || listener.Addr().String() != path {
		t.Errorf("%v, %v, %v", info, err, listener.Addr())
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "server"))
	if len(entries) != 1 {
		t.Errorf("%v", entries)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestListenReplacesTheSocketOfADeadServerOnly(t *testing.T) {
	dir := pod(t)
	leakless(t)
	first, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Listen("http")
	refusal(t, err, ErrListen)
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v", err)
	}
	_ = first.Close()
	if _, err := os.Stat(filepath.Join(dir, "server", "http")); err != nil {
		t.Errorf("closing removed the file: %v", err)
	}
	second, err := Listen("http")
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := os.WriteFile(filepath.Join(dir, "server", "file"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Listen("file")
	if failure := refusal(t, err, ErrListen); !strings.Contains(failure.Text, "remove it") {
		t.Errorf("%v", err)
	}
}

func TestOfServersThatStartTogetherOneListens(t *testing.T) {
	pod(t)
	leakless(t)
	var group sync.WaitGroup
	listeners := make(chan *Listener, 8)
	for i := 0; i < cap(listeners); i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if listener, err := Listen("http"); err == nil {
				listeners <- listener
			} else if !errors.Is(err, syscall.EADDRINUSE) {
				t.Error(err)
			}
		}()
	}
	group.Wait()
	if len(listeners) != 1 {
		t.Errorf("%d listen", len(listeners))
	}
	close(listeners)
	for listener := range listeners {
		_ = listener.Close()
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Setenv("MESHLESS_DIR", "/nonexistent")
	_, err := Listen("http")
	if failure := refusal(t, err, ErrListen); !strings.Contains(failure.Text, "MESHLESS_DIR") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"", "a/b", "..", "HTTP", "@x"} {
		_, err := Listen(name)
		refusal(t, err, ErrInvalidServiceID)
	}
}

func TestListenAtALongPath(t *testing.T) {
	leakless(t)
	long := filepath.Join(shortDir(t), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := listenAt("http", filepath.Join(long, "http"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, err = listenAt("http", filepath.Join(long, "http"))
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v", err)
	}
}
