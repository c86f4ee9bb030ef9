package meshless

import (
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// ConnectionID names one connection in the logs of both agents. The zero value means unknown.
type ConnectionID [16]byte

// String returns 32 hexadecimal digits, as in the agents' logs; "" if unknown.
func (id ConnectionID) String() string {
	if id == (ConnectionID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// Error is every failure of this package to make or keep a connection.
//
// It matches its Code with [errors.Is], and the error that caused it, if one did. It is a [net.Error].
type Error struct {
	Code         Code          // why
	Name         string        // the code's name as in the protocol, such as ACCESS_DENIED
	Retryable    bool          // whether trying again makes sense without anything being fixed first
	RetryAfter   time.Duration // the agent's advice how long to wait before that, 0 for none
	ConnectionID ConnectionID  // what the agents' logs call it, if the agent said
	ServiceID    string        // what was dialled, or the service listened for
	Text         string        // what is wrong and what to do
	Err          error         // the cause, nil for a refusal

	atOnce bool // the agent's advice is not to wait
}

func newError(code Code, serviceID, text string, cause error) *Error {
	if text == "" {
		text = code.text()
	}
	return &Error{
		Code: code, Name: code.String(), Retryable: code.Retryable(), ServiceID: serviceID, Text: text, Err: cause,
	}
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("meshless: ")
	if e.ServiceID != "" {
		b.WriteString(e.ServiceID)
		b.WriteString(": ")
	}
	b.WriteString(e.Name)
	b.WriteString(": ")
	b.WriteString(e.Text)
	if id := e.ConnectionID.String(); id != "" {
		b.WriteString(" (connection ")
		b.WriteString(id)
		b.WriteString(")")
	}
	return b.String()
}

// Is reports whether target is this error's Code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether time ran out, here or in the agent.
func (e *Error) Timeout() bool {
	if e.Code == ErrTimeout || e.Code == ErrHandshakeTimeout {
		return true
	}
	var timeout interface{ Timeout() bool }
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// Temporary is the same as Retryable; it makes an Error a [net.Error].
func (e *Error) Temporary() bool { return e.Retryable }
