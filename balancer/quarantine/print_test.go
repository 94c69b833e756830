package quarantine

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func of(body string) Prints { return Of("p", "POST", "/v1/chat/completions", []byte(body)) }

func TestSameRequest(t *testing.T) {
	for _, tc := range []struct {
		name, a, b string
		same       bool
	}{
		{"order of keys", `{"a":1,"b":2}`, `{"b":2,"a":1}`, true},
		{"order below", `{"x":[{"a":1,"b":2}]}`, `{"x":[{"b":2,"a":1}]}`, true},
		{"white space", `{"a":[1,2]}`, " {\n\t\"a\" : [ 1 , 2 ] }\r\n", true},
		{"escapes", `{"a\/b":"\u00e9\n"}`, "{\"\\u0061/b\":\"é\\u000a\"}", true},
		{"surrogate pair", `"\ud83d\ude00"`, `"😀"`, true},
		{"numbers", `[1, 0, 1500, 0.5]`, `[1.0, -0, 1.5e3, 5E-01]`, true},
		{"large numbers", `[1e300000]`, `[10e299999]`, true},
		{"the last of a key", `{"a":1,"a":2}`, `{"a":2}`, true},
		{"the last of a key, among others", `{"a":1,"b":0,"a":2}`, `{"b":0,"a":2}`, true},
		{"no JSON", `{"a":1`, `{"a": 1`, false},
		{"no JSON, the same", `{"a":1`, `{"a":1`, true},
		{"order of a list", `[1,2]`, `[2,1]`, false},
		{"a number and a text", `[1]`, `["1"]`, false},
		{"null and nothing", `{"a":null}`, `{}`, false},
		{"sign", `[1]`, `[-1]`, false},
		{"large integers", `[9007199254740993]`, `[9007199254740992]`, false},
		{"half a pair", `"\ud83d"`, `"\ude00"`, false},
		{"what looks like two", `["a","b"]`, `["a\",\"b"]`, false},
		{"a list and what is in it", `[[1],2]`, `[[1,2]]`, false},
		{"prompts", `{"prompt":"a"}`, `{"prompt":"b"}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if same := of(tc.a) == of(tc.b); same != tc.same {
				t.Errorf("%s and %s are the same: %v", tc.a, tc.b, same)
			}
		})
	}
	if Of("p", "GET", "/a", nil) == Of("p", "GET", "/b", nil) || Of("p", "GET", "/a", nil) == Of("q", "GET", "/a", nil) ||
		Of("p", "GET", "/a", nil) == Of("p", "PUT", "/a", nil) {
		t.Error("method, target or pool make no difference")
	}
	if Of("p", "P", "/", []byte("[1]")).Request == Of("p", "P", "/", []byte("[1] x")).Request {
		t.Error("what follows a value makes no difference")
	}
}

func TestSchema(t *testing.T) {
	none := Print{}
	for _, tc := range []struct {
		name, a, b string
		same       bool
	}{
		{"the prompt does not count", `{"messages":["a"],"structured_outputs":{"x":1,"y":2}}`, `{"structured_outputs":{"y":2,"x":1.0},"messages":["b"]}`, true},
		{"its value does", `{"structured_outputs":{"x":1}}`, `{"structured_outputs":{"x":2}}`, false},
		{"its name does", `{"guided_json":{}}`, `{"guided_regex":{}}`, false},
		{"all of them together", `{"tools":[1],"regex":"a"}`, `{"regex":"a","tools":[1]}`, true},
		{"one more", `{"tools":[1]}`, `{"tools":[1],"regex":"a"}`, false},
		{"in a wrapper", `{"extra_body":{"guided_json":{"a":1}}}`, `{"extra_body":{"guided_json":{"a":1},"top_k":3}}`, true},
		{"in a wrapper or not", `{"extra_body":{"guided_json":{"a":1}}}`, `{"guided_json":{"a":1}}`, false},
		{"empty is poison too", `{"structured_outputs":{}}`, `{"structured_outputs":{} ,"n":1}`, true},
		{"the path does not count", `{"grammar":"x"}`, `{"grammar":"x"}`, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := of(tc.a).Schema, of(tc.b).Schema
			if a == none || b == none {
				t.Fatalf("no schema in %s or %s", tc.a, tc.b)
			}
			if (a == b) != tc.same {
				t.Errorf("%s and %s have the same: %v", tc.a, tc.b, a == b)
			}
		})
	}
	for _, body := range []string{
		`{}`, `[]`, `"tools"`, `{"tools":null}`, `{"response_format":{"type":"text"}}`, `{"messages":[{"tools":[1]}]}`, `{"x":{"tools":[1]}}`,
		`{"tools":[1]`, "", `{"text":{"verbosity":"low"}}`,
	} {
		if of(body).Schema != none {
			t.Errorf("a schema in %s", body)
		}
	}
	if of(`{"text":{"format":{"type":"json_schema"}}}`).Schema == none || of(`{"sampling_params":{"ebnf":"x"}}`).Schema == none {
		t.Error("no schema where Responses or SGLang have it")
	}
}

// TestHostileBodies: they cost little more than their length, and are compared
// byte for byte at worst.
func TestHostileBodies(t *testing.T) {
	const size = 1 << 20
	for name, body := range map[string]string{
		"deep lists":   strings.Repeat("[", size),
		"deep objects": strings.Repeat(`{"a":`, size/5),
		"deep and closed": strings.Repeat(`{"b":0,"a":`, maxDepth) + strings.Repeat(`"x"`, 1) +
			strings.Repeat("}", maxDepth),
		"a long number":    strings.Repeat("9", size),
		"a long exponent":  "1e" + strings.Repeat("9", size),
		"a long fraction":  "0." + strings.Repeat("0", size) + "1",
		"many members":     "{" + strings.Repeat(`"a":0,`, size/6) + `"a":0}`,
		"unsorted members": "{" + strings.Repeat(`"b":0,"a":0,`, maxMembers/2-1) + `"a":0}`,
		"an open text":     `"` + strings.Repeat(`\u0000`, size/6),
		"many texts":       "[" + strings.Repeat(`"",`, size/3) + `""]`,
		"invalid UTF-8":    `{"a":"` + strings.Repeat("\xff\xc0", size/2) + `"}`,
		"nothing":          "",
		"a NUL":            "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			p := of(body)
			if p.Request == (Print{}) || p != of(body) {
				t.Errorf("prints %v", p)
			}
		})
	}
}

// FuzzOf: what the standard library takes for the same is the same; nothing
// panics; and what is no JSON there is none here, but for bytes that it replaces.
func FuzzOf(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.50,-0e1,"\ud83d\ude00\ud83d"],"tools":{"x":null},"a":true}`, `[]`, `"\u12"`, `{"text":{"format":1}}`, `1.`, `-`, `01`, `tru`, `[1,]`, `{,}`, "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := Of("p", "POST", "/", body)
		c := canon{fields: isSchemaField}
		canonical, ok := c.render(body)
		if ok && utf8.Valid(body) && !json.Valid(body) {
			t.Fatalf("%q is no JSON", body)
		}
		if !ok {
			return
		}
		// Rendering is stable, but for what was no text.
		if again := (canon{fields: isSchemaField}); true {
			second, ok := again.render(canonical)
			if ok && string(second) != string(canonical) {
				t.Fatalf("%q renders as %q, and that as %q", body, canonical, second)
			}
		}
		var v any
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.UseNumber()
		if !utf8.Valid(body) || strings.Contains(string(body), `\u`) || d.Decode(&v) != nil {
			return
		}
		rendered, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			return
		}
		if q := Of("p", "POST", "/", rendered); p != q {
			t.Fatalf("%q and %q differ", body, rendered)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	body := []byte(`{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("once upon a time ", 60) + `"}],"max_tokens":100,"temperature":0.7,"stream":true}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		Of("p", "POST", "/v1/chat/completions", body)
	}
}
