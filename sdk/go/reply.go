package meshless

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// details are what a reply says besides its code.
type details struct {
	connectionID      ConnectionID
	version           string
	endpoint          string
	retryAfter        time.Duration
	hasRetryAfter     bool
	text              string
	descriptorFollows bool
}

// reply collects a reply of either version: read at most wanted() bytes, feed them, until wanted() is 0. So not one byte
// behind the reply is touched: it would be the application's, or carry a descriptor that a plain read loses. No I/O here.
type reply struct {
	serviceID string
	asked     byte // the version of the request
	offered   bool // the request said that a descriptor can be received
	data      []byte
	size      int // of the whole reply, as far as it is known; 0 when it is complete
	details   details
}

func newReply(serviceID string, asked byte, offered bool) *reply {
	size := 2
	if asked == version2 {
		size = 4 // a shorter reply of version 1 is a refusal, so nothing behind it matters
	}
	return &reply{serviceID: serviceID, asked: asked, offered: offered, size: size}
}

// wanted returns how many bytes may be read next, 0 after an OK.
func (r *reply) wanted() int { return max(0, r.size-len(r.data)) }

// receive takes bytes as they come, at most wanted(); none means end-of-file. It returns nil for an OK and while bytes are
// missing, else an [*Error].
func (r *reply) receive(data []byte) error {
	if len(data) == 0 {
		return newError(ErrAgentUnavailable, r.serviceID,
			"the agent closed the connection without a reply: it was stopped or killed; retry", nil)
	}
	r.data = append(r.data, data...)
	switch first := r.data[0]; {
	case first == version1:
		return r.receive1()
	case first != version2 || r.asked != version2:
		return r.broken("the reply has version %d instead of %d; check that the path is the socket of an agent", first, r.asked)
	}
	if len(r.data) < 4 {
		return nil
	}
	length := int(binary.BigEndian.Uint16(r.data[2:]))
	if length > maxMessageBytes {
		return r.broken("the reply says it has %d bytes, more than %d", length, maxMessageBytes)
	}
	r.size = 4 + length
	if len(r.data) < r.size {
		return nil
	}
	r.size = 0
	return r.judge(r.data[4 : 4+length])
}

func (r *reply) receive1() error {
	if len(r.data) < 2 {
		return nil
	}
	r.size = 0
	switch code := Code(r.data[1]); {
	case code != 0:
		return newError(code, r.serviceID, "", nil)
	case r.asked != version1:
		return r.broken("the reply says yes in version 1, which was not asked")
	}
	return nil
}

func (r *reply) judge(fields []byte) error {
	code := Code(r.data[1])
	var seen [fieldCritical]bool
	for len(fields) > 0 {
		if len(fields) < 3 {
			return r.broken("the reply ends within a field")
		}
		kind, size := fields[0], int(binary.BigEndian.Uint16(fields[1:]))
		if len(fields) < 3+size {
			return r.broken("field %#02x reaches beyond the reply", kind)
		}
		number := kind &^ fieldCritical
		if seen[number] {
			return r.broken("field %#02x occurs twice", number)
		}
		seen[number] = true
		if known, good := r.details.take(number, fields[3:3+size]); !good {
			return r.broken("field %#02x cannot have %d bytes", kind, size)
		} else if !known && kind&fieldCritical != 0 {
			return r.broken("critical field %#02x is unknown; update the SDK", kind)
		}
		fields = fields[3+size:]
	}
	if r.details.descriptorFollows && (code != 0 || !r.offered) {
		return r.broken("the reply announces a descriptor that was not asked for")
	}
	if code == 0 {
		return nil
	}
	refusal := newError(code, r.serviceID, r.details.text, nil)
	refusal.ConnectionID = r.details.connectionID
	refusal.RetryAfter = r.details.retryAfter
	refusal.atOnce = r.details.hasRetryAfter && r.details.retryAfter == 0
	return refusal
}

// take stores the value of a field; known says whether its number is assigned, good whether its size is allowed.
func (d *details) take(number byte, value []byte) (known, good bool) {
	size := len(value)
	switch number {
	case fieldConnectionID:
		good = copy(d.connectionID[:], value) == size && size == len(d.connectionID)
	case fieldVersion:
		d.version, good = printable(value), 1 <= size && size <= maxVersionPinBytes
	case fieldEndpoint:
		d.endpoint, good = printable(value), 3 <= size && size <= maxEndpointBytes
	case fieldRetryAfter:
		if good = size == 4; good {
			d.retryAfter, d.hasRetryAfter = time.Duration(binary.BigEndian.Uint32(value))*time.Millisecond, true
		}
	case fieldText:
		d.text, good = printable(value), size <= maxTextBytes
	case fieldDescriptorFollows:
		d.descriptorFollows, good = true, size == 0
	default:
		return false, true
	}
	return true, good
}

func (r *reply) broken(format string, arguments ...any) error {
	return newError(ErrProtocol, r.serviceID, fmt.Sprintf(format, arguments...), nil)
}

// fallsBack reports whether err says that the agent has no version 2.
func (r *reply) fallsBack() bool {
	return r.asked == version2 && len(r.data) >= 2 && r.data[0] == version1 && Code(r.data[1]) == ErrUnsupportedVersion
}

// printable returns text of a peer fit to be shown: what is not UTF-8 replaced, control characters escaped.
func printable(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		character, size := utf8.DecodeRune(text)
		text = text[size:]
		if unicode.IsPrint(character) {
			b.WriteRune(character)
		} else {
			quoted := strconv.QuoteRune(character)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}
