package balancer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// chat is a request of so many messages, the number of characters of each given.
func chat(model, more string, sizes ...int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"model":%q,%s"messages":[`, model, more)
	for i, n := range sizes {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"role":"user","content":"%d %s"}`, n, strings.Repeat("x", n))
	}
	b.WriteString(`],"temperature":0}`)
	return b.Bytes()
}

func common(a, b upstream.Prefix) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func TestPrefixesOfPrompts(t *testing.T) {
	turn := chat("m", "", 1000, 3000)
	first := appendPrefix(nil, turn, 1)
	if n := len(turn) / promptChunk; len(first) < n-1 || len(first) > n {
		t.Fatalf("%d entries of %d bytes", len(first), len(turn))
	}
	for _, tc := range []struct {
		name   string
		doc    []byte
		shared int // entries, -1: all but the last, which may be another's
	}{
		{"the same", turn, -1},
		{"the next turn", chat("m", "", 1000, 3000, 2000), -1},
		{"another sampling, and other fields before", bytes.Replace(turn, []byte(`"model"`), []byte(`"stream":true,"user":"u","model"`), 1), -1},
		{"the fields in another order", []byte(`{"temperature":1,` + string(turn[len(`{"model":"m",`):len(turn)-1]) + `,"model":"m"}`), -1},
		{"the first message alone is the same", chat("m", "", 1000, 3001), 1024 / promptChunk},
		{"another model", chat("n", "", 1000, 3000), 0},
		{"another salt", chat("m", `"cache_salt":"s",`, 1000, 3000), 0},
		{"an adapter", chat("m", `"lora_path":"a",`, 1000, 3000), 0},
		{"tools", chat("m", `"tools":[{"type":"function"}],`, 1000, 3000), 0},
		{"the messages are a prompt", bytes.Replace(turn, []byte(`"messages"`), []byte(`"prompt"`), 1), -1},
		{"a short one", chat("m", "", 10), 0},
		{"no prompt", []byte(`{"model":"m","p":"` + strings.Repeat("x", 1000) + `"}`), 0},
		{"no JSON", turn[:len(turn)-1], 0},
		{"nothing", nil, 0},
	} {
		got := common(first, appendPrefix(nil, tc.doc, 1))
		if tc.shared >= 0 && got != tc.shared || tc.shared < 0 && got < len(first)-1 {
			t.Errorf("%s: %d of %d entries are the same", tc.name, got, len(first))
		}
	}
	tools := func(n int) upstream.Prefix {
		return appendPrefix(nil, chat("m", fmt.Sprintf(`"tools":[%q],`, strings.Repeat("t", 1000)), n), 1)
	}
	if got := common(tools(1000), tools(1001)); got != 4 {
		t.Errorf("tools alone: %d entries are the same", got)
	}
	if got := len(appendPrefix(nil, chat("m", "", 2<<20), 1)); got != upstream.MaxPrefix {
		t.Errorf("%d entries of a very long prompt", got)
	}
}

// Whatever its body says or is, a request is carried, and all of the body reaches the engine.
func TestWhatAffinitySeesOfABody(t *testing.T) {
	plain := http1.Fields{{Name: "Content-Type", Value: "application/json; charset=utf-8"}}
	small, large := string(chat("m", `"user":"u","metadata":{"user_id":"u"},`, 2000)), string(chat("m", `"user":"u",`, 3<<20))
	for _, tc := range []struct {
		name, by, body string
		fields         http1.Fields
		ahead          int64 // memory for all
		entries        int
		key            string
	}{
		{"by prefix", "prefix", small, plain, 0, 2000 / promptChunk, ""},
		{"by a field", "field:user", small, plain, 0, 0, "u"},
		{"by a field within another", "field:metadata.user_id", small, plain, 0, 0, "u"},
		{"by a field that is missing", "field:metadata.session", small, plain, 0, 0, ""},
		{"by a field of what is no object", "field:user.name", small, plain, 0, 0, ""},
		{"by a field that is no string", "field:messages", small, plain, 0, 0, ""},
		{"larger than is held", "prefix", large, plain, 0, 0, ""},
		{"larger than is held of all", "field:user", large[:600<<10], plain, 100 << 10, 0, ""},
		{"compressed", "prefix", small, append(http1.Fields{{Name: "Content-Encoding", Value: "gzip"}}, plain...), 0, 0, ""},
		{"a form", "prefix", small, http1.Fields{{Name: "Content-Type", Value: "multipart/form-data; boundary=json"}}, 0, 0, ""},
		{"of no type", "prefix", small, nil, 0, 0, ""},
		{"no JSON", "prefix", strings.Repeat("x", 5000), plain, 0, 0, ""},
	} {
		for _, length := range []int64{-1, int64(len(tc.body))} {
			t.Run(fmt.Sprint(tc.name, length < 0), func(t *testing.T) {
				var got string
				take := func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					body, err := io.ReadAll(x.Body)
					got = string(body)
					if err != nil {
						t.Error(err)
					}
					return answers(ctx, x, sink)
				}
				pool := &fakePool{name: "p", members: []*fakeMember{{name: "m0", do: take}}}
				rules := DefaultRules()
				rules.Affinity = ParseAffinity(tc.by)
				b := newBalancer(t, Options{Pools: []Pool{pool}, Rules: map[string]Rules{"p": rules}, MaxAhead: 1 << 20, AheadMemory: tc.ahead})
				body := strings.NewReader(tc.body)
				x := post(body, length, &fakeSink{})
				x.Request.Fields = slices.Clone(tc.fields)
				b.Serve(t.Context(), x)
				if got != tc.body || x.Record.Status != 200 {
					t.Errorf("%d of %d bytes came, %+v", len(got), len(tc.body), x.Record)
				}
				if x.Body != io.Reader(body) || x.Length != length || b.aheadHeld.Load() != 0 {
					t.Errorf("left %v, length %d, holding %d", x.Body, x.Length, b.aheadHeld.Load())
				}
				if want := pool.wants[0]; len(want.Prefix) != tc.entries || want.Affinity != upstream.AffinityKey(tc.key) {
					t.Errorf("%d entries, key %d", len(want.Prefix), want.Affinity)
				}
			})
		}
	}
}

func BenchmarkPrefix(b *testing.B) {
	for _, size := range []int{200, 20 << 10, 400 << 10} {
		b.Run(fmt.Sprint(size, " bytes"), func(b *testing.B) {
			doc := chat("m", "", size)
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			p := make(upstream.Prefix, 0, upstream.MaxPrefix)
			for b.Loop() {
				p = appendPrefix(p[:0], doc, 1)
			}
		})
	}
}

// FuzzPrefix: whatever a body is, its prefix is bounded, and of a prompt that goes
// on it is the beginning.
func FuzzPrefix(f *testing.F) {
	f.Add(chat("m", `"tools":[1],`, 300, 300), []byte(`{"role":"user"}`))
	f.Add([]byte(`{"prompt":[1,2,3],"prompt":"x","\u006dodel":7}`), []byte("1"))
	f.Fuzz(func(t *testing.T, doc, more []byte) {
		p := appendPrefix(nil, doc, 1)
		if len(p) > upstream.MaxPrefix || len(p) > len(doc)/promptChunk+len(promptHeads) {
			t.Fatalf("%d entries of %d bytes", len(p), len(doc))
		}
		if !json.Valid(doc) || !json.Valid(more) {
			return
		}
		short := appendPrefix(nil, fmt.Appendf(nil, `{"messages":[%s]}`, doc), 1)
		longer := appendPrefix(nil, fmt.Appendf(nil, `{"messages":[%s,%s]}`, doc, more), 1)
		if n := common(short, longer); n < len(short)-1 {
			t.Fatalf("%d of %d entries are the same when a message is added", n, len(short))
		}
	})
}
