//go:build e2e

package e2e

import (
	"encoding/xml"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// h2specAt is where h2spec is built from, and its pinned version: the latest that
// the module proxy has.
const h2specAt = "testdata/h2spec"

// knownOfHTTP2 are the cases that net/http itself fails, which serves our HTTP/2.
// None is about what reaches an engine: a head that is larger than a frame may be is
// taken if it is within the limit of heads, settings that contradict each other and
// a bad preface end the connection, if not as expected, and fields that belong to one
// connection are dropped instead of refused.
var knownOfHTTP2 = []string{
	"Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"",
	"Sends a HEADERS frame that contains the connection-specific header field",
	"Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
	"Sends invalid connection preface",
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
}

// TestH2spec: the generic, hpack and http2 parts of h2spec pass, but for what
// net/http fails too when it is asked directly.
func TestH2spec(t *testing.T) {
	sleeps(t)
	h2spec := buildH2spec(t)
	s := newSecure(t)
	m := start(t, "access_log = \"off\"\n"+s.config+fakePool(1)).ready()
	theirs := failedH2spec(t, h2spec, plainHTTP2(t), "/")
	for name, ours := range map[string][]string{
		"in the clear": failedH2spec(t, h2spec, m.address, "/work"),
		"over TLS":     failedH2spec(t, h2spec, s.address, "/work", "--tls", "--insecure"),
	} {
		for _, title := range ours {
			if !slices.Contains(theirs, title) && !slices.Contains(knownOfHTTP2, title) {
				t.Errorf("fails %s, and net/http does not: %s", name, title)
			}
		}
		t.Logf("%d cases fail %s, of net/http %d", len(ours), name, len(theirs))
	}
	for _, title := range theirs {
		if !slices.Contains(knownOfHTTP2, title) {
			t.Logf("net/http fails now, and is not known for it: %s", title)
		}
	}
	m.stop()
}

func buildH2spec(t *testing.T) string {
	t.Helper()
	to := filepath.Join(scratch, "h2spec")
	cmd := exec.Command("go", "build", "-C", h2specAt, "-o", to, "github.com/summerwind/h2spec/cmd/h2spec")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		missing(t, "h2spec", "access to a Go module proxy, for github.com/summerwind/h2spec")
	}
	return to
}

// plainHTTP2 is net/http's server with nothing around it.
func plainHTTP2(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: p, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, wholeAnswer)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-ended })
	return l.Addr().String()
}

// failedH2spec runs the three parts and returns the titles of the cases that fail.
func failedH2spec(t *testing.T, h2spec, address, path string, flags ...string) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	flags = append([]string{"generic", "hpack", "http2", "-h", host, "-p", port, "-P", path, "-j", file}, flags...)
	out, err := exec.Command(h2spec, flags...).CombinedOutput()
	text, readErr := os.ReadFile(file)
	if readErr != nil {
		t.Fatalf("h2spec: %v\n%s", err, out)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Title   string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	all, failed := 0, []string(nil)
	for _, suite := range report.Suites {
		for _, c := range suite.Cases {
			all++
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, c.Title)
			}
		}
	}
	if all < 140 {
		t.Fatalf("h2spec ran only %d cases\n%s", all, out)
	}
	slices.Sort(failed)
	return failed
}
