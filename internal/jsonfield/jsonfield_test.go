package jsonfield

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		want string
		err  error
	}{
		{`{"model":"a"}`, "a", nil},
		{" \r\n\t{ \"model\"\t:\n\"a\" } \n", "a", nil},
		{"\xef\xbb\xbf" + `{"model":"a"}`, "a", nil},
		{`{"messages":[{"model":"x","content":"\"model\":\"y\""}],"model":"a","o":{"model":"z"}}`, "a", nil},
		{`{"prompt":"` + strings.Repeat(`x\"\\`, 1<<18) + `","model":"a"}`, "a", nil},
		{`{"prompt":"a\\","model":"b"}`, "b", nil},
		{`{"\u006dodel":"a\/b"}`, "a/b", nil},
		{`{"model":"caf\u00e9 \ud83d\ude00 ü"}`, "café 😀 ü", nil},
		{`{"model":"\ud83d"}`, "\ufffd", nil},
		{`{"model":""}`, "", nil},
		{`{"x":NaN,"model":"a"}`, "a", nil}, // Python's
		{`{"a":1,"b":[],"c":{},"d":null,"model":"m","e":-1.5e3}`, "m", nil},
		{`{"Model":"a","models":"b","mode":"c"}`, "", ErrMissing},
		{`{}`, "", ErrMissing},
		{`{"model":"a","model":"a"}`, "", ErrTwice},
		{`{"model":1,"m\u006fdel":"b"}`, "", ErrTwice},
		{`{"model":null}`, "", ErrNotString},
		{`{"model":["a"]}`, "", ErrNotString},
		{`{"model":{"model":"a"}}`, "", ErrNotString},
		{``, "", ErrSyntax},
		{`null`, "", ErrSyntax},
		{`"model"`, "", ErrSyntax},
		{`[{"model":"a"}]`, "", ErrSyntax},
		{`{"model":"a"`, "", ErrSyntax},
		{`{"model":"a"}{}`, "", ErrSyntax},
		{`{"model":"a"},`, "", ErrSyntax},
		{`{"model":"a\"}`, "", ErrSyntax},
		{`{"model":"\x"}`, "", ErrSyntax},
		{`{"model":}`, "", ErrSyntax},
		{`{"model" "a"}`, "", ErrSyntax},
		{`{model:"a"}`, "", ErrSyntax},
		{`{"x":[,"model":"a"}`, "", ErrSyntax},
		{`{"model":"a","x":{"y":"}`, "", ErrSyntax},
		{`model=a&prompt=b`, "", ErrSyntax},
	} {
		got, err := Find([]byte(tc.doc), "model")
		if got.Text != tc.want || !errors.Is(err, tc.err) || tc.err == nil && err != nil {
			t.Errorf("%.80s: got %q, %v; want %q, %v", tc.doc, got.Text, err, tc.want, tc.err)
		}
		if err == nil {
			var again string
			if json.Unmarshal([]byte(tc.doc[got.Start:got.End]), &again) != nil || again != tc.want {
				t.Errorf("%.80s: lies at %d to %d", tc.doc, got.Start, got.End)
			}
		}
	}
}

// FuzzFind holds Find against encoding/json.
func FuzzFind(f *testing.F) {
	for _, doc := range []string{
		`{"model":"a"}`, `{"m\u006fdel":"\ud83d\ude00","x":[{"model":1}]}`, `{"model":"a","model":2}`, ` { } `, `{"a":"\\","model":"\""}`,
		`{"a":{"b":[1,2,{"c":"]}"}]},"model":"x"}`, `{"model":"` + "\xff" + `"}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		got, err := Find(doc, "model")
		if err == nil && (got.Start < 0 || got.End > len(doc) || got.End-got.Start < 2 || doc[got.Start] != '"' || doc[got.End-1] != '"') {
			t.Fatalf("lies at %d to %d", got.Start, got.End)
		}
		if !json.Valid(doc) {
			return
		}
		want, wantErr := slowly(t, doc)
		if got.Text != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
			t.Fatalf("got %q, %v; want %q, %v", got.Text, err, want, wantErr)
		}
		if err != nil {
			return
		}
		replaced := append(append(bytes.Clone(doc[:got.Start]), `"other"`...), doc[got.End:]...)
		if again, err := slowly(t, replaced); err != nil || again != "other" {
			t.Fatalf("replaced: %q, %v", again, err)
		}
	})
}

func TestWalk(t *testing.T) {
	var got []string
	err := Walk([]byte("\xef\xbb\xbf"+` { "a" : [1,{"x":"}"}] , "\u0062":"b\"","c":null, "d":{} } `), func(key Key, value []byte) {
		got = append(got, string(key)+"="+string(value))
		if key.Is("b") != (string(value) == `"b\""`) || key.Among([]string{"z", "c"}) >= 0 && string(value) != "null" {
			t.Errorf("%s is misnamed", key)
		}
	})
	if want := `"a"=[1,{"x":"}"}] "\u0062"="b\"" "c"=null "d"={}`; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, doc := range []string{``, `[]`, `{"a":1`, `{"a":1}x`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{"a":"x}`} {
		if err := Walk([]byte(doc), func(Key, []byte) {}); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

// slowly is Find by encoding/json, token by token.
func slowly(t *testing.T, doc []byte) (string, error) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return "", ErrSyntax
	}
	count, text, other := 0, "", false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		if key == "model" {
			count++
			text = ""
			other = value[0] != '"' || json.Unmarshal(value, &text) != nil
		}
	}
	switch {
	case count == 0:
		return "", ErrMissing
	case count > 1:
		return "", ErrTwice
	case other:
		return "", ErrNotString
	}
	return text, nil
}

func BenchmarkFind(b *testing.B) {
	prose := strings.Repeat(`It was a dark and \"stormy\" night;\n`, 1<<20/38)
	for _, tc := range []struct{ name, doc string }{
		{"small", `{"messages":[{"role":"user","content":"hello"}],"model":"a","stream":true}`},
		{"1 MiB prompt", `{"messages":[{"role":"user","content":"` + prose + `"}],"model":"a"}`},
		{"1 MiB of tokens", `{"prompt":[` + strings.Repeat("12345,", 1<<20/6) + `1],"model":"a"}`},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.SetBytes(int64(len(tc.doc)))
			doc := []byte(tc.doc)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Find(doc, "model"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
