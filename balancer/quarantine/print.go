package quarantine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Print is what a request is known by. The zero Print is that of nothing.
type Print [16]byte

// String is the print in hexadecimal; its first half names it among people.
func (p Print) String() string { return hex.EncodeToString(p[:]) }

// MarshalText implements encoding.TextMarshaler.
func (p Print) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Print) UnmarshalText(text []byte) error {
	if len(text) != 2*len(p) {
		return fmt.Errorf("a print has %d hexadecimal digits, not %d", 2*len(p), len(text))
	}
	_, err := hex.Decode(p[:], text)
	return err
}

// Prints are a request's.
type Prints struct {
	Request Print `json:"request"`
	Schema  Print `json:"schema"` // zero without such fields
}

// Kind is what a print is of.
type Kind string

// The kinds.
const (
	KindRequest Kind = "request"
	KindSchema  Kind = "schema"
)

// kinds in the order in which they are judged.
var kinds = [...]Kind{KindRequest, KindSchema}

func (p *Prints) of(k Kind) Print {
	if k == KindSchema {
		return p.Schema
	}
	return p.Request
}

// schemaFields are those that engines compile into grammars or automata, by
// OpenAI's, vLLM's, SGLang's, llama-server's and TGI's names; "guided_…" too.
var schemaFields = []string{
	"ebnf", "functions", "grammar", "json_schema", "regex", "response_format", "structural_tag", "structured_outputs", "tools",
}

// wrappers hold such fields in some clients' requests and engines' own APIs.
var wrappers = []string{"extra_body", "parameters", "sampling_params", "text"}

// Of makes the prints of a request to a pool; body is all of it.
func Of(pool, method, target string, body []byte) Prints {
	c := canon{fields: isSchemaField}
	canonical, isJSON := c.render(body)
	if !isJSON {
		canonical, c.schema = body, nil
	}
	var p Prints
	p.Request = sum(canonical, string(KindRequest), pool, method, target, strconv.FormatBool(isJSON))
	if len(c.schema) > 0 {
		texts := []string{string(KindSchema), pool}
		for _, path := range slices.Sorted(maps.Keys(c.schema)) {
			texts = append(texts, path, c.schema[path])
		}
		p.Schema = sum(nil, texts...)
	}
	return p
}

// sum hashes texts so that none runs into the next, and a body behind them.
func sum(body []byte, texts ...string) Print {
	var head []byte
	for _, t := range texts {
		head = append(append(strconv.AppendInt(head, int64(len(t)), 10), ':'), t...)
	}
	h := sha256.New()
	_, _ = h.Write(head)
	_, _ = h.Write(body)
	return Print(h.Sum(nil)[:len(Print{})])
}

// isSchemaField says whether a field, by the names on the way to it, holds a
// schema, and whether what is in it may.
func isSchemaField(path []string) (schema, inside bool) {
	name := path[len(path)-1]
	switch len(path) {
	case 1:
		return isSchemaName(name), slices.Contains(wrappers, name)
	case 2:
		return isSchemaName(name) || path[0] == "text" && name == "format", false
	}
	return false, false
}

func isSchemaName(name string) bool {
	return slices.Contains(schemaFields, name) || strings.HasPrefix(name, "guided_")
}

// saysNothing: fields that many clients always send, and that mean "none".
func saysNothing(canonical []byte) bool {
	return bytes.Equal(canonical, []byte("null")) || bytes.Equal(canonical, []byte(`{"type":"text"}`))
}
