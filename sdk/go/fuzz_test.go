package meshless

import (
	"bytes"
	"errors"
	"testing"
)

// What must hold for any bytes: a verdict or a wish for more, never a panic, bounded memory, and the same in any split.

func FuzzReply(f *testing.F) {
	for version, name := range map[byte]string{version1: "handshake-v1.json", version2: "handshake-v2.json"} {
		var file vectorFile
		readVectors(f, name, &file)
		for _, vector := range file.Client {
			f.Add([]byte(vector.Reply), version, vector.Wishes.AcceptsDescriptor)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version byte, offered bool) {
		asked := byte(version1 + version%2)
		run := func(step int) (code Code, used int, got details) {
			answer := newReply("a.b.c", asked, offered && asked == version2)
			for used < len(data) && answer.wanted() > 0 {
				n := min(step, answer.wanted(), len(data)-used)
				err := answer.receive(data[used : used+n])
				used += n
				if len(answer.data) > 4+maxMessageBytes || answer.wanted() > 4+maxMessageBytes {
					t.Fatalf("keeps %d, wants %d", len(answer.data), answer.wanted())
				}
				var failure *Error
				if errors.As(err, &failure) {
					return failure.Code, 0, answer.details // how much was read does not matter for a socket to be closed
				} else if err != nil {
					t.Fatalf("untyped %v", err)
				}
			}
			return 0, used, answer.details
		}
		code, used, got := run(len(data) + 1)
		if code2, used2, got2 := run(1); code2 != code || used2 != used || got2 != got {
			t.Fatalf("whole %v %d %+v, byte by byte %v %d %+v", code, used, got, code2, used2, got2)
		}
	})
}

func FuzzNotices(f *testing.F) {
	var file vectorFile
	readVectors(f, "handshake-v2.json", &file)
	for _, vector := range file.Leases {
		f.Add([]byte(vector.Bytes))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole, single notices
		complete, err := whole.receive(data)
		var one []notice
		var oneErr error
		for i := range data {
			more, err := single.receive(data[i : i+1])
			one = append(one, more...)
			if err != nil {
				oneErr = err
			}
			if len(single.data) > noticeHeaderBytes+maxMessageBytes {
				t.Fatalf("keeps %d bytes", len(single.data))
			}
		}
		if len(one) != len(complete) || (err == nil) != (oneErr == nil) {
			t.Fatalf("%v %v, %v %v", complete, err, one, oneErr)
		}
		for i := range one {
			if one[i] != complete[i] {
				t.Fatalf("%v, %v", complete, one)
			}
		}
	})
}

func FuzzProxyHeader(f *testing.F) {
	var file struct{ Vectors []proxyVector }
	readVectors(f, "proxy-v2.json", &file)
	for _, vector := range file.Vectors {
		f.Add([]byte(vector.Bytes))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := bytes.NewReader(data)
		peer, err := ReadProxyHeader(reader)
		if err != nil && (!errors.Is(err, ErrProxyHeader) || peer != nil) {
			t.Fatalf("%+v, %v", peer, err)
		}
		if used := len(data) - reader.Len(); used > proxyFixedBytes+maxProxyBytes {
			t.Fatalf("read %d bytes", used)
		}
	})
}

func FuzzServiceID(f *testing.F) {
	for _, text := range []string{"http.cart.shop", "a.b", "a..c", "-.-.-", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if isServiceID(text) && (len(text) > 191 || bytes.Count([]byte(text), []byte(".")) != 2) {
			t.Fatal(text)
		}
	})
}
