package supervisor

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/supervisor/keeper"
)

func TestDescribeExit(t *testing.T) {
	cases := []struct {
		exit   *keeper.Exit
		reason reason
		want   string
	}{
		{nil, reasonKeeperLost, "ended unseen, since its keeper was killed"},
		{&keeper.Exit{Code: 0}, reasonExited, "exited with code 0"},
		{&keeper.Exit{Code: 37}, reasonExited, "exited with code 37"},
		{&keeper.Exit{Code: -1, Signal: 9}, reasonSignaled, "killed by SIGKILL, perhaps out of memory"},
		{&keeper.Exit{Code: -1, Signal: 9, Forced: true}, reasonSignaled, "killed by SIGKILL after it had not ended in time"},
		{&keeper.Exit{Code: -1, Signal: 11, Core: true}, reasonSignaled, "killed by SIGSEGV, core dumped"},
		{&keeper.Exit{Code: -1, Error: "exec: no"}, reasonNotExecuted, "could not be executed: exec: no"},
	}
	for _, c := range cases {
		if got := exitCause(c.exit); got.text != c.want || got.reason != c.reason {
			t.Errorf("%+v: %s %q, want %s %q", c.exit, got.reason, got.text, c.reason, c.want)
		}
	}
}

func TestAdvice(t *testing.T) {
	cases := []struct {
		reason  reason
		exit    *keeper.Exit
		command string
		want    string
	}{
		{reasonNotExecuted, &keeper.Exit{Error: `exec: "vllm": executable file not found in $PATH`}, "vllm", "command not found: vllm; check pools.command and PATH"},
		{reasonNotExecuted, &keeper.Exit{Error: "fork/exec /x/y: no such file or directory"}, "/x/y", "command not found: /x/y; check pools.command, and the interpreter that the file names"},
		{reasonNotExecuted, &keeper.Exit{Error: "fork/exec /x: permission denied"}, "/x", "/x is not executable for the engine's user: check pools.command and pools.user"},
		{reasonNotExecuted, &keeper.Exit{Error: "exec /x/y: its interpreter or loader is missing: no such file or directory"}, "./y", "./y is there, what its first line (#!) or its program header names is not: install that, or correct the line"},
		{reasonNotExecuted, &keeper.Exit{Error: "exec /x: exec format error"}, "/x", "/x is no program for this machine: check pools.command; a script needs a first line such as #!/bin/sh"},
		{reasonNotExecuted, &keeper.Exit{Error: "chdir /srv: no such file or directory"}, "/x", "working directory not usable: check pools.dir"},
		{reasonExited, &keeper.Exit{Code: 0}, "x", "an engine is to run until it is stopped: pools.command must not end or go to the background"},
		{reasonKeeperLost, nil, "x", ""},
	}
	for _, c := range cases {
		if got := advice(c.reason, c.exit, []string{c.command}); got != c.want {
			t.Errorf("%s %+v: %q, want %q", c.reason, c.exit, got, c.want)
		}
	}
}

func TestLastLines(t *testing.T) {
	cases := []struct {
		text  string
		limit int
		want  string
	}{
		{"", 100, ""},
		{"\n\n", 100, ""},
		{"one\ntwo\n", 100, "one | two"},
		{"a\nb\nc\nd\ne\nf", 100, "c | d | e | f"},
		{"\x1b[31mred\x1b[0m\r\n\xff\xfe!\n", 100, "[31mred[0m | !"},
		{"long ago\n" + strings.Repeat("x", 50), 20, strings.Repeat("x", 20) + "…"},
		{"ééééé", 5, "éé…"},
	}
	for _, c := range cases {
		if got := lastLines(c.text, 4, c.limit); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

// What a person reads of a crash: one line, with everything in it.
func TestDeathIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLife(t, testPool(), behaviour{lives: 61500 * time.Millisecond, exit: killed}, behaviour{})
		l.w.log = hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true, Level: hclog.Info})
		l.begin()
		time.Sleep(2 * time.Minute)
		l.stop(request{wish: wishStop, hurry: true})
		want := `[WARN]  worker died: worker=w cause="killed by SIGKILL, perhaps out of memory" uptime=1m2s next="restart at once" output="last words" ` +
			`advice="if nobody killed it: dmesg names what the kernel killed for memory"` + "\n"
		if got := out.String(); strings.Count(got, want) != 1 || strings.Count(got, "[WARN]") != 1 {
			t.Errorf("log is\n%s\nand should have once\n%s", got, want)
		}
	})
}

// Four workers in a crash loop must neither keep the machine busy nor fill its disk.
func TestCrashLoopIsQuiet(t *testing.T) {
	for name, b := range map[string]behaviour{
		"exits at once":     {exit: crash, lives: time.Nanosecond, loads: time.Hour},
		"segfaults":         {exit: keeper.Exit{Code: -1, Signal: int(syscall.SIGSEGV), Core: true}, lives: 10 * time.Millisecond, loads: time.Hour},
		"cannot be started": {execError: "exec: \"/opt/engines/venv/bin/python3\": executable file not found in $PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer // hclog locks it
				log := hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info})
				var lives []*life
				for range 4 {
					l := newLife(t, testPool(), b)
					l.w.log, l.w.luck = log, func() float64 { return 1 } // the shortest delays
					lives = append(lives, l)
					l.begin()
				}
				time.Sleep(10 * time.Second)
				starts := 0
				for _, l := range lives {
					starts += l.keepers.starts()
				}
				for _, l := range lives {
					l.stop(request{wish: wishStop, hurry: true})
				}
				if starts > 24 || starts < 16 {
					t.Errorf("%d starts in 10 s, want 16 to 24", starts)
				}
				if out.Len() > 16<<10 {
					t.Errorf("%d bytes of log:\n%s", out.Len(), out.String())
				}
			})
		})
	}
}

func TestWhoEndedTheEngine(t *testing.T) {
	stopping := time.Now()
	before, after := stopping.Add(-time.Millisecond), stopping.Add(time.Millisecond)
	tests := []struct {
		name string
		exit *keeper.Exit
		want bool
	}{
		{"nobody knows", nil, false},
		{"it was killed by us", &keeper.Exit{Code: -1, Signal: int(syscall.SIGKILL), Forced: true, At: after}, false},
		{"our signal ended it", &keeper.Exit{Code: -1, Signal: int(syscall.SIGTERM), At: after}, false},
		{"it obeyed our signal", &keeper.Exit{Code: 0, At: after}, false},
		{"it had exited before", &keeper.Exit{Code: 0, At: before}, true},
		{"it was being killed meanwhile", &keeper.Exit{Code: -1, Signal: int(syscall.SIGKILL), At: after}, true},
		{"it crashed meanwhile", &keeper.Exit{Code: -1, Signal: int(syscall.SIGSEGV), At: after}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &worker{since: stopping, stopSignal: syscall.SIGTERM}
			if got := w.endedByItself(tt.exit); got != tt.want {
				t.Errorf("by itself: %v", got)
			}
		})
	}
}
