package meshless

import "encoding/binary"

type noticeKind byte

const (
	noticeDrain   noticeKind = 0x01
	noticeRevoked noticeKind = 0x02
)

const noticeHeaderBytes = 3

// notices collects what the agent says on a lease. No I/O here.
type notices struct {
	data []byte
	over bool // revoked, or broken: whatever follows is ignored
}

type notice struct {
	kind noticeKind
	text string
}

// receive takes bytes as they come and returns the notices that are complete, unknown kinds left out. A revoked notice is
// the last one. An error means that the bytes are no notice, which is to be taken for revoked.
func (n *notices) receive(data []byte) ([]notice, error) {
	if n.over {
		return nil, nil
	}
	var complete []notice
	n.data = append(n.data, data...)
	for len(n.data) >= noticeHeaderBytes {
		kind, size := noticeKind(n.data[0]), int(binary.BigEndian.Uint16(n.data[1:]))
		if size > maxMessageBytes {
			n.over, n.data = true, nil
			return complete, newError(ErrProtocol, "", "the agent's notice is too long", nil)
		}
		if len(n.data) < noticeHeaderBytes+size {
			break
		}
		text := printable(n.data[noticeHeaderBytes : noticeHeaderBytes+size])
		n.data = n.data[noticeHeaderBytes+size:]
		if kind == noticeDrain || kind == noticeRevoked {
			complete = append(complete, notice{kind, text})
		}
		if kind == noticeRevoked {
			n.over, n.data = true, nil
		}
	}
	return complete, nil
}
