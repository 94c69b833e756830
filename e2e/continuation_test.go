//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
)

// streamed is what an official client made of a stream.
type streamedAnswer struct {
	Text  map[string]string
	Names int
	Roles int
	Ends  []string
	Usage []int
	Error string
}

// streamer is an official client at work.
type streamer struct {
	t     *testing.T
	name  string
	lines *bufio.Scanner
	in    *json.Encoder
}

func (s *streamer) ask(params map[string]any) (a streamedAnswer) {
	s.t.Helper()
	if err := s.in.Encode(params); err != nil {
		s.t.Fatal(err)
	}
	if !s.lines.Scan() {
		s.t.Fatalf("%s has ended: %v", s.name, s.lines.Err())
	}
	if err := json.Unmarshal(s.lines.Bytes(), &a); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// streamers are openai's clients for Python and Node.
func streamers(t *testing.T, base string) []*streamer {
	t.Helper()
	python := pythonOpenAI(t)
	script, err := os.ReadFile("testdata/stream.py")
	if err != nil {
		t.Fatal(err)
	}
	node := exec.Command("node", "testdata/stream.cjs", base)
	node.Env = append(os.Environ(), "NODE_PATH="+nodeModules(t))
	var all []*streamer
	for name, cmd := range map[string]*exec.Cmd{
		"Python": exec.Command(python[0], append(slices.Clone(python[1:]), "-c", string(script), base)...),
		"Node":   node,
	} {
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait()
		})
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		all = append(all, &streamer{t: t, name: name, lines: lines, in: json.NewEncoder(in)})
	}
	return all
}

// llamaPool is two real llama-servers behind cutters, in a pool with more keys.
func llamaPool(t *testing.T, plans, keys string) string {
	t.Helper()
	command := cutter(plans, append(llama(t), "--host", "127.0.0.1", "--port", "{engine_port}", "-c", "8192", "-np", "4", "--threads", "1")...)
	return "[quarantine]\nenabled = false\n[[pools]]\nname = \"p\"\nworkers = 2\nhealth.path = \"/health\"\nhealth.interval = \"100ms\"\n" +
		"restart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.reset_after = \"10ms\"\nstop.grace = \"1s\"\n" + keys + "command = " + list(command...) + "\n"
}

func plan(t *testing.T, dir string, plans ...string) {
	t.Helper()
	old, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range old {
		os.Remove(f)
	}
	for i, p := range plans {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("new-", i)), []byte(p), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, fmt.Sprint("new-", i)), filepath.Join(dir, fmt.Sprint("plan-", i))); err != nil {
			t.Fatal(err)
		}
	}
}

// taken is how many plans were carried out.
func taken(dir string) int {
	all, _ := filepath.Glob(filepath.Join(dir, "taken-*"))
	return len(all)
}

// continuationRuns is how often each case is run: STOKER_E2E_CONTINUATION_RUNS,
// else once. STOKER_E2E_CONTINUATION_CASE is part of the names of those that are. docs/continuation.md has the whole command.
func continuationRuns() int {
	n, err := strconv.Atoi(os.Getenv("STOKER_E2E_CONTINUATION_RUNS"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// answering waits until every worker is ready and there: the news of a death may
// be behind.
func (m *master) answering() {
	m.t.Helper()
	m.eventually("all workers there", func() bool {
		for _, w := range m.allReady().workers() {
			conn, err := net.Dial("tcp", w.Address)
			if err != nil {
				return false
			}
			conn.Close()
		}
		return true
	})
}

// restarted waits until as many engines were started again as plans have ended:
// a process that has just been killed may still take a connection.
func (m *master) restarted(before int, plans ...string) {
	m.t.Helper()
	ended := 0
	for _, p := range plans {
		if strings.HasSuffix(p, " kill") || strings.HasSuffix(p, " stop") || strings.HasSuffix(p, " term") {
			ended++
		}
	}
	m.eventually("engines started again", func() bool { return m.restarts() >= before+ended })
}

// TestStreamsOutliveLlamaServer breaks real streams at exact places, in each way
// that an engine may fail: the official clients must get the very same answer.
func TestStreamsOutliveLlamaServer(t *testing.T) {
	works(t)
	plans := t.TempDir()
	m := start(t, llamaPool(t, plans, "migrate = \"replay\"\ntoken_stall_timeout = \"400ms\"\n")).allReady()
	base := map[string]any{
		"model": "any", "max_tokens": 64, "stream_options": map[string]any{"include_usage": true},
		"messages": []map[string]any{{"role": "user", "content": "Tell me of fire."}},
	}
	requests := map[string]map[string]any{}
	for name, more := range map[string]map[string]any{
		"temperature 0": {"temperature": 0},
		"seeded":        {"temperature": 0.8, "seed": 11},
		"n = 2":         {"temperature": 0.8, "seed": 5, "n": 2},
		"logprobs":      {"temperature": 0, "logprobs": true, "top_logprobs": 2},
		"stop":          {"temperature": 0, "stop": []string{"zz"}},
		"grammar":       {"temperature": 0.8, "seed": 3, "extra_body": map[string]any{"grammar": "root ::= [a-z ]+"}},
	} {
		requests[name] = maps.Clone(base)
		maps.Copy(requests[name], more)
	}
	cases := []struct{ requests, name, plans string }{
		{"*", "killed at token 1", "event:2 kill"},
		{"*", "killed at token 5", "event:6 kill"},
		{"temperature 0,seeded", "killed before anything", "event:0 kill"},
		{"temperature 0,seeded", "killed at token 20", "event:21 kill"},
		{"temperature 0,seeded", "killed at token 50", "event:51 kill"},
		{"temperature 0,seeded", "killed after the last token", `before:"finish_reason":"length" kill`},
		{"temperature 0,seeded", "killed after the end, before the usage", `after:"finish_reason":"length" kill`},
		{"temperature 0,seeded", "killed before [DONE]", "before:[DONE] kill"},
		{"temperature 0,seeded", "reset", "event:9 close"},
		{"temperature 0,seeded", "ended as if it were whole", "event:9 end"},
		{"temperature 0,seeded", "stopped", "event:9 stop"},
		{"temperature 0,seeded", "told to end", "event:9 term"},
		{"temperature 0,seeded", "the second killed, too", "event:9 kill|event:30 kill"},
		{"temperature 0,seeded", "reset twice", "event:9 close|event:20 close"},
	}
	// In chunks' heads, in events, in characters: each as often as all others, and
	// where cases are run many times, at as many bytes.
	for i := range max(4, continuationRuns()) {
		cases = append(cases, struct{ requests, name, plans string }{[]string{"temperature 0", "seeded"}[i%2], fmt.Sprint("cut in byte ", 900+i*89), fmt.Sprintf("byte:%d close", 900+i*89)})
	}
	runs := 0
	for _, client := range streamers(t, m.url("/v1")) {
		want := map[string]streamedAnswer{}
		m.answering()
		for name, request := range requests {
			want[name] = client.ask(request)
			if a := want[name]; a.Error != "" || a.Names != 1 || len(a.Usage) != 3 || len(a.Text["0"]) < 5 {
				t.Fatalf("%s, %s, undisturbed: %+v", client.name, name, a)
			}
		}
		for _, c := range cases {
			if !strings.Contains(c.name, os.Getenv("STOKER_E2E_CONTINUATION_CASE")) {
				continue
			}
			names := strings.Split(c.requests, ",")
			if c.requests == "*" {
				names = slices.Sorted(maps.Keys(requests))
			}
			for _, name := range names {
				times := continuationRuns()
				if strings.HasPrefix(c.name, "cut in byte") {
					times = 1
				}
				for range times {
					m.answering()
					before, steps := m.restarts(), strings.Split(c.plans, "|")
					plan(t, plans, steps...)
					got := client.ask(requests[name])
					m.restarted(before, steps...)
					runs++
					if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want[name]); g != w {
						t.Errorf("%s, %s, %s:\n%s, want\n%s", client.name, name, c.name, g, w)
					}
					if n := taken(plans); n != len(steps) {
						t.Errorf("%s, %s, %s: %d of %d happened", client.name, name, c.name, n, len(steps))
					}
				}
			}
		}
	}
	for _, line := range m.logLines("outcome") {
		if line["outcome"] != "ok" {
			t.Logf("%v", line)
		}
	}
	t.Logf("%d streams were broken", runs)
	if n := m.metric("stoker_streams_migrated_total"); int(n) < runs/2 {
		t.Errorf("only %v of %d streams were moved", n, runs)
	}
}

// demoStream asks the built-in engine, slowly, and returns what it said.
func demoStream(m *master, n int) (text string, err error) {
	body := fmt.Sprintf(`{"messages":[{"role":"user","content":"%d"}],"temperature":0,"ignore_eos":true,"max_tokens":200,"stream":true}`, n)
	response, err := http.Post(m.url("/v1/chat/completions"), "application/json", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	whole, err := io.ReadAll(response.Body)
	if err == nil && !strings.HasSuffix(string(whole), "data: [DONE]\n\n") {
		err = fmt.Errorf("ends with %q", whole[max(len(whole)-200, 0):])
	}
	for _, piece := range regexp.MustCompile(`"content":"((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(string(whole), -1) {
		text += piece[1]
	}
	return text, err
}

// TestDrainMovesStreams: a worker leaves without waiting for its longest answer,
// by an order, and by a rolling restart where the pool's policy says so.
func TestDrainMovesStreams(t *testing.T) {
	waits(t)
	const streams = 6
	m := start(t, demoPool(t, 2)+"migrate = \"replay\"\ndrain = \"wait\"\ndrain_timeout = \"2m\"\nmigration.limit = 6\n").allReady()
	want := make([]string, streams)
	both := func(what string, act func()) {
		var texts [streams]string
		var running errgroup.Group
		for i := range streams {
			running.Go(func() (err error) {
				texts[i], err = demoStream(m, i)
				return err
			})
		}
		if act != nil {
			m.eventually("streams on both", func() bool {
				return m.workers()[0].InFlight > 1 && m.workers()[1].InFlight > 1
			})
			act()
		}
		if err := running.Wait(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for i := range texts {
			if act == nil {
				want[i] = texts[i]
			} else if texts[i] != want[i] {
				t.Errorf("%s: stream %d is not what it is undisturbed", what, i)
			}
		}
	}
	both("undisturbed", nil)
	both("drain --migrate", func() {
		if out, code := m.command("drain", "p-0", "--migrate"); code != 0 {
			t.Errorf("drain: %s", out)
		}
		if left := m.workers()[1].InFlight; left == 0 {
			t.Error("the drain waited for the streams to end")
		}
	})
	if out, code := m.command("resume", "p-0"); code != 0 {
		t.Fatal(out)
	}
	m.allReady()
	m.rewrite(`drain = "wait"`, `drain = "migrate"`)
	m.mustCommand("reload")
	both("rolling restart", func() {
		if out, code := m.command("restart", "p"); code != 0 {
			t.Errorf("restart: %s", out)
		}
	})
	if n := m.metric("stoker_streams_migrated_total", `reason="drained"`); n < 4 {
		t.Errorf("%v streams were moved", n)
	}
	if table := m.statusTable(); !regexp.MustCompile(`(?m)^p +\S+ .* [1-9]\d* +0 +[1-9]\d*$`).MatchString(table) {
		t.Errorf("what has moved is not shown:\n%s", table)
	}
	if n := len(m.crashIDs()); n != 0 {
		t.Errorf("%d crash reports", n)
	}
	m.stop()
}

// TestStreamsGoOnWithLlamaServer breaks streams that chance has made, so that
// nobody would say the same again: the rest is asked for, and the client sees one
// answer of exactly as many tokens as it asked for.
func TestStreamsGoOnWithLlamaServer(t *testing.T) {
	works(t)
	plans := t.TempDir()
	m := start(t, llamaPool(t, plans, "migrate = \"continue\"\nmigration.engine = \"llama-server\"\n")).allReady()
	request := map[string]any{
		"model": "any", "max_tokens": 64, "stream_options": map[string]any{"include_usage": true}, "temperature": 0.8,
		"logit_bias": map[string]int{"2": -100}, // no end of its own, which chance would bring before the engine's
		"messages":   []map[string]any{{"role": "user", "content": "Tell me of fire."}},
	}
	for _, client := range streamers(t, m.url("/v1")) {
		for _, c := range []struct{ name, plans string }{
			{"undisturbed", ""},
			{"killed at token 5", "event:6 kill"},
			{"ended as if it were whole", "event:30 end"},
			{"killed twice", "event:20 kill|event:9 kill"},
		} {
			for range continuationRuns() {
				m.answering()
				var steps []string
				if c.plans != "" {
					steps = strings.Split(c.plans, "|")
				}
				plan(t, plans, steps...)
				before := m.restarts()
				got := client.ask(request)
				m.restarted(before, steps[:taken(plans)]...)
				// What chance makes may also end by itself.
				if got.Error != "" || got.Names != 1 || got.Roles != 1 || len(got.Ends) != 1 || len(got.Usage) != 3 || got.Usage[0] != 36 || got.Usage[1] > 64 || got.Ends[0] == "length" && got.Usage[1] != 64 {
					t.Errorf("%s, %s: %+v", client.name, c.name, got)
				}
				if n := taken(plans); n < len(steps)-1 {
					t.Errorf("%s, %s: %d of %d happened", client.name, c.name, n, len(steps))
				}
			}
		}
		random := maps.Clone(request)
		random["stop"] = []string{"zz"} // which the rest would not see across the break
		m.answering()
		plan(t, plans, "event:6 kill")
		before := m.restarts()
		if got := client.ask(random); got.Error == "" || len(got.Ends) != 0 {
			t.Errorf("%s: what cannot go on ended as %+v", client.name, got)
		}
		m.restarted(before, "event:6 kill")
	}
	if n := m.metric("stoker_streams_migrated_total", `mode="continue"`); n < 4 {
		t.Errorf("%v streams were continued", n)
	}
}

// TestStreamsBreakVisibly: where streams may not move, no client takes half an
// answer for a whole one.
func TestStreamsBreakVisibly(t *testing.T) {
	works(t)
	plans := t.TempDir()
	m := start(t, llamaPool(t, plans, "")).allReady()
	request := map[string]any{
		"model": "any", "max_tokens": 64, "temperature": 0, "messages": []map[string]any{{"role": "user", "content": "Tell me of fire."}},
	}
	for _, client := range streamers(t, m.url("/v1")) {
		for _, p := range []string{"event:6 kill", "event:6 close", "event:6 end", "before:[DONE] kill"} {
			m.answering()
			plan(t, plans, p)
			before := m.restarts()
			if got := client.ask(request); got.Error == "" || taken(plans) != 1 {
				t.Errorf("%s, %s: %+v", client.name, p, got)
			}
			m.restarted(before, p)
		}
	}
}

// TestStreamsOutliveSignals sends real llama-servers signals in the middle of a
// long answer. To SIGTERM they are silent, ping, and end the stream without its end.
func TestStreamsOutliveSignals(t *testing.T) {
	command := append(llama(t), "--host", "127.0.0.1", "--port", "{port}", "-c", "8192", "-np", "2", "--threads", "1")
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 2\nhealth.path = \"/health\"\nstop.grace = \"2s\"\nmigrate = \"replay\"\ntoken_stall_timeout = \"1s\"\ncommand = "+list(command...)+"\n").allReady()
	ask := func(sampling string, act func()) string {
		response, err := http.Post(m.url("/v1/chat/completions"), "application/json",
			strings.NewReader(`{"messages":[{"role":"user","content":"fire"}],`+sampling+`,"ignore_eos":true,"max_tokens":3000,"stream":true}`))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		whole := make([]byte, 8<<10)
		n, err := io.ReadFull(response.Body, whole)
		if err != nil {
			t.Fatal(err)
		}
		if act != nil {
			act()
		}
		rest, err := io.ReadAll(response.Body)
		whole = append(whole[:n], rest...)
		if err != nil || !strings.HasSuffix(string(whole), "data: [DONE]\n\n") {
			t.Errorf("%v, ends with %q", err, whole[len(whole)-200:])
		}
		var text strings.Builder
		for _, piece := range regexp.MustCompile(`"content":("(?:[^"\\]|\\.)*")`).FindAllSubmatch(whole, -1) {
			text.Write(piece[1])
		}
		return text.String()
	}
	const coldest, seeded = `"temperature":0`, `"temperature":0.8,"seed":11`
	want := map[string]string{coldest: ask(coldest, nil), seeded: ask(seeded, nil)}
	signalled := 0
	for _, c := range []struct {
		sampling string
		signal   syscall.Signal
	}{{coldest, syscall.SIGTERM}, {coldest, syscall.SIGKILL}, {coldest, syscall.SIGSTOP}, {seeded, syscall.SIGTERM}, {seeded, syscall.SIGSTOP}} {
		sampling, signal := c.sampling, c.signal
		// One that got SIGTERM answers /health for a while, and may take a request that it never begins.
		m.eventually("signalled engines started again", func() bool { return m.restarts() >= signalled })
		m.answering()
		moved := m.metric("stoker_streams_migrated_total")
		sent := false
		got := ask(sampling, func() {
			for _, w := range m.workers() {
				if w.InFlight > 0 {
					sent = syscall.Kill(w.PID, signal) == nil
				}
			}
		})
		if sent {
			signalled++
		}
		// The splitting of one event may leave its text in two strings.
		if strings.ReplaceAll(got, `""`, "") != strings.ReplaceAll(want[sampling], `""`, "") {
			t.Errorf("%s, %v: not the same answer", sampling, signal)
		}
		if sent && m.metric("stoker_streams_migrated_total") == moved {
			t.Logf("%v: the answer was there before the signal", signal)
		}
	}
	if m.metric("stoker_streams_migrated_total") == 0 {
		t.Error("no stream was moved")
	}
}
