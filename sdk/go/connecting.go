package meshless

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	shortestPause = time.Millisecond
	longestPause  = 50 * time.Millisecond

	version1Memory = time.Minute // agents are upgraded, so not longer
)

// connect connects to the agent. Two things are waited for: an agent that listens, and room in its backlog, for which a
// Unix socket has no event but EAGAIN. An agent that is being replaced leaves its listener open, so the backlog is where
// clients wait for the next one.
func (d *Dialer) connect(ctx context.Context, path, serviceID string) (*net.UnixConn, error) {
	absent, cancelAbsent := withLimit(ctx, d.WaitForAgent, defaultWaitForAgent)
	defer cancelAbsent()
	full, cancelFull := context.WithCancel(ctx)
	defer func() { cancelFull() }()
	isFull := false
	for wait := shortestPause; ; wait = min(2*wait, longestPause) {
		if err := ctx.Err(); err != nil {
			return nil, ended(err, ErrAgentUnavailable, serviceID, "no agent took the connection in time; retry")
		}
		socket, err := connectOnce(path)
		if err == nil {
			return socket, nil
		}
		waiting := absent
		switch {
		case errors.Is(err, syscall.EAGAIN):
			if !isFull { // its time begins when the backlog is first met full
				isFull = true
				full, cancelFull = withLimit(ctx, d.ConnectTimeout, defaultConnectTimeout)
			}
			waiting = full
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
			return nil, unavailable(path, serviceID, err)
		case d.WaitForAgent < 0:
			return nil, unavailable(path, serviceID, err)
		}
		if over := pause(waiting, wait); over != nil && !errors.Is(over, context.Canceled) {
			if sameDeadline(ctx, waiting) { // it is the caller's own limit
				err = errors.Join(over, err)
			}
			return nil, unavailable(path, serviceID, err)
		}
	}
}

func sameDeadline(a, b context.Context) bool {
	one, limited := a.Deadline()
	other, _ := b.Deadline()
	return limited && one.Equal(other)
}

func connectOnce(path string) (*net.UnixConn, error) {
	address, release, err := socketAddress(path)
	if err != nil {
		return nil, err
	}
	defer release()
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
}

func unavailable(path, serviceID string, err error) error {
	why := "check that this pod belongs to a mesh and that its node's agent runs"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "there is no such socket; check that this pod belongs to a mesh, or set MESHLESS_DIR"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nobody listens on it; check that the node's agent runs"
	case errors.Is(err, fs.ErrPermission):
		why = "no permission to connect; check the mode of the socket and of the folders above it"
	case errors.Is(err, syscall.EAGAIN):
		why = "its backlog stayed full; check that the node's agent is alive, or retry"
	}
	return newError(ErrAgentUnavailable, serviceID, fmt.Sprintf("cannot connect to %s: %s", path, why), err)
}

// ended makes the error for a context that ended: cancelled by the caller, who did not want an Error, or out of time.
func ended(err error, code Code, serviceID, text string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("meshless: %s: dialling was cancelled: %w", serviceID, err)
	}
	return newError(code, serviceID, text, err)
}

// memory remembers for a while which paths belong to agents without version 2, to spare the second connection.
type memory struct {
	mutex sync.Mutex
	until map[string]time.Time
}

var onlyVersion1 = memory{until: map[string]time.Time{}}

func (m *memory) has(path string, now time.Time) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	until, ok := m.until[path]
	if ok && now.After(until) {
		delete(m.until, path)
		return false
	}
	return ok
}

func (m *memory) add(path string, now time.Time) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.until[path] = now.Add(version1Memory)
}
