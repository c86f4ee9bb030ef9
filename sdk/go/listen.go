package meshless

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketMode lets the agent in, which runs as another user: connecting needs write permission. Who may reach the folder is
// the pod's business.
const socketMode = 0o666

// backlogTime is how long a listener that is to be closed waits for the next connection from its backlog.
const backlogTime = 10 * time.Millisecond

// Listener listens for connections to a service. It is a [net.UnixListener] with the service's path as its address.
type Listener struct {
	*net.UnixListener
	path string
	file fs.FileInfo // what Listen put at path
}

// Addr returns where the service's socket is.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// drain prepares for closing without cutting anybody off: the socket goes away from its path, if it is still this one, so
// that nobody new comes, and Accept goes on until there was nobody for a moment; then it fails with a deadline's error.
func (l *Listener) drain() {
	if unlock, err := lockFolder(filepath.Dir(l.path)); err == nil { // else the folder is gone, and the socket with it
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.file) {
			_ = os.Remove(l.path) // if it stays, clients are refused a moment later
		}
		unlock()
	}
	_ = l.SetDeadline(time.Now().Add(backlogTime)) // fails only if it is closed already
}

// Listen listens for connections to a service of this pod, at ServerSocketPath(service).
//
// A socket file that a dead server left behind is replaced. One that somebody listens on is not, nor is a file that is no
// socket. The socket appears at its path when it is ready, so the agent never meets one that refuses. Its mode is 0666,
// whatever the umask. Closing the Listener leaves the file behind; the next Listen replaces it.
//
// The error is an [*Error] with the code [ErrListen] or [ErrInvalidServiceID].
func Listen(service string) (*Listener, error) {
	if !isLabel(service) {
		return nil, newError(ErrInvalidServiceID, fmt.Sprintf("%.256q", service),
			"not a service name: write a lower-case DNS label, as in the Meshlet", nil)
	}
	return listenAt(service, ServerSocketPath(service))
}

func listenAt(service, path string) (*Listener, error) {
	fail := func(why string, err error) (*Listener, error) {
		return nil, newError(ErrListen, service, fmt.Sprintf("cannot listen at %s: %s", path, why), err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fail(err.Error(), err)
	}
	// Two servers that start together must not both find the path free: whoever comes second finds the first one listening.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return fail("cannot open its folder; check that this pod belongs to a mesh, or set MESHLESS_DIR", err)
	}
	defer unlock()
	if why, err := occupied(path); why != "" {
		return fail(why, err)
	}
	listener, file, err := bindAt(path)
	if err != nil {
		return fail(err.Error(), err)
	}
	return &Listener{listener, path, file}, nil
}

func lockFolder(path string) (unlock func(), err error) {
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(folder.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		_ = folder.Close()
		return nil, err
	}
	return func() { _ = folder.Close() }, nil
}

// occupied returns why path must not be replaced, "" if nothing is there or a socket that nobody listens on.
func occupied(path string) (string, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "cannot see what is there: " + err.Error(), err
	case info.Mode().Type() != fs.ModeSocket:
		return "there is a file that is no socket; remove it", fs.ErrExist
	}
	probe, err := connectOnce(path)
	switch {
	case err == nil:
		_ = probe.Close()
		return "a live server listens there already; stop it first", syscall.EADDRINUSE
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, syscall.EAGAIN):
		return "a live server with a full backlog listens there already; stop it first", syscall.EADDRINUSE
	}
	return "cannot find out whether a server listens there: " + err.Error(), err
}

// bindAt listens under another name in the same folder and then renames.
func bindAt(path string) (*net.UnixListener, fs.FileInfo, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return nil, nil, err
	}
	temporary := filepath.Join(filepath.Dir(path), "."+hex.EncodeToString(random))
	address, release, err := socketAddress(temporary)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	listener.SetUnlinkOnClose(false) // by then it may be another server's
	file, err := os.Lstat(temporary)
	if err == nil {
		err = os.Chmod(temporary, socketMode)
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = listener.Close()
		_ = os.Remove(temporary)
		return nil, nil, err
	}
	return listener, file, nil
}
