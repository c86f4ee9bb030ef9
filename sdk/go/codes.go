package meshless

import "strconv"

// Code says why there is no connection. Values up to 255 are the reply codes of the agent, on the wire in every handshake;
// those above were found out on this side. A Code is an error, so that it can be the target of [errors.Is].
type Code int

// The reply codes of the agent.
const (
	ErrUnsupportedVersion Code = 1   // the agent has no handshake for what was sent
	ErrMalformedRequest   Code = 2   // the request was not well-formed
	ErrServiceNotFound    Code = 3   // no such namespace, meshlet or service is known
	ErrAccessDenied       Code = 4   // a policy said no
	ErrNoEndpoint         Code = 5   // the service exists, no ready pod provides it
	ErrConnectionLimit    Code = 6   // maxConn is reached on every pod
	ErrTunnelFailed       Code = 7   // the other node's agent is unreachable or not authentic
	ErrServiceRefused     Code = 8   // the pod is there, its socket is missing or refuses
	ErrTimeout            Code = 9   // not established within the agent's deadline
	ErrDraining           Code = 10  // this agent is shutting down, the next one takes over
	ErrOverloaded         Code = 11  // the agent is at a limit of its own
	ErrNotReady           Code = 12  // the agent has no usable configuration yet
	ErrUnknownClient      Code = 13  // this pod's socket belongs to no meshlet
	ErrInternal           Code = 255 // a bug or a failing plugin, in the agent's log under the connection id
)

// What this side found out.
const (
	ErrInvalidServiceID Code = 1001 // not <service>.<meshlet>.<namespace>, or no name of a service; nothing was sent
	ErrAgentUnavailable Code = 1002 // no agent took the connection, or it went away before it replied
	ErrHandshakeTimeout Code = 1003 // the agent took the connection and did not reply in time
	ErrProtocol         Code = 1004 // what answered is not an agent, or broke the protocol
	ErrRevoked          Code = 1005 // a policy withdrew a connection that was handed over
	ErrListen           Code = 1006 // a service's socket cannot be made
	ErrInvalidOption    Code = 1007 // a field of the Dialer cannot be sent; nothing was sent
	ErrProxyHeader      Code = 1008 // a connection came without a good PROXY header
)

type codeFacts struct {
	name      string
	retryable bool
	text      string
}

var codes = map[Code]codeFacts{
	ErrUnsupportedVersion: {"UNSUPPORTED_VERSION", false, "the agent has no handshake for what was sent; update the agent or the SDK"},
	ErrMalformedRequest:   {"MALFORMED_REQUEST", false, "the agent takes the request for malformed; update the agent or the SDK"},
	ErrServiceNotFound:    {"SERVICE_NOT_FOUND", true, "no such service is known; check its name and that its Meshlet is applied"},
	ErrAccessDenied:       {"ACCESS_DENIED", false, "a policy said no; declare the service in spec.client and ask its owner to allow it"},
	ErrNoEndpoint:         {"NO_ENDPOINT", true, "no ready pod provides the service; check its pods, or retry"},
	ErrConnectionLimit:    {"CONNECTION_LIMIT", true, "maxConn is reached on every pod; retry, or raise the limit"},
	ErrTunnelFailed:       {"TUNNEL_FAILED", true, "the service's node is unreachable or not authentic; retry"},
	ErrServiceRefused:     {"SERVICE_REFUSED", true, "the pod is there but its server does not listen; retry"},
	ErrTimeout:            {"TIMEOUT", true, "the agent could not establish it within its deadline; retry"},
	ErrDraining:           {"DRAINING", true, "this agent is shutting down; retry at once, the next one takes over"},
	ErrOverloaded:         {"OVERLOADED", true, "the agent is at a limit of its own; retry later"},
	ErrNotReady:           {"NOT_READY", true, "the agent has no usable configuration yet; retry"},
	ErrUnknownClient:      {"UNKNOWN_CLIENT", false, "this pod belongs to no meshlet; set its label meshless/meshlet"},
	ErrInternal:           {"INTERNAL_ERROR", true, "the agent failed; its log says why"},
	ErrInvalidServiceID:   {"INVALID_SERVICE_ID", false, "not a service id: write <service>.<meshlet>.<namespace>, each a lower-case DNS label"},
	ErrAgentUnavailable:   {"AGENT_UNAVAILABLE", true, "no agent; check that the node's agent runs"},
	ErrHandshakeTimeout:   {"HANDSHAKE_TIMEOUT", true, "the agent did not reply in time; retry"},
	ErrProtocol:           {"PROTOCOL_ERROR", false, "what answered is not an agent; check the path"},
	ErrRevoked:            {"REVOKED", false, "a policy withdrew the connection"},
	ErrListen:             {"LISTEN_FAILED", false, "the socket cannot be made"},
	ErrInvalidOption:      {"INVALID_OPTION", false, "a field of the Dialer cannot be sent"},
	ErrProxyHeader:        {"PROXY_HEADER", false, "no good PROXY header; the service's proxyProtocol and the server have to agree"},
}

// String returns the name of the code as in the protocol, such as ACCESS_DENIED; UNKNOWN for a code of a newer agent.
func (c Code) String() string {
	if facts, ok := codes[c]; ok {
		return facts.name
	}
	return "UNKNOWN"
}

// Error makes a Code a target for [errors.Is].
func (c Code) Error() string {
	return "meshless: " + c.String() + " (" + strconv.Itoa(int(c)) + "): " + c.text()
}

// Retryable reports whether the same request may be sent again without anything being fixed first. A code that this
// package does not know is not retryable.
func (c Code) Retryable() bool { return codes[c].retryable }

func (c Code) text() string {
	if facts, ok := codes[c]; ok {
		return facts.text
	}
	return "a reply code of a newer agent; update the SDK"
}
