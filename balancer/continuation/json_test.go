package continuation

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

var documents = []string{
	`{"a":1,"b":[true,false,null],"c":{"d":"e"}}`, `[]`, `{}`, `""`, ` { "a" : [ 1 , 2 ] } `,
	`{"a":"\"\\\n\u00e9\ud83d\ude00"}`, `{"a":"x\\"}`, `{"a":`, `{"a" 1}`, `[1,]`, `{"a":"`, `"\`, `nul`, `{"a":{"b":{"c":[{"d":1}]}}}`,
}

// meaning is what encoding/json makes of a document, numbers as they are written.
func meaning(p []byte) string {
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return ""
	}
	out, _ := json.Marshal(v)
	return string(out)
}

func checkDocument(t *testing.T, raw []byte) {
	t.Helper()
	var d document
	ok := d.parse(raw, maxDepth)
	if json.Valid(raw) && !ok && bytes.Count(raw, []byte("{"))+bytes.Count(raw, []byte("[")) < maxDepth {
		t.Fatalf("%q is JSON", raw)
	}
	if !ok || !json.Valid(raw) || !utf8.Valid(raw) {
		return
	}
	want := meaning(raw)
	if got := meaning(d.append(nil, 0)); got != want {
		t.Fatalf("%q is written again as %q, want %q", raw, got, want)
	}
	for n := range d.nodes {
		if d.nodes[n].kind != text {
			continue
		}
		// What is read and written again means the same.
		var before, after string
		if err := json.Unmarshal(d.value0(n), &before); err != nil {
			t.Fatal(err)
		}
		written := appendQuoted(nil, d.appendText(nil, n))
		if err := json.Unmarshal(written, &after); err != nil || before != after {
			t.Fatalf("%q is written again as %q: %v", d.value0(n), written, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	for _, doc := range documents {
		checkDocument(t, []byte(doc))
	}
}

func FuzzDocument(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(checkDocument)
}

func TestEdit(t *testing.T) {
	for _, tc := range []struct {
		body    string
		changes []change
		want    string
	}{
		{`{"a":1}`, []change{{"seed", []byte("7")}}, `{"a":1,"seed":7}`},
		{`{}`, []change{{"seed", []byte("7")}}, `{"seed":7}`},
		{`{"seed":null, "b" : "x"}`, []change{{"seed", []byte("7")}}, `{"seed":7,"b":"x"}`},
		{`{"a":1,"b":2}`, []change{{"a", nil}}, `{"b":2}`},
	} {
		if got := edit([]byte(tc.body), tc.changes...); string(got) != tc.want {
			t.Errorf("%s: %s, want %s", tc.body, got, tc.want)
		}
	}
}

func TestParseRequest(t *testing.T) {
	const chat = "/v1/chat/completions"
	for _, tc := range []struct {
		target, body            string
		ok, deterministic, text bool
	}{
		{chat, `{"stream":true,"temperature":0,"messages":[{"role":"user","content":"x"}]}`, true, true, true},
		{chat, `{"stream":true,"temperature":0.0,"n":2,"messages":[{"role":"user"}]}`, true, true, false},
		{chat, `{"stream":true,"temperature":0.7,"seed":5,"messages":[{"role":"assistant"}]}`, true, true, false},
		{chat, `{"stream":true,"seed":-1,"messages":[{"role":"user"}],"tools":[{"type":"function"}]}`, true, false, false},
		{chat, `{"stream":true,"messages":[{"role":"user"}],"tools":[],"logprobs":false,"response_format":{"type":"text"}}`, true, false, true},
		{chat, `{"stream":true,"messages":[{"role":"user"}],"response_format":{"type":"json_object"}}`, true, false, false},
		{chat, `{"stream":true,"messages":[{"role":"user"}],"stop":["x"]}`, true, false, false},
		{chat, `{"stream":false}`, false, false, false},
		{chat, `{"stream":"true"}`, false, false, false},
		{chat, `{"stream":true,"stream":false}`, false, false, false},
		{chat, `{"stream":true,"n":0}`, false, false, false},
		{chat, `["stream"]`, false, false, false},
		{chat, `{"stream":true`, false, false, false},
		{"/v1/completions?x=1", `{"stream":true,"prompt":"x","seed":1}`, true, true, true},
		{"/v1/completions", `{"stream":true,"prompt":["x"]}`, true, false, false},
		{"/v1/embeddings", `{"stream":true}`, false, false, false},
	} {
		r := Parse(tc.target, []byte(tc.body))
		if (r != nil) != tc.ok {
			t.Errorf("%s %s: %+v", tc.target, tc.body, r)
		} else if r != nil && (r.deterministic != tc.deterministic || r.continues != tc.text) {
			t.Errorf("%s %s: deterministic %t, continues %t", tc.target, tc.body, r.deterministic, r.continues)
		}
	}
}

func TestSeeded(t *testing.T) {
	r := Parse("/v1/completions", []byte(`{"stream":true,"prompt":"x"}`))
	if got := r.Seeded(7); string(got.body) != `{"stream":true,"prompt":"x","seed":7}` || !got.deterministic || r.deterministic {
		t.Errorf("%s", got.body)
	}
	r = Parse("/v1/completions", []byte(`{"stream":true,"prompt":"x","seed":3}`))
	if r.Seeded(7) != r {
		t.Error("another seed was given")
	}
}
