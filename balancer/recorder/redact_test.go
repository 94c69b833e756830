package recorder

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"stoker/internal/http1"
)

func TestRedactText(t *testing.T) {
	r := newRecorder(t, Options{}).redact
	for _, c := range []struct{ in, want string }{
		{"plain words, task-force, risk-free", "plain words, task-force, risk-free"},
		{"key sk-abcdef1234567890 here", "key [redacted] here"},
		{"at the end sk-ab", "at the end [redacted]"},
		{"Bearer abc.def-ghi", "Bearer [redacted]"},
		{"bearer  x", "bearer  [redacted]"},
		{"Basic dXNlcjpwYXNz", "Basic [redacted]"},
		{`{"api_key": "se\"cret", "token": "hello"}`, `{"api_key": "[redacted]", "token": "hello"}`},
		{`{"password":"open to the end`, `{"password":"[redacted]`},
		{`{"apiKey":"x","prompt":"p"}`, `{"apiKey":"[redacted]","prompt":"p"}`},
		{"hf_abcdefghijklmnop", "[redacted]"},
		{"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig", "[redacted]"},
		{"Customer-4711 pays", "Customer-[redacted] pays"},
		{"AKIAIOSFODNN7EXAMPLE", "[redacted]"},
	} {
		got, n := r.Text([]byte(c.in))
		if string(got) != c.want || (n > 0) != (c.in != c.want) {
			t.Errorf("%q: got %q (%d), want %q", c.in, got, n, c.want)
		}
		if again, n := r.Text(bytes.Clone(got)); string(again) != c.want || n != 0 {
			t.Errorf("%q: redacted twice: %q", c.in, again)
		}
	}
	for in, want := range map[string]string{
		"/v1/models":                     "/v1/models",
		"/v1?key=abc&x=1":                "/v1?key=[redacted]&x=1",
		"/v1?x=1&api_key=abc&api-key=d":  "/v1?x=1&api_key=[redacted]&api-key=[redacted]",
		"/v1?monkey=1&access_token=a%20": "/v1?monkey=1&access_token=[redacted]",
	} {
		if got := r.target(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestNeedlesAreInAllThatMatches: a pattern is looked for where its needles are.
func TestNeedlesAreInAllThatMatches(t *testing.T) {
	r := newRecorder(t, Options{Keep: 1}).redact
	for _, secret := range []string{
		"BEARER abc", "bAsIc dXNlcjpwYXNz", "sk-abcdef", "hf_0123456789", "ghp_0123456789", "gho_0123456789", "ghs_0123456789", "github_pat_0123456789",
		"glpat-0123456789", "xoxb-0123456789", "nvapi-0123456789", "gsk_0123456789", "AIza0123456789", "AKIA0123456789ABCDEF", "ASIA0123456789ABCDEF",
		"eyJ0123456789.abc", `"API-Key": "x"`, `"x_apikey":"x"`, `"PASSWORD":"x"`, `"passwd":"x"`, `"Secret":"x"`, `"client_secret":"x"`,
		`"access_token":"x"`, `"authtoken":"x"`, `"Refresh-Token":"x"`, `"session_token":"x"`, `"bearer_token":"x"`, `"Authorization":"x"`, "customer-4711",
	} {
		if got, n := r.Text([]byte(secret)); n != 1 {
			t.Errorf("%s: %d secrets, %s", secret, n, got)
		}
	}
}

func TestSecretFieldsAreNeverKept(t *testing.T) {
	r := newRecorder(t, Options{Keep: 5})
	names := []string{"Authorization", "COOKIE", "Set-Cookie", "x-api-key", "Api-Key", "Proxy-Authorization", "x-own"}
	var fields http1.Fields
	for _, name := range names {
		fields = append(fields, http1.Field{Name: name, Value: "hush"})
	}
	fields = append(fields, http1.Field{Name: "X-Note", Value: "my key is sk-hushhushhush"})
	rec := r.Begin(newExchange("x", "", fields...))
	rec.Head(&http1.Response{Status: 200, Fields: fields}, time.Now())
	if kept := string(rec.heads.bytes(&r.arena)); strings.Count(kept, "hush") != 6 {
		t.Errorf("kept: %s", kept)
	}
	x := r.Exchanges(Filter{})[0]
	for _, f := range append(x.Request.Fields, x.Response.Fields...) {
		if strings.Contains(f.Value, "hush") || !strings.Contains(f.Value, Redacted) {
			t.Errorf("%s: %s", f.Name, f.Value)
		}
	}
}

// TestSecretsInTwoChunks: what is looked for when it is read is found however it came.
func TestSecretsInTwoChunks(t *testing.T) {
	const secret = "sk-0123456789abcdefghij"
	for cut := range len(secret) {
		r := newRecorder(t, Options{Keep: 5, BodyLimit: 4000})
		rec := r.Begin(newExchange("x", ""))
		rec.Head(&http1.Response{Status: 200}, time.Now())
		rec.Write([]byte(strings.Repeat("a ", 1500-cut/2) + secret[:cut])) // across head and tail
		rec.Write([]byte(secret[cut:] + " "))
		rec.Write(bytes.Repeat([]byte("b "), 300*cut))
		b := r.Exchanges(Filter{Bodies: true})[0].Response.Body
		if text := b.Head + "|" + b.Tail; strings.Contains(text, "0123") || strings.Contains(text, "ghij") {
			t.Errorf("cut at %d: %q", cut, text[2900:])
		}
	}
}

func TestCutsLeaveWholeCharacters(t *testing.T) {
	r := newRecorder(t, Options{Keep: 5, BodyLimit: 1000})
	for shift := range 4 {
		rec := r.Begin(newExchange("x", ""))
		rec.Head(&http1.Response{Status: 200}, time.Now())
		rec.Write([]byte(strings.Repeat("-", shift) + strings.Repeat("語", 900)))
		all := r.Exchanges(Filter{Bodies: true})
		if b := all[len(all)-1].Response.Body; b.Base64 || !strings.HasSuffix(b.Head, "語") || !strings.HasPrefix(b.Tail, "語") {
			t.Errorf("shift %d: %+v", shift, b)
		}
	}
}

// FuzzRedact: no bytes make it panic, nothing that was secret once is found
// again, and what holds none stays as it is.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{"", "sk-abcdefgh", "Bearer x", `"api_key":"x"`, "\xff sk-", "?key=x", "Bearer [redacted]", "eyJaaaaaaaaa.b"} {
		f.Add([]byte(s), uint16(3))
	}
	r, err := NewRedactor(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		before := bytes.Clone(in)
		out, n := r.Text(bytes.Clone(in))
		if n == 0 && !bytes.Equal(out, before) {
			t.Errorf("changed without a secret: %q", in)
		}
		at := min(int(cut), len(in))
		head, tail := trimCut(in[:at:at], in[at:])
		if len(head)+len(tail) > len(in) || !bytes.HasPrefix(in, head) || !bytes.HasSuffix(in, tail) {
			t.Errorf("cut %q at %d: %q, %q", in, at, head, tail)
		}
		r.target(string(in))
		secret := append(append([]byte(" sk-"), "0123456789abcdef"...), ' ')
		out, _ = r.Text(append(bytes.Clone(in), secret...))
		if bytes.Contains(out, []byte("0123456789abcdef")) && !bytes.Contains(in, []byte("0123456789abcdef")) {
			t.Errorf("a secret stayed behind %q: %q", in, out)
		}
	})
}

// TestNamesThatTellOfSecrets: a field that is called a token, a key or a secret
// by whoever made it up was kept in the clear unless a list had it.
func TestNamesThatTellOfSecrets(t *testing.T) {
	r := newRecorder(t, Options{}).redact
	for _, name := range []string{
		"Authorization", "X-Api-Key", "Ocp-Apim-Subscription-Key", "HF-Token", "X-Secret", "X-Session-Token", "X_Client_Secret", "X-Gitlab-Token",
		"x-functions-key", "PRIVATE-TOKEN", "X-Vault-Token", "X-Auth", "Auth", "X-Password", "X-Db-Passwd", "My-Passphrase", "Api-Keys", "Credentials",
		"X-Amz-Credential", "ApiKey", "X-Cookie", "Cookie2", "X-Jwt", "X_Token", "X.Token", "Token-For-Us", "Key",
	} {
		if !r.secretField(name) {
			t.Errorf("%s is kept", name)
		}
	}
	for _, name := range []string{
		"", "-", "Host", "Content-Type", "X-Request-Id", "Sec-WebSocket-Key", "Idempotency-Key", "X-Max-Tokens", "X-Ratelimit-Remaining-Tokens", "Monkey", "Author",
		"X-Authority", "Accept-Encoding", "Keep-Alive", "-Host", "A-B-C-D", "Tokenizer", "X-Keyboard", "Surrogate-Key",
	} {
		if r.secretField(name) {
			t.Errorf("%s is taken for a secret", name)
		}
	}
}
