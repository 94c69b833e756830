//go:build e2e

package e2e

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// TestWrk: a load generator that others wrote finds no error either.
func TestWrk(t *testing.T) {
	wrk := tool(t, "wrk", "apt-get install wrk")
	m := start(t, "access_log = \"off\"\n"+fakePool(2)).allReady()
	out, err := exec.Command(wrk, "--threads", "1", "--connections", "32", "--duration", "3s", m.url("/work")).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`Socket errors|Non-2xx`).Match(out) {
		t.Error("wrk saw errors")
	}
	if n := number(out, `(\d+) requests in`); n < 1000 {
		t.Errorf("%d requests in 3 s", n)
	}
	m.stop()
}

// TestHTTP2PriorKnowledge: h2load speaks HTTP/2 in the clear to the same door.
func TestHTTP2PriorKnowledge(t *testing.T) {
	h2load := tool(t, "h2load", "apt-get install nghttp2-client")
	m := start(t, fakePool(2)).allReady()
	out, err := exec.Command(h2load, "-n", "2000", "-c", "4", "-m", "10", m.url("/work")).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if n := number(out, `(\d+) 2xx`); n != 2000 {
		t.Errorf("%d of 2000 answers were 2xx", n)
	}
	if n := number(out, `(\d+) failed`); n != 0 {
		t.Errorf("%d failed", n)
	}
	m.stop()
}

// number finds the first group of a pattern that must match; -1 if it does not.
func number(text []byte, pattern string) int {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return -1
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		return -1
	}
	return n
}
