package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"stoker/scripts/bench-policy/traffic"
)

// TestWhatTheDocumentationClaims holds what docs/performance.md and
// docs/affinity.md say of the policies.
func TestWhatTheDocumentationClaims(t *testing.T) {
	if raceEnabled {
		t.Skip("a minute under the race detector, and no goroutine that TestTheSameSeedsGiveTheSameFigures has not")
	}
	for _, table := range runAll(scenarios(), published) {
		rows := map[string]Row{}
		for _, r := range table.Rows {
			rows[r.Policy] = r
		}
		atMost := func(what string, got, most float64) {
			t.Helper()
			if got > most {
				t.Errorf("%s: %s: %.2f, at most %.2f", table.Scenario, what, got, most)
			}
		}
		ours, theirs := rows[byDefault], rows[nginxLeastConn]
		plain := rows[unweighed] // of which nobody knows how long prompts are
		atMost("p50 without weights to least_conn's", plain.P50/theirs.P50, 1)
		atMost("p99 without weights to least_conn's", plain.P99/theirs.P99, 1)
		atMost("p90 of the default to that without weights", ours.P90/plain.P90, 0.8)
		atMost("p99 of the default to that without weights", ours.P99/plain.P99, 0.95)
		atMost("p50 of the default to least_conn's", ours.P50/theirs.P50, 1)
		atMost("p99 of the default to least_conn's", ours.P99/theirs.P99, 1)
		one, other := rows[roundRobin], rows[nginxRoundRobin]
		one.Policy = other.Policy
		if one != other {
			t.Errorf("%s: going round is going round, but %+v is not %+v", table.Scenario, one, other)
		}
		if strings.HasSuffix(table.Scenario, "one slow") {
			atMost("p99 of the default to round robin's", ours.P99/other.P99, 0.1)
		}
		affine, hash := rows[byConversation], rows[nginxHash]
		prefix := rows[byPrefix]
		atMost("requests of the busiest worker by prefix, to the mean", prefix.Peak, 1.25)
		if hash.Policy == "" {
			atMost("p99 of useless affinity by prefix to the default's", prefix.P99/ours.P99, 1)
			atMost("p99 of useless affinity to the default's", affine.P99/ours.P99, 1.7)
			continue
		}
		atMost("p50 of affinity to that of requests alone", affine.P50/plain.P50, 0.5)
		atMost("p99 of affinity to that of requests alone", affine.P99/plain.P99, 1)
		atMost("prompts reused by the default, to affinity", ours.Cached/affine.Cached, 0.55)
		atMost("prompts reused by the default, to affinity by prefix", ours.Cached/prefix.Cached, 0.5)
		atMost("p50 of affinity by prefix to the default's", prefix.P50/ours.P50, 0.4)
		atMost("p99 of affinity by prefix to the default's", prefix.P99/ours.P99, 1.05)
		atMost("p99 of affinity by prefix to that of requests alone", prefix.P99/plain.P99, 0.9)
		atMost("p50 of affinity by prefix to that by conversation", prefix.P50/affine.P50, 0.8)
		atMost("p50 of affinity at 150 % to that at 125 %", rows[byConversation2].P50/affine.P50, 0.85)
		atMost("p99 of affinity to that without a bound, by application", rows[byApplication].P99/rows[nginxHashApp].P99, 0.1)
	}
}

func TestTheSameSeedsGiveTheSameFigures(t *testing.T) {
	chat := scenarios()[3]
	requests := [][]traffic.Request{chat.load.Draw(7, length/2)}
	for _, p := range policies(&chat) {
		if a, b := run(&chat, p, requests), run(&chat, p, requests); a != b || a.P50 == 0 {
			t.Errorf("%+v, and then %+v", a, b)
		}
	}
	if reflect.DeepEqual(requests[0][:20], chat.load.Draw(8, length/2)[:20]) {
		t.Error("another seed has the same traffic")
	}
}

func TestNginxChoosesAsNginx(t *testing.T) {
	n := &nginx{leastConn: true, peers: make([]peer, 3)}
	var got []int
	for range 4 {
		engine, _ := n.Acquire(nil)
		got = append(got, engine)
	}
	n.Release(2)
	n.Release(1)
	for range 2 {
		engine, _ := n.Acquire(nil)
		got = append(got, engine)
	}
	// Its turns count only among equals: 2 came last without taking a turn, and
	// so comes again.
	if want := []int{0, 1, 2, 2, 1, 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestReportIsWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json")
	if err := bench(io.Discard, 0, file); err == nil {
		t.Error("no seed at all was taken")
	}
	if err := write(file, []Table{{Scenario: "s"}}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || len(text) < 20 {
		t.Errorf("%q, %v", text, err)
	}
}
