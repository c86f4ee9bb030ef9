package meshless

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The vector files are shared with every other implementation.

type vectorBytes []byte

func (b *vectorBytes) UnmarshalJSON(data []byte) error {
	var parts []string
	if err := json.Unmarshal(data, &parts); err != nil {
		var whole string
		if err := json.Unmarshal(data, &whole); err != nil {
			return err
		}
		parts = []string{whole}
	}
	decoded, err := hex.DecodeString(strings.Join(parts, ""))
	*b = decoded
	return err
}

type vectorDetails struct {
	ConnectionID      vectorBytes `json:"connection_id"`
	Version           string      `json:"version"`
	Endpoint          string      `json:"endpoint"`
	RetryAfterMS      *int64      `json:"retry_after_ms"`
	DescriptorFollows bool        `json:"descriptor_follows"`
}

type clientVector struct {
	Name      string `json:"name"`
	ServiceID string `json:"service_id"`
	Wishes    struct {
		DeadlineMS        int64       `json:"deadline_ms"`
		Traceparent       string      `json:"traceparent"`
		StickyKey         vectorBytes `json:"sticky_key"`
		VersionPin        string      `json:"version_pin"`
		AcceptsDescriptor bool        `json:"accepts_descriptor"`
	} `json:"wishes"`
	Request vectorBytes `json:"request"`
	Reply   vectorBytes `json:"reply"`
	EOF     bool        `json:"eof"`
	Expect  struct {
		Event    string        `json:"event"`
		Code     Code          `json:"code"`
		Details  vectorDetails `json:"details"`
		Text     string        `json:"text"`
		Version  int           `json:"version"`
		Trailing vectorBytes   `json:"trailing"`
	} `json:"expect"`
	VerdictAfter any `json:"verdict_after"`
}

type noticeVector struct {
	Name   string      `json:"name"`
	Bytes  vectorBytes `json:"bytes"`
	EOF    bool        `json:"eof"`
	Expect struct {
		Notices [][2]string `json:"notices"`
		End     string      `json:"end"`
	} `json:"expect"`
}

type vectorFile struct {
	Codes []struct {
		Code      Code   `json:"code"`
		Name      string `json:"name"`
		Retryable bool   `json:"retryable"`
	} `json:"codes"`
	Client []clientVector `json:"client"`
	Leases []noticeVector `json:"leases"`
}

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "protocol", "vectors", name))
	if err != nil {
		t.Fatalf("the vectors are part of the repository: %v", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// splits are the ways a vector is fed: how many of the bytes that are left come next.
var splits = map[string]func(left int) int{
	"whole":        func(left int) int { return left },
	"byte by byte": func(int) int { return 1 },
	"at random":    func(left int) int { return 1 + rand.Intn(left) },
}

func TestTheCodesAreThoseOfTheProtocol(t *testing.T) {
	var file vectorFile
	readVectors(t, "handshake-v1.json", &file)
	known := 0
	for code := range codes {
		if code <= 255 {
			known++
		}
	}
	if known != len(file.Codes)-1 { // OK is no error
		t.Errorf("%d codes are known, the protocol has %d", known, len(file.Codes)-1)
	}
	for _, want := range file.Codes[1:] {
		if want.Code.String() != want.Name || want.Code.Retryable() != want.Retryable {
			t.Errorf("code %d is %v, retryable %v; want %+v", want.Code, want.Code, want.Code.Retryable(), want)
		}
	}
}

func TestClientVectors(t *testing.T) {
	for version, name := range map[byte]string{version1: "handshake-v1.json", version2: "handshake-v2.json"} {
		var file vectorFile
		readVectors(t, name, &file)
		if len(file.Client) < 20 {
			t.Fatalf("%s has only %d vectors", name, len(file.Client))
		}
		for _, vector := range file.Client {
			for how, next := range splits {
				t.Run(name+"/"+vector.Name+"/"+how, func(t *testing.T) { runClientVector(t, version, vector, next, how) })
			}
		}
	}
}

func runClientVector(t *testing.T, version byte, vector clientVector, next func(int) int, how string) {
	wished := wishes{
		deadline: time.Duration(vector.Wishes.DeadlineMS) * time.Millisecond, traceparent: vector.Wishes.Traceparent,
		stickyKey: vector.Wishes.StickyKey, versionPin: vector.Wishes.VersionPin,
		acceptsDescriptor: vector.Wishes.AcceptsDescriptor,
	}
	if err := wished.check(vector.ServiceID); err != nil || !isServiceID(vector.ServiceID) {
		t.Fatalf("not accepted: %v", err)
	}
	request := encodeRequest1(vector.ServiceID)
	if version == version2 {
		request = encodeRequest2(vector.ServiceID, wished)
	}
	if string(request) != string(vector.Request) {
		t.Fatalf("request %x, want %x", request, []byte(vector.Request))
	}
	answer := newReply(vector.ServiceID, version, wished.acceptsDescriptor)
	left, event, verdictAfter := []byte(vector.Reply), "incomplete", any(nil)
	var err error
	for event == "incomplete" && len(left) > 0 {
		n := min(next(len(left)), answer.wanted())
		err = answer.receive(left[:n])
		left = left[n:]
		if err != nil || answer.wanted() == 0 {
			event, verdictAfter = "established", float64(len(vector.Reply)-len(left))
		}
	}
	if event == "incomplete" && vector.EOF {
		err, verdictAfter = answer.receive(nil), "eof"
	}
	var failure *Error
	if errors.As(err, &failure) {
		switch failure.Code {
		case ErrProtocol:
			event = "protocol_error"
		case ErrAgentUnavailable:
			event = "closed"
		default:
			event = "refused"
		}
	}
	if event != vector.Expect.Event {
		t.Fatalf("%s (%v), want %s", event, err, vector.Expect.Event)
	}
	if how == "byte by byte" && verdictAfter != vector.VerdictAfter {
		t.Errorf("verdict after %v, want %v", verdictAfter, vector.VerdictAfter)
	}
	if event == "refused" {
		if failure.Code != vector.Expect.Code || failure.Retryable != vector.Expect.Code.Retryable() {
			t.Errorf("%+v", failure)
		}
		if fallsBack := vector.Expect.Version == 1 && vector.Expect.Code == 1; answer.fallsBack() != fallsBack {
			t.Errorf("falls back: %v", answer.fallsBack())
		}
	}
	if event == "established" && string(left) != string(vector.Expect.Trailing) {
		t.Errorf("trailing %x, want %x", left, []byte(vector.Expect.Trailing))
	}
	if event == "established" || event == "refused" {
		want := details{
			version: vector.Expect.Details.Version, endpoint: vector.Expect.Details.Endpoint, text: vector.Expect.Text,
			descriptorFollows: vector.Expect.Details.DescriptorFollows,
		}
		copy(want.connectionID[:], vector.Expect.Details.ConnectionID)
		if advice := vector.Expect.Details.RetryAfterMS; advice != nil {
			want.retryAfter, want.hasRetryAfter = time.Duration(*advice)*time.Millisecond, true
		}
		if answer.details != want {
			t.Errorf("details %+v, want %+v", answer.details, want)
		}
	}
}

func TestLeaseVectors(t *testing.T) {
	var file vectorFile
	readVectors(t, "handshake-v2.json", &file)
	if len(file.Leases) == 0 {
		t.Fatal("no vectors")
	}
	for _, vector := range file.Leases {
		for how, next := range splits {
			t.Run(vector.Name+"/"+how, func(t *testing.T) {
				got, end := [][2]string{}, "open"
				var said notices
				for left := []byte(vector.Bytes); len(left) > 0; {
					n := next(len(left))
					complete, err := said.receive(left[:n])
					left = left[n:]
					for _, one := range complete {
						name := map[noticeKind]string{noticeDrain: "drain", noticeRevoked: "revoked"}[one.kind]
						got = append(got, [2]string{name, one.text})
						if one.kind == noticeRevoked {
							end = "revoked"
						}
					}
					if err != nil {
						end = "protocol_error"
					}
				}
				if end == "open" && vector.EOF {
					end = "released"
				}
				if end != vector.Expect.End || !reflect.DeepEqual(got, vector.Expect.Notices) {
					t.Errorf("%v, %v; want %+v", got, end, vector.Expect)
				}
			})
		}
	}
}

type proxyVector struct {
	Name   string      `json:"name"`
	Bytes  vectorBytes `json:"bytes"`
	EOF    bool        `json:"eof"`
	Expect struct {
		Event    string             `json:"event"`
		Peer     *map[string]string `json:"peer"`
		Trailing vectorBytes        `json:"trailing"`
	} `json:"expect"`
	VerdictAfter any `json:"verdict_after"`
}

func TestProxyVectors(t *testing.T) {
	var file struct{ Vectors []proxyVector }
	readVectors(t, "proxy-v2.json", &file)
	if len(file.Vectors) < 20 {
		t.Fatalf("only %d vectors", len(file.Vectors))
	}
	for _, vector := range file.Vectors {
		for how, next := range splits {
			t.Run(vector.Name+"/"+how, func(t *testing.T) { runProxyVector(t, vector, next, how) })
		}
	}
}

func runProxyVector(t *testing.T, vector proxyVector, next func(int) int, how string) {
	header := newProxyHeader()
	left, event, verdictAfter := []byte(vector.Bytes), "incomplete", any(nil)
	for event == "incomplete" && len(left) > 0 {
		n := min(next(len(left)), header.wanted())
		err := header.receive(left[:n])
		left = left[n:]
		switch {
		case err != nil:
			event = "error"
		case header.wanted() == 0:
			event = "header"
		default:
			continue
		}
		verdictAfter = float64(len(vector.Bytes) - len(left))
	}
	if event == "incomplete" && vector.EOF {
		if header.receive(nil) == nil {
			t.Fatal("no error at the end of the stream")
		}
		event, verdictAfter = "error", "eof"
	}
	if event != vector.Expect.Event || how == "byte by byte" && verdictAfter != vector.VerdictAfter {
		t.Fatalf("%s after %v, want %s after %v", event, verdictAfter, vector.Expect.Event, vector.VerdictAfter)
	}
	if event != "header" {
		return
	}
	if string(left) != string(vector.Expect.Trailing) {
		t.Errorf("trailing %x", left)
	}
	if (header.peer == nil) != (vector.Expect.Peer == nil) {
		t.Fatalf("peer %+v, want %+v", header.peer, vector.Expect.Peer)
	}
	if header.peer == nil {
		return
	}
	want := *vector.Expect.Peer
	if got := (Peer{want["service_id"], want["connection_id"], want["namespace"], want["meshlet"], want["pod"], want["identity"]}); *header.peer != got {
		t.Errorf("peer %+v, want %+v", *header.peer, want)
	}
}
