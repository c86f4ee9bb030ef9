package meshless

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// Peer is who connects, as the agent says in the PROXY header. What the agent did not say is "".
type Peer struct {
	ServiceID    string // what was dialled
	ConnectionID string // hexadecimal; the connection in the logs of both agents
	Namespace    string // of the client
	Meshlet      string // of the client
	Pod          string // of the client; told by its agent, not proven
	Identity     string // spiffe://<trust-domain>/ns/<namespace>/meshlet/<meshlet>
}

const (
	proxyFixedBytes  = 16
	maxProxyBytes    = 4096
	proxySignature   = "\r\n\r\n\x00\r\nQUIT\n"
	proxyVersion     = 2
	proxyLocal       = 0
	proxyProxy       = 1
	proxyAuthority   = 0x02
	proxyUniqueID    = 0x05
	proxyNamespace   = 0xe0
	proxyMeshlet     = 0xe1
	proxyPod         = 0xe2
	proxyIdentity    = 0xe3
	maxUniqueIDBytes = 128
)

// proxyAddressBytes is how much of a header its addresses take, by family.
var proxyAddressBytes = [...]int{0, 12, 36, 216}

// proxyHeader collects a PROXY header, version 2: read at most wanted() bytes, feed them, until wanted() is 0. No I/O here.
type proxyHeader struct {
	data []byte
	size int
	peer *Peer // nil for LOCAL
}

func newProxyHeader() *proxyHeader { return &proxyHeader{size: proxyFixedBytes} }

func (h *proxyHeader) wanted() int { return h.size - len(h.data) }

// receive takes bytes as they come, at most wanted(); none means end-of-file.
func (h *proxyHeader) receive(data []byte) error {
	if len(data) == 0 {
		return badProxyHeader("the connection ended before its PROXY header was complete")
	}
	had := len(h.data)
	h.data = append(h.data, data...)
	have := len(h.data)
	if had < proxyFixedBytes {
		signature := h.data[:min(have, len(proxySignature))]
		if string(signature) != proxySignature[:len(signature)] {
			return badProxyHeader("what came is no PROXY header of version 2; set proxyProtocol: v2 for the service, or expect none")
		}
		if have > 12 && (h.data[12]>>4 != proxyVersion || h.data[12]&15 > proxyProxy) {
			return badProxyHeader("PROXY version and command %#02x are unknown", h.data[12])
		}
		if have > 13 && (int(h.data[13]>>4) >= len(proxyAddressBytes) || h.data[13]&15 > 2) {
			return badProxyHeader("PROXY family and transport %#02x are unknown", h.data[13])
		}
		if have < proxyFixedBytes {
			return nil
		}
		length := int(binary.BigEndian.Uint16(h.data[14:]))
		if length > maxProxyBytes || length < proxyAddressBytes[h.data[13]>>4] {
			return badProxyHeader("a PROXY header cannot have %d bytes", length)
		}
		h.size += length
	}
	if h.wanted() > 0 || h.data[12]&15 == proxyLocal {
		return nil
	}
	h.peer = new(Peer)
	return h.peer.take(h.data[proxyFixedBytes+proxyAddressBytes[h.data[13]>>4]:])
}

func (p *Peer) take(fields []byte) error {
	for len(fields) > 0 {
		if len(fields) < 3 {
			return badProxyHeader("the PROXY header ends within a field")
		}
		kind, size := fields[0], int(binary.BigEndian.Uint16(fields[1:]))
		if len(fields) < 3+size {
			return badProxyHeader("PROXY field %#02x reaches beyond the header", kind)
		}
		value := fields[3 : 3+size]
		fields = fields[3+size:]
		place, most := p.place(kind)
		if place == nil {
			continue // of a newer agent, or of another program
		}
		if *place != "" {
			return badProxyHeader("PROXY field %#02x occurs twice", kind)
		}
		if size == 0 || size > most {
			return badProxyHeader("PROXY field %#02x cannot have %d bytes", kind, size)
		}
		if kind == proxyUniqueID {
			*place = hex.EncodeToString(value)
			continue
		}
		if bytes.IndexFunc(value, func(c rune) bool { return c > 0x7f }) >= 0 {
			return badProxyHeader("PROXY field %#02x is not ASCII", kind)
		}
		*place = string(value)
	}
	return nil
}

// place returns where the value of a field goes, and how many bytes it may have; nil if the field is of no interest.
func (p *Peer) place(kind byte) (*string, int) {
	switch kind {
	case proxyAuthority:
		return &p.ServiceID, 255
	case proxyUniqueID:
		return &p.ConnectionID, maxUniqueIDBytes
	case proxyNamespace:
		return &p.Namespace, maxLabelBytes
	case proxyMeshlet:
		return &p.Meshlet, maxLabelBytes
	case proxyPod:
		return &p.Pod, 253
	case proxyIdentity:
		return &p.Identity, 2048
	}
	return nil, 0
}

// ReadProxyHeader reads a PROXY header, version 2, and not one byte more. The Peer is nil if the header says nothing about a
// client (command LOCAL). [Server] and [HTTPServer] do it by themselves if they are told to expect one.
func ReadProxyHeader(r io.Reader) (*Peer, error) {
	header := newProxyHeader()
	for header.wanted() > 0 {
		buffer := make([]byte, header.wanted())
		n, err := r.Read(buffer)
		if n == 0 && err == nil {
			continue
		}
		if n == 0 && err != io.EOF {
			return nil, newError(ErrProxyHeader, "", "the PROXY header did not come: "+err.Error(), err)
		}
		if err := header.receive(buffer[:n]); err != nil {
			return nil, err
		}
	}
	return header.peer, nil
}

func badProxyHeader(format string, arguments ...any) error {
	return newError(ErrProxyHeader, "", fmt.Sprintf(format, arguments...), nil)
}
