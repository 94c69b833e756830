package websocket

import (
	"errors"
	"testing"

	"stoker/internal/http1"
)

const key = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455 1.3

func TestCheck(t *testing.T) {
	good := http1.Fields{{Name: "sec-websocket-key", Value: key}, {Name: "Sec-WebSocket-Version", Value: "13"}}
	with := func(name string, values ...string) http1.Fields {
		f := good.Clone().Without(name)
		for _, v := range values {
			f = append(f, http1.Field{Name: name, Value: v})
		}
		return f
	}
	for _, tc := range []struct {
		name   string
		method string
		length int64
		fields http1.Fields
		want   error
	}{
		{"as it should be", "GET", 0, good, nil},
		{"POST", "POST", 0, good, ErrMethod},
		{"get", "get", 0, good, ErrMethod},
		{"a body", "GET", 5, good, ErrBody},
		{"a body of unknown length", "GET", -1, good, ErrBody},
		{"no key", "GET", 0, with("Sec-WebSocket-Key"), ErrKey},
		{"an empty key", "GET", 0, with("Sec-WebSocket-Key", ""), ErrKey},
		{"two keys", "GET", 0, with("Sec-WebSocket-Key", key, key), ErrKey},
		{"a key of 15 bytes", "GET", 0, with("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAA"), ErrKey},
		{"a key of 17 bytes", "GET", 0, with("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAAA="), ErrKey},
		{"a key without its padding", "GET", 0, with("Sec-WebSocket-Key", key[:22]), ErrKey},
		{"a key that is no base64", "GET", 0, with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ!=="), ErrKey},
		{"a key with bits behind its end", "GET", 0, with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR=="), ErrKey},
		{"no version", "GET", 0, with("Sec-WebSocket-Version"), ErrNoVersion},
		{"two versions", "GET", 0, with("Sec-WebSocket-Version", "13", "13"), ErrNoVersion},
		{"a list of versions", "GET", 0, with("Sec-WebSocket-Version", "13, 8"), ErrVersion},
		{"an old version", "GET", 0, with("Sec-WebSocket-Version", "8"), ErrVersion},
		{"a version that differs in letters", "GET", 0, with("Sec-WebSocket-Version", "013"), ErrVersion},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Check(&http1.Request{Method: tc.method, Fields: tc.fields}, tc.length)
			if !errors.Is(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

func TestAccepts(t *testing.T) {
	asked := http1.Fields{{Name: "Sec-WebSocket-Key", Value: key}}
	const answer = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // of RFC 6455 1.3
	for _, tc := range []struct {
		name   string
		fields http1.Fields
		want   bool
	}{
		{"the RFC's", http1.Fields{{Name: "SEC-WEBSOCKET-ACCEPT", Value: answer}}, true},
		{"none", nil, false},
		{"the key itself", http1.Fields{{Name: "Sec-WebSocket-Accept", Value: key}}, false},
		{"in other letters", http1.Fields{{Name: "Sec-WebSocket-Accept", Value: "S3pPLMBiTxaQ9kYGzzhZRbK+xOo="}}, false},
		{"twice", http1.Fields{{Name: "Sec-WebSocket-Accept", Value: answer}, {Name: "Sec-WebSocket-Accept", Value: answer}}, false},
	} {
		if got := Accepts(asked, tc.fields); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
