package meshless

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

const descriptorBytes = 4

// receiveDescriptor reads the byte behind a reply that carries the service's socket. Whatever else comes is closed. The
// error is an [*Error], or that of the read.
func receiveDescriptor(socket *net.UnixConn) (*net.UnixConn, error) {
	data := make([]byte, 1)
	control := make([]byte, syscall.CmsgSpace(2*descriptorBytes)) // room for one too many, to notice it
	n, controlSize, flags, _, err := socket.ReadMsgUnix(data, control)
	descriptors := parseRights(control[:controlSize])
	if n == 0 && (err == nil || errors.Is(err, io.EOF) || isGone(err)) {
		closeAll(descriptors)
		return nil, newError(ErrAgentUnavailable, "", "the agent went away before it handed over the connection; retry", err)
	}
	if err != nil {
		closeAll(descriptors)
		return nil, err
	}
	if data[0] != 0 || len(descriptors) != 1 || flags&syscall.MSG_CTRUNC != 0 {
		closeAll(descriptors)
		return nil, newError(ErrProtocol, "", "the agent announced a descriptor and did not send exactly one", nil)
	}
	file := os.NewFile(uintptr(descriptors[0]), "meshless service")
	conn, err := net.FileConn(file) // a duplicate
	_ = file.Close()
	if err != nil {
		return nil, newError(ErrProtocol, "", "the agent handed over a descriptor that is no socket", err)
	}
	service, ok := conn.(*net.UnixConn)
	if !ok || service.LocalAddr().Network() != "unix" {
		_ = conn.Close()
		return nil, newError(ErrProtocol, "", "the agent handed over a socket that is no Unix stream socket", nil)
	}
	return service, nil
}

// parseRights returns all descriptors of a control message.
func parseRights(control []byte) []int {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var descriptors []int
	for i := range messages {
		if rights, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			descriptors = append(descriptors, rights...)
		}
	}
	return descriptors
}

func closeAll(descriptors []int) {
	for _, descriptor := range descriptors {
		_ = syscall.Close(descriptor)
	}
}
