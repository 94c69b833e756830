package config

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPrintHidesWhatLooksSecret(t *testing.T) {
	c, err := Parse("/x/stoker.toml", []byte(`
run_dir = "/r"
[[pools]]
name = "a"
command = ["vllm", "--api-key", "hush1", "--hf-token=hush2", "--max-tokens", "5", "--token", "--next", "--key", ""]
stop.gone_command = ["gone", "--password", "hush3"]
[pools.env]
HF_TOKEN = "hush4"
AWS_SECRET_ACCESS_KEY = "hush5"
DB_PASSWORD = "hush6"
TOKENIZERS_PARALLELISM = "true"
MONKEY = "shown"
EMPTY_KEY = ""
`))
	if err != nil {
		t.Fatal(err)
	}
	before := string(c.Marshal())
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	for _, want := range []string{
		"# Values that look secret are shown as \"***\".\n",
		`command = ["vllm", "--api-key", "***", "--hf-token=***", "--max-tokens", "5", "--token", "--next", "--key", "***"]`,
		`gone_command = ["gone", "--password", "***"]`,
		`HF_TOKEN = "***"`, `AWS_SECRET_ACCESS_KEY = "***"`, `DB_PASSWORD = "***"`,
		`TOKENIZERS_PARALLELISM = "true"`, `MONKEY = "shown"`, `EMPTY_KEY = ""`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "hush") {
		t.Errorf("a secret in\n%s", got)
	}
	if after := string(c.Marshal()); after != before || !strings.Contains(after, "hush1") || !strings.Contains(after, "hush6") {
		t.Errorf("printing changed the configuration:\n%s", after)
	}
	if _, err := Parse("/x/printed.toml", out.Bytes()); err != nil {
		t.Errorf("what was printed does not load: %v", err)
	}
}

// Random configurations, with words that need every kind of quoting, load
// equal to themselves once printed.
func TestWhatIsPrintedLoadsEqual(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		word := func() string {
			letters := []rune("aZ0 _-.,=#'\"\\\t\n\r\x01\x7f[]<>/äß語😀\u2028")
			text := make([]rune, 1+r.IntN(12))
			for i := range text {
				text[i] = letters[r.IntN(len(letters))]
			}
			return string(text)
		}
		duration := func() Duration { return Duration(10*time.Millisecond) + Duration(r.Int64N(int64(time.Hour))) }
		c := Default()
		c.RunDir = "/r"
		c.OrphanTimeout = duration()
		c.TrustedProxies = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.Uint32())}), 8)}
		p := DefaultPool("a")
		p.Command = []string{"x", word(), word()}
		p.Env = map[string]string{strings.ReplaceAll(word(), "=", ""): word(), "B": word()}
		delete(p.Env, "")
		p.Dir = filepath.Clean("/" + word())
		p.Workers = 1 + r.IntN(100)
		p.StartTimeout, p.Health.Interval, p.Queue.Timeout = duration(), duration(), duration()
		p.Stop.GoneCommand = []string{"y", word()}
		c.Pools = []Pool{p}

		printed := c.Marshal()
		got, err := Parse("/x/printed.toml", printed)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, printed)
		}
		if !reflect.DeepEqual(got, c) {
			t.Fatalf("seed %d:\ngot  %+v\nwant %+v\n%s", seed, got, c, printed)
		}
	}
}

func TestPrintWithoutSecretsIsMarshal(t *testing.T) {
	c, err := parseFile(t, "testdata/minimal.good.toml")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.Print(&out); err != nil || out.String() != string(c.Marshal()) {
		t.Errorf("%v, got\n%s", err, out.String())
	}
}

func TestDurationsReadAsTheyAreWritten(t *testing.T) {
	cases := []struct {
		d    time.Duration
		want string
	}{
		{0, "0s"},
		{1, "1ns"},
		{1500 * time.Millisecond, "1.5s"},
		{time.Minute, "1m"},
		{90 * time.Second, "1m30s"},
		{10 * time.Minute, "10m"},
		{time.Hour, "1h"},
		{70 * time.Minute, "1h10m"},
		{time.Hour + time.Second, "1h0m1s"},
		{-time.Minute, "-1m"},
	}
	for _, test := range cases {
		d, want := test.d, test.want
		text, err := Duration(d).MarshalText()
		if err != nil || string(text) != want {
			t.Errorf("%s: got %q, %v; want %q", d, text, err, want)
		}
		var back Duration
		if err := back.UnmarshalText(text); err != nil || back.Std() != d {
			t.Errorf("%q reads as %s, %v", text, back, err)
		}
	}
}

func TestPathsAndNames(t *testing.T) {
	c := Config{RunDir: "/run/stoker"}
	p := DefaultPool("chat")
	worker := p.WorkerName(11)
	got := []string{worker, c.AdminSocket(), c.LockFile(), c.EngineDir(worker), c.EngineSocket(worker), c.KeeperDir(worker), c.KeeperSocket(worker)}
	want := []string{
		"chat-11", "/run/stoker/admin.sock", "/run/stoker/lock", "/run/stoker/engines/chat-11", "/run/stoker/engines/chat-11/http.sock",
		"/run/stoker/keepers/chat-11", "/run/stoker/keepers/chat-11/keeper.sock",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestUsesSocket(t *testing.T) {
	for want, p := range map[bool]Pool{
		true:  {Env: map[string]string{"LISTEN": "unix:{socket}"}, Command: []string{"x"}},
		false: {Command: []string{"x", "{port}", "socket"}},
	} {
		if got := p.UsesSocket(); got != want {
			t.Errorf("%+v: got %v", p, got)
		}
	}
	if p := (Pool{Command: []string{"x", "--uds={socket}"}}); !p.UsesSocket() {
		t.Errorf("%+v: got false", p)
	}
}

func TestDefaultRunDir(t *testing.T) {
	cases := map[string]struct{ xdg, want string }{
		"session":  {"/run/user/7", "/run/user/7/stoker"},
		"relative": {"run", "/somewhere/stoker-7"},
		"none":     {"", "/somewhere/stoker-7"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", test.xdg)
			t.Setenv("TMPDIR", "/somewhere")
			if got := runDirOf(7); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if got := runDirOf(0); got != "/run/stoker" {
		t.Errorf("root: got %s", got)
	}
}

func TestStateDirGoesWithRunDir(t *testing.T) {
	const session = "/run/user/7"
	cases := []struct{ name, systemd, xdgState, home, runDir, want string }{
		{"root's", "", "", "/root", "/run/stoker", "/var/lib/stoker"},
		{"another of root's", "", "", "/root", "/run/stoker-b", "/var/lib/stoker-b"},
		{"a user's", "", "", "/home/u", session + "/stoker", "/home/u/.local/state/stoker"},
		{"a user's, elsewhere", "", "/data", "/home/u", session + "/a/b", "/data/a/b"},
		{"a user's without a home", "", "", "", session + "/stoker", session + "/stoker"},
		{"of the operator's choice", "", "/data", "/home/u", "/srv/stoker", "/srv/stoker"},
		{"/run itself", "", "", "", "/run", "/run"},
		{"systemd's", "/var/lib/x:/var/lib/y", "/data", "/home/u", "/srv/stoker", "/var/lib/x"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", session)
			t.Setenv("STATE_DIRECTORY", c.systemd)
			t.Setenv("XDG_STATE_HOME", c.xdgState)
			t.Setenv("HOME", c.home)
			if got := stateDirOf(c.runDir); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	t.Run("moved", func(t *testing.T) {
		t.Setenv("STATE_DIRECTORY", "")
		c := &Config{RunDir: "/run/a", StateDir: "/var/lib/a"}
		if c.MoveRunDir("/b"); c.RunDir != "/b" || c.StateDir != "/b" {
			t.Errorf("got %s, %s", c.RunDir, c.StateDir)
		}
		c.StateDir = "/said"
		if c.MoveRunDir("/c"); c.RunDir != "/c" || c.StateDir != "/said" {
			t.Errorf("got %s, %s", c.RunDir, c.StateDir)
		}
	})
}
