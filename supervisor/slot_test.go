package supervisor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"stoker/config"
)

// testSlot is the second worker of a pool "chat" below a directory of the test's.
func testSlot(t *testing.T, change func(*config.Pool)) *slot {
	t.Helper()
	c := config.Default()
	c.RunDir = t.TempDir()
	p := config.DefaultPool("chat")
	change(&p)
	s := newSlot(c, &p, 1)
	s.ports, s.environ = newPorts(), func() []string { return nil }
	return s
}

func TestPrepare(t *testing.T) {
	s := testSlot(t, func(p *config.Pool) {
		p.Command = []string{"engine", "--uds={socket}", `{"json":{}}`, "{name}-{index}", "{gpus}", "{port}"}
		p.Env = map[string]string{"WHERE": "{socket}!", "HOME": "/pool"}
		p.GPUsPerWorker = 2
	})
	s.gpus = []string{"4", "GPU-5"}
	s.environ = func() []string {
		return []string{
			"PATH=/bin", "HOME=/root", "NOTIFY_SOCKET=/run/n", "LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=x", "WATCHDOG_USEC=1",
			"TABLEFLIP_HAS_PARENT_7DIU3=yes", "INVOCATION_ID=1", "JOURNAL_STREAM=1:2", "STOKER_SOCKET=/outer", "STOKER_PORT=1",
			"CUDA_VISIBLE_DEVICES=0,1,2,3", "=odd", "NO_EQUALS",
		}
	}
	l, err := s.Prepare(3)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(s.port)
	wantArgv := []string{"engine", "--uds=" + s.socket, `{"json":{}}`, "chat-1-1", "4,GPU-5", port}
	if !slices.Equal(l.intent.Argv, wantArgv) {
		t.Errorf("argv %q, want %q", l.intent.Argv, wantArgv)
	}
	wantEnv := []string{
		"CUDA_VISIBLE_DEVICES=4,GPU-5", "HOME=/pool", "PATH=/bin", "STOKER_GPUS=4,GPU-5", "STOKER_INDEX=1", "STOKER_NAME=chat-1",
		"STOKER_PORT=" + port, "STOKER_SOCKET=" + s.socket, "WHERE=" + s.socket + "!",
	}
	if port == "0" {
		t.Error("{port} is used and there is none")
	}
	if !slices.Equal(l.intent.Env, wantEnv) {
		t.Errorf("env  %q\nwant %q", l.intent.Env, wantEnv)
	}
	if l.address != "unix:"+s.socket || l.intent.Label[labelAddress] != l.address || l.intent.Epoch != 3 {
		t.Errorf("launch %+v", l)
	}
	for _, dir := range []string{s.engineDir, s.keeperDir} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
}

func TestAddress(t *testing.T) {
	cases := []struct {
		command      []string
		env          map[string]string
		socket, port bool
	}{
		{[]string{"e"}, nil, false, true},
		{[]string{"e", "{port}"}, nil, false, true},
		{[]string{"e", "--uds", "{socket}"}, nil, true, false},
		{[]string{"sh", "-c", "exec e --uds $STOKER_SOCKET"}, nil, true, false},
		{[]string{"e"}, map[string]string{"BIND": "unix:{socket}"}, true, false},
	}
	for _, c := range cases {
		s := testSlot(t, func(p *config.Pool) { p.Command, p.Env = c.command, c.env })
		l, err := s.Prepare(1)
		if err != nil {
			t.Fatal(err)
		}
		if isSocket := strings.HasPrefix(l.address, "unix:"); isSocket != c.socket || (s.port != 0) != c.port {
			t.Errorf("%q %v: address %s, port %d", c.command, c.env, l.address, s.port)
		}
	}
}

// An engine whose port an outgoing connection took while it loaded was seen to
// die at bind; and what the last engine left must not answer for the new one.
func TestNewAddressForEachStart(t *testing.T) {
	s := testSlot(t, func(p *config.Pool) { p.Command = []string{"e", "{port}", "{socket}"} })
	if _, err := s.Prepare(1); err != nil {
		t.Fatal(err)
	}
	first := s.port
	if err := os.WriteFile(s.socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("the last engine's socket is still there")
	}
	if s.ports.taken[first] && s.port != first {
		t.Error("the first start's port is still reserved")
	}
	s.Vacate()
	if len(s.ports.taken) != 0 {
		t.Errorf("ports still reserved: %v", s.ports.taken)
	}
	s.Occupy("127.0.0.1:23456")
	if !s.ports.taken[23456] {
		t.Error("an adopted engine's port is not reserved")
	}
	s.Vacate()
	s.Occupy("unix:/x")
	if len(s.ports.taken) != 0 {
		t.Errorf("ports still reserved: %v", s.ports.taken)
	}
}

func TestFingerprint(t *testing.T) {
	base := func(p *config.Pool) {
		p.Command, p.Env = []string{"e", "{port}"}, map[string]string{"A": "1", "B": "2"}
	}
	same := testSlot(t, base).Fingerprint()
	if again := testSlot(t, base); again.Fingerprint() != same {
		t.Error("differs without a difference")
	}
	s := testSlot(t, base)
	if _, err := s.Prepare(9); err != nil {
		t.Fatal(err)
	}
	if s.Fingerprint() != same {
		t.Error("differs by the port")
	}
	for name, change := range map[string]func(*config.Pool){
		"command": func(p *config.Pool) { p.Command = append(p.Command, "x") },
		"env":     func(p *config.Pool) { p.Env = map[string]string{"A": "1", "B": "3"} },
		"dir":     func(p *config.Pool) { p.Dir = "/" },
		"user":    func(p *config.Pool) { p.User = "nobody" },
	} {
		if testSlot(t, func(p *config.Pool) { base(p); change(p) }).Fingerprint() == same {
			t.Errorf("does not see another %s", name)
		}
	}
}

func TestGoneCommandRuns(t *testing.T) {
	s := testSlot(t, func(p *config.Pool) {
		p.Command = []string{"e"}
		// Succeeds the second time.
		p.Stop.GoneCommand = []string{"sh", "-c", `test -e "$1" || { touch "$1"; echo 123 MiB used by {name}; exit 1; }`, "sh", "MARK"}
		p.Env = map[string]string{"PATH": os.Getenv("PATH")}
	})
	mark := filepath.Join(t.TempDir(), "mark")
	s.pool.Stop.GoneCommand[4] = mark
	if err := s.Gone(t.Context()); err != nil {
		t.Error(err)
	}
	s.pool.Stop.GoneCommand = []string{"sh", "-c", "echo 123 MiB used by {name}; sleep 60"}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := s.Gone(ctx)
	if err == nil || !strings.Contains(err.Error(), "123 MiB used by chat-1") || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

func TestPorts(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if canBind(l.Addr().(*net.TCPAddr).Port) {
		t.Error("a port in use counts as free")
	}
	asked := 0
	p := &ports{low: 10003, high: 65534, taken: map[int]bool{10001: true}, free: func(port int) bool { asked++; return port != 10000 }}
	got := map[int]bool{}
	for range 2 {
		port, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		got[port] = true
	}
	if !got[10002] || !got[65535] || asked > 6 {
		t.Errorf("took %v after %d questions; only 10002 and 65535 are free", got, asked)
	}
	if _, err := p.take(); err == nil {
		t.Error("took a third of two")
	}
	p.give(65535)
	if port, err := p.take(); port != 65535 {
		t.Errorf("%d, %v after one was given back", port, err)
	}
}

func TestAssignDevices(t *testing.T) {
	pool := func(name string, workers, each int, list ...string) config.Pool {
		p := config.DefaultPool(name)
		p.Command, p.Workers, p.GPUsPerWorker, p.GPUs = []string{"e"}, workers, each, list
		return p
	}
	cases := []struct {
		name    string
		pools   []config.Pool
		visible string
		want    string // of all workers in order, or part of the error
	}{
		{"all visible", []config.Pool{pool("a", 2, 2)}, "0,1,2,3", "a:0,1 a:2,3"},
		{"two pools share", []config.Pool{pool("a", 1, 1), pool("b", 1, 2)}, "5,6,7", "a:5 b:6,7"},
		{"a list of its own", []config.Pool{pool("a", 1, 1), pool("b", 1, 1, "0")}, "0,1", "a:1 b:0"},
		{"one device for two", []config.Pool{pool("a", 2, 1, "0", "0")}, "", "a:0 a:0"},
		{"none asked for", []config.Pool{pool("a", 4, 0)}, "", ""},
		{"too few", []config.Pool{pool("a", 2, 2)}, "0,1,2", "pool a: 2 workers with 2 GPUs each need 4, but left are 0,1,2 (according to a test)"},
		{"none", []config.Pool{pool("a", 1, 1)}, "", "but left are none"},
		{"list too short", []config.Pool{pool("a", 2, 1, "7")}, "0,1", "but left are 7 (according to pools.gpus)"},
	}
	for _, c := range cases {
		find := func() devices { return devices{splitDevices(c.visible, ","), "a test"} }
		assigned, err := assignDevices(c.pools, find)
		var got []string
		for _, p := range c.pools {
			for _, list := range assigned[p.Name] {
				got = append(got, p.Name+":"+strings.Join(list, ","))
			}
		}
		if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestNextEpoch(t *testing.T) {
	dir := t.TempDir()
	for want := uint64(1); want <= 3; want++ {
		if got, err := NextEpoch(dir); got != want || err != nil {
			t.Errorf("%d, %v; want %d", got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "epoch"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := NextEpoch(dir); err == nil {
		t.Errorf("%d from rubbish", got)
	}
}

// What a disk without room is written to has the same numbers in it.
func TestOverwriteEpoch(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, epochFile)
	if err := os.WriteFile(path, epochText(8), 0o600); err != nil {
		t.Fatal(err)
	}
	for want := uint64(9); want <= 11; want++ {
		if got, err := overwriteEpoch(path); got != want || err != nil {
			t.Errorf("%d, %v; want %d", got, err, want)
		}
	}
	if got, err := NextEpoch(dir); got != 12 || err != nil {
		t.Errorf("then %d, %v", got, err)
	}
}

func TestClaimedEpoch(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		c, err := ClaimEpoch(dir)
		if err != nil {
			t.Fatal(err)
		}
		c.Drop()
	}
	c, err := ClaimEpoch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := readEpoch(filepath.Join(dir, epochFile)); last != 0 || err != nil {
		t.Errorf("claimed, and the last one is %d, %v", last, err)
	}
	if got, err := c.Take(); got != 1 || err != nil {
		t.Errorf("%d, %v; want 1", got, err)
	}
	if got, err := NextEpoch(dir); got != 2 || err != nil {
		t.Errorf("then %d, %v", got, err)
	}
}

func TestUnknownUser(t *testing.T) {
	if _, err := lookUpAccount("no-such-user-here"); err == nil {
		t.Error("found")
	}
	if a, err := lookUpAccount(strconv.Itoa(os.Geteuid())); a != nil || err != nil {
		t.Errorf("oneself: %v, %v", a, err)
	}
}
