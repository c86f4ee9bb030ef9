package meshless

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The numbers of the fields, from protocol/handshake-v2.md.
const (
	fieldDeadline          = 0x01
	fieldTraceparent       = 0x02
	fieldStickyKey         = 0x03
	fieldVersionPin        = 0x04
	fieldAcceptsDescriptor = 0x05

	fieldConnectionID      = 0x11
	fieldVersion           = 0x12
	fieldEndpoint          = 0x13
	fieldRetryAfter        = 0x14
	fieldText              = 0x15
	fieldDescriptorFollows = 0x16

	fieldCritical = 0x80
)

const (
	version1 = 0x01
	version2 = 0x02

	maxMessageBytes    = 4096
	maxStickyKeyBytes  = 64
	maxVersionPinBytes = 63
	maxTextBytes       = 256
	maxEndpointBytes   = 317
)

// wishes are what a request of version 2 says besides the service id. Zero values are not sent.
type wishes struct {
	deadline          time.Duration
	traceparent       string
	stickyKey         []byte
	versionPin        string
	acceptsDescriptor bool
}

// check returns what is wrong with the wishes, nil if an agent accepts them. A malformed traceparent is not an error: it
// comes from whoever called this program, and a trace that breaks off is better than a call that fails; it is not sent.
func (w *wishes) check(serviceID string) error {
	if len(w.stickyKey) > maxStickyKeyBytes {
		return newError(ErrInvalidOption, serviceID, fmt.Sprintf(
			"the sticky key has %d bytes; use at most %d, for instance a hash", len(w.stickyKey), maxStickyKeyBytes), nil)
	}
	if w.versionPin != "" && !isLabelValue(w.versionPin) {
		return newError(ErrInvalidOption, serviceID, fmt.Sprintf(
			"version pin %.64q is no label value; write the pod label's value, such as v2", w.versionPin), nil)
	}
	if !isTraceparent(w.traceparent) {
		w.traceparent = ""
	}
	return nil
}

// encodeRequest1 makes a request of version 1. The service id has been checked, so its size fits a byte.
func encodeRequest1(serviceID string) []byte {
	return append([]byte{version1, byte(len(serviceID))}, serviceID...)
}

// encodeRequest2 makes a request of version 2. Service id and wishes have been checked.
func encodeRequest2(serviceID string, w wishes) []byte {
	request := append(make([]byte, 0, 192), version2, 0, 0, byte(len(serviceID)))
	request = append(request, serviceID...)
	if w.deadline > 0 {
		milliseconds := min(max(w.deadline.Milliseconds(), 1), 1<<32-1)
		request = binary.BigEndian.AppendUint32(append(request, fieldDeadline, 0, 4), uint32(milliseconds))
	}
	request = appendField(request, fieldTraceparent, w.traceparent)
	request = appendField(request, fieldStickyKey, string(w.stickyKey))
	request = appendField(request, fieldVersionPin, w.versionPin)
	if w.acceptsDescriptor {
		request = append(request, fieldAcceptsDescriptor, 0, 0)
	}
	binary.BigEndian.PutUint16(request[1:], uint16(len(request)-3))
	return request
}

func appendField(message []byte, number byte, value string) []byte {
	if value == "" {
		return message
	}
	message = binary.BigEndian.AppendUint16(append(message, number), uint16(len(value)))
	return append(message, value...)
}

// isLabelValue reports whether text is a non-empty value of a Kubernetes label.
func isLabelValue(text string) bool {
	if len(text) == 0 || len(text) > maxVersionPinBytes {
		return false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case (c == '-' || c == '_' || c == '.') && i > 0 && i < len(text)-1:
		default:
			return false
		}
	}
	return true
}

// isTraceparent reports whether text is a traceparent as W3C Trace Context defines it.
func isTraceparent(text string) bool {
	if len(text) != 55 || text[:2] == "ff" {
		return false
	}
	traceID, parentID := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case i == 2 || i == 35 || i == 52:
			if c != '-' {
				return false
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
			traceID = traceID || c != '0' && 2 < i && i < 35
			parentID = parentID || c != '0' && 35 < i && i < 52
		default:
			return false
		}
	}
	return traceID && parentID
}
