package recorder

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"stoker/internal/http1"
)

// TestCurlIsTheRequest runs the command in a shell in which curl prints its words.
func TestCurlIsTheRequest(t *testing.T) {
	r := newRecorder(t, Options{Keep: 20})
	for _, body := range []string{"", `{"a":"it's $HOME \ "}`, "\xff\x00binary", "text with \x00 and \x1b[2J"} {
		x := newExchange("c", body, http1.Field{Name: "Content-Type", Value: "application/json"}, http1.Field{Name: "Authorization", Value: "Bearer hidden"},
			http1.Field{Name: "X-Request-Id", Value: "c"})
		pass(t, r, x, "w", "", nil)
		all := r.Exchanges(Filter{Bodies: true})
		q := all[len(all)-1].Request
		command := q.Curl("http://h:1")
		if strings.Contains(command, "hidden") || !strings.Contains(command, "# secret fields") {
			t.Error(command)
		}
		out, err := exec.Command("sh", "-c", "curl() { printf '[%s]' \"$@\"; case \"$*\" in *@-*) cat;; esac; }\n"+command).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := "[-sS][-N][http://h:1/v1/completions][-H][Content-Type: application/json][-H][Accept:][-H][User-Agent:]"
		switch {
		case body == "":
			want = "[-sS][-N][-X][POST][http://h:1/v1/completions][-H][Content-Type: application/json][-H][Accept:][-H][User-Agent:]"
		case strings.Contains(body, "\x00"):
			want += "[--data-binary][@-]" + body
		default:
			want += "[--data-raw][" + body + "]"
		}
		if string(out) != want {
			t.Errorf("%s\n got %q\nwant %q", command, out, want)
		}
	}
}

func TestLacks(t *testing.T) {
	for _, c := range []struct {
		q    Request
		want string
	}{
		{Request{}, ""},
		{Request{Body: Body{Size: 9, Omitted: 3}}, "3 of its body's 9 bytes"},
		{Request{Unfinished: true}, "client had not sent"},
		{Request{Target: "/?key=" + Redacted}, "target held a secret"},
	} {
		if got := c.q.Lacks(); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c.q, got)
		}
	}
}

func TestHAR(t *testing.T) {
	r := newRecorder(t, Options{Keep: 20})
	pass(t, r, newExchange("h", `{"a":1}`), "w", "answer", nil)
	r.Begin(newExchange("flying", ""))
	text, err := json.Marshal(HAR("1", r.Exchanges(Filter{Bodies: true})))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Log struct {
			Version string
			Entries []struct {
				StartedDateTime time.Time
				Request         struct {
					URL      string
					PostData struct{ Text string }
				}
				Response struct {
					Status  int
					Content struct{ Text string }
				}
			}
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if e := doc.Log.Entries; doc.Log.Version != "1.2" || len(e) != 2 || e[0].Request.URL != "http://a.test/v1/completions" || e[0].Request.PostData.Text != `{"a":1}` ||
		e[0].Response.Status != 200 || e[0].Response.Content.Text != "answer" || e[1].Response.Status != 0 {
		t.Errorf("%s", text)
	}
}
