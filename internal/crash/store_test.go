package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/balancer/recorder"
	"stoker/supervisor"
)

var ended = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func newReport(minute int, bodies ...int) *Report {
	at := ended.Add(time.Duration(minute) * time.Minute)
	r := &Report{Death: supervisor.Death{
		Pool: "chat", Worker: "chat-0", PID: 7, Reason: "signaled", Cause: "killed by SIGKILL",
		Exit:    supervisor.ExitStatus{Code: -1, Signal: "SIGKILL", At: at},
		Started: at.Add(-time.Minute), Ended: at, Noticed: at, Output: []byte("last\x00words\n"),
	}}
	for i, size := range bodies {
		r.Suspects = append(r.Suspects, recorder.Exchange{
			ID: fmt.Sprint("r", i), Start: at,
			Request: recorder.Request{Method: "POST", Target: "/v1", Body: recorder.Body{Size: int64(size), Head: strings.Repeat("x", size)}},
		})
	}
	return r
}

func TestReportIsReadAsItWasWritten(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "crashes"), Keep: 5, Size: 1 << 20}
	r := newReport(0, 10, 20)
	if err := s.Save(r); err != nil {
		t.Fatal(err)
	}
	if r.ID != "20260102T150405.000000Z-chat-0" || r.Uptime != 60 {
		t.Errorf("id %s, uptime %v", r.ID, r.Uptime)
	}
	got, err := s.Load(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("\n got %+v\nwant %+v", got, r)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, r.ID: 0o700, r.ID + "/report.json": 0o600, r.ID + "/suspects/001.json": 0o600, r.ID + "/output.log": 0o600} {
		info, err := os.Stat(filepath.Join(s.Dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, want)
		}
	}
}

func TestBounds(t *testing.T) {
	cases := []struct {
		name   string
		keep   int
		size   int64
		bodies []int
		want   []int // minutes of those that are left of five
	}{
		{"number", 2, 1 << 20, nil, []int{3, 4}},
		{"size", 50, 9000, []int{3000}, []int{3, 4}},
		{"one report is larger than all may be: without bodies", 50, 2500, []int{100000}, []int{3, 4}},
		{"off", 0, 1 << 20, nil, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &Store{Dir: filepath.Join(t.TempDir(), "crashes"), Keep: c.keep, Size: c.size}
			for minute := range 5 {
				if err := s.Save(newReport(minute, c.bodies...)); err != nil {
					t.Fatal(err)
				}
			}
			var want []string
			for _, minute := range c.want {
				want = append(want, ended.Add(time.Duration(minute)*time.Minute).Format(idLayout)+"-chat-0")
			}
			got, err := s.IDs()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%v, %v; want %v", got, err, want)
			}
			if size := sizeOf(s.Dir); size > c.size {
				t.Errorf("%d bytes on disk, may be %d", size, c.size)
			}
		})
	}
}

func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Store{Dir: filepath.Join(blocked, "crashes"), Keep: 1, Size: 1 << 20}).Save(newReport(0)); err == nil {
		t.Error("written below a file")
	}
	// The first report of a death stays, and nothing of the second is left behind.
	s := &Store{Dir: filepath.Join(dir, "crashes"), Keep: 1, Size: 1 << 20}
	if err := s.Save(newReport(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(newReport(0, 5)); err != nil {
		t.Error(err)
	}
	if r, err := s.Peek(ID(&newReport(0).Death)); err != nil || len(r.Summaries) != 0 {
		t.Errorf("the second of one name replaced the first: %v", err)
	}
	if left, _ := os.ReadDir(s.Dir); len(left) != 2 { // and the lock
		t.Errorf("left %v", left)
	}
}

// TestWhoReadsWhileEnginesDieInALoop sees no more reports than are kept, and always
// the latest: each new report removed the one before, and who asked for the latest
// was told now and then that there was none.
func TestWhoReadsWhileEnginesDieInALoop(t *testing.T) {
	const kept, deaths = 3, 100
	s := &Store{Dir: filepath.Join(t.TempDir(), "crashes"), Keep: kept, Size: 1 << 20}
	if err := s.Save(newReport(0)); err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	over := make(chan struct{})
	writer.Go(func() {
		defer close(over)
		for i := range deaths {
			r := newReport(1 + i)
			r.Death.Failures = i // but for the first, each is the one that can be spared
			if err := s.Save(r); err != nil {
				t.Error(err)
			}
		}
	})
	reader := &Store{Dir: s.Dir}
	for {
		if ids, err := reader.IDs(); err != nil || len(ids) > kept || len(ids) == 0 {
			t.Errorf("%d reports, %v", len(ids), err)
		}
		if _, err := reader.Open("latest"); err != nil {
			t.Error(err)
		}
		select {
		case <-over:
			writer.Wait()
			return
		default:
		}
	}
}

func TestUnfinishedIsCleared(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Keep: 1, Size: 1 << 20}
	if err := os.MkdirAll(filepath.Join(s.Dir, unfinished+"1", "suspects"), 0o700); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.IDs(); err != nil || len(ids) != 0 {
		t.Errorf("half a report is shown: %v, %v", ids, err)
	}
	if err := s.Save(newReport(0)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, unfinished+"*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestNoReport(t *testing.T) {
	s := &Store{Dir: filepath.Join(t.TempDir(), "none"), Keep: 1, Size: 1}
	if ids, err := s.IDs(); err != nil || ids != nil {
		t.Errorf("%v, %v", ids, err)
	}
	for _, id := range []string{"x", "", "..", "../x", ".unfinished-1"} {
		if _, err := s.Load(id); !errors.Is(err, ErrNoReport) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestLoopsDoNotPushOutHowTheyBegan: of engines that die again and again without
// a request the latest is worth keeping, not all; a master that finds the reports of
// the one before it sees it as well.
func TestLoopsDoNotPushOutHowTheyBegan(t *testing.T) {
	for name, masters := range map[string]int{"one master": 1, "a master for each": 9} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var s *Store
			for minute := range 9 {
				if minute < masters {
					s = &Store{Dir: dir, Keep: 3, Size: 1 << 20}
				}
				r := newReport(minute)
				if minute < 2 {
					r = newReport(minute, 10)
				}
				r.Death.Failures = minute
				if err := s.Save(r); err != nil {
					t.Fatal(err)
				}
			}
			ids, err := s.IDs()
			want := []string{ID(&newReport(0).Death), ID(&newReport(1).Death), ID(&newReport(8).Death)}
			if err != nil || !reflect.DeepEqual(ids, want) {
				t.Errorf("%v, %v; want %v", ids, err, want)
			}
		})
	}
}

// TestFind: what people type means a report, or says why not.
func TestFind(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Keep: 9, Size: 1 << 20}
	for minute := range 3 {
		if err := s.Save(newReport(minute)); err != nil {
			t.Fatal(err)
		}
	}
	other := newReport(9)
	other.Death.Worker = "a-b-1"
	if err := s.Save(other); err != nil {
		t.Fatal(err)
	}
	last := ID(&newReport(2).Death)
	for word, want := range map[string]string{
		"latest": ID(&other.Death), "chat-0": last, "a-b-1": ID(&other.Death), "20260102T1506": last, last: last,
		"2026": "", "": "", "chat": "", "../x": "",
	} {
		got, err := s.Find(word)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %s, %v; want %q", word, got, err, want)
		}
	}
	if _, err := s.Find("2026"); !errors.Is(err, ErrAmbiguous) {
		t.Error(err)
	}
}

// TestPartsAreReadAsOne: what an older generation saw of a death belongs to its report.
func TestPartsAreReadAsOne(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Keep: 9, Size: 1 << 20}
	part := newReport(0, 10, 20)
	part.Death.Watched, part.Generation = true, 3
	if err := s.Save(part); err != nil {
		t.Fatal(err)
	}
	if ids, _ := s.IDs(); len(ids) != 0 {
		t.Errorf("a part alone is no report: %v", ids)
	}
	if err := s.Save(newReport(0, 30)); err != nil {
		t.Fatal(err)
	}
	id := ID(&part.Death)
	r, err := s.Load(id)
	if err != nil || len(r.Suspects) != 3 || len(r.Summaries) != 3 || r.Suspects[0].Request.Body.Size != 30 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.Peek(id); err != nil || len(r.Summaries) != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if ids, _ := s.IDs(); len(ids) != 1 {
		t.Errorf("%v", ids)
	}
}

// TestTheLikeliestComesFirst: unanswered, then the latest.
func TestTheLikeliestComesFirst(t *testing.T) {
	r := newReport(0, 1, 2, 3, 4, 5)
	for i := range r.Suspects {
		r.Suspects[i].Start = ended.Add(time.Duration(i) * time.Second)
	}
	for i, status := range map[int]int{0: 502, 3: 200, 4: 200} {
		r.Suspects[i].Response = &recorder.Response{Status: status}
		r.Suspects[i].Worker = "chat-0"
	}
	r.Suspects[0].Outcome = "upstream_error" // we have said so
	r.Suspects[4].Worker = "chat-1"          // to which it was given then
	s := &Store{Dir: t.TempDir(), Keep: 9, Size: 1 << 20}
	if err := s.Save(r); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, x := range r.Summaries {
		got += x.ID
	}
	if got != "r4r2r1r0r3" {
		t.Error(got)
	}
}
